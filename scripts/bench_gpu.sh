#!/usr/bin/env bash
# Speed and memory on a GPU: random weights (no download), inference and training step, all in bfloat16.
#
#   scripts/bench_gpu.sh             every shape and length; one to three hours on a data-centre GPU
#   SMALL=1 scripts/bench_gpu.sh     the same commands on the CPU with tiny sizes: shows that the script works
#
# SHAPES, LENGTHS, RHOS and PHASES narrow it down: SHAPES="bert longformer" LENGTHS="2048 8192" scripts/bench_gpu.sh
# TOKENS is how many tokens a training batch holds (default: by the memory of the GPU); an inference batch holds four
# times as many. Cases that fail are listed at the end, the others are measured.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PYTHON=${PYTHON:-.venv/bin/python}
SMALL=${SMALL:-0}
SHAPES=${SHAPES:-distilbert bert longformer modernbert}
PHASES=${PHASES:-inference train}
if [ "$SMALL" = 1 ]; then
    DEVICE=cpu LENGTHS=${LENGTHS:-64} RHOS=${RHOS:-0.3} TOKENS=${TOKENS:-128}
    RECORD=${RECORD:-outputs/speed/gpu_small.jsonl} FIGURES=${FIGURES:-outputs/speed/gpu_small}
    HOW="--rounds 2 --warmup 1"
else
    DEVICE=cuda LENGTHS=${LENGTHS:-512 1024 2048 4096 8192} RHOS=${RHOS:-0.5 0.3 0.1} TOKENS=${TOKENS:-}
    RECORD=${RECORD:-results/speed/gpu.jsonl} FIGURES=${FIGURES:-outputs/speed/gpu}
    HOW="--rounds 10 --warmup 3"
fi

if [ "$DEVICE" = cuda ] && ! "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "bench_gpu.sh: PyTorch sees no CUDA device; install a CUDA build of torch, or prove the script with SMALL=1" >&2
    exit 2
fi
if [ -z "$TOKENS" ]; then # 512 per GiB, down to a power of two: a step of 12 layers of width 768 keeps about 0.7 MiB per token
    TOKENS=$("$PYTHON" -c 'import torch
gib = torch.cuda.get_device_properties(0).total_memory / 2**30
print(2 ** int(gib * 512).bit_length() // 2)')
fi

# Attention dropout is 0: packed and fused kernels lack it, and every variant gets the same model.
settings_of() {
    case $1 in
        distilbert) echo "backbone.fields.attention_dropout=0" ;;
        bert | longformer) echo "backbone.fields.attention_probs_dropout_prob=0" ;;
        modernbert) echo "backbone.fields.attention_dropout=0" ;;
        *) echo "bench_gpu.sh: SHAPES: unknown shape $1; distilbert, bert, longformer or modernbert" >&2; return 1 ;;
    esac
    [ "$SMALL" = 1 ] || return 0
    case $1 in
        distilbert) echo "backbone.fields.dim=48 backbone.fields.n_layers=2 backbone.fields.hidden_dim=64" ;;
        longformer) echo "backbone.fields.attention_window=16" ;&
        *) echo "backbone.fields.hidden_size=48 backbone.fields.num_hidden_layers=2 backbone.fields.intermediate_size=64" ;;
    esac
}

FAILED=()
for shape in $SHAPES; do
    settings=$(settings_of "$shape")
    prune_points="after_layer after_attention"
    [ "$SMALL" = 1 ] && prune_points=after_attention
    [ "$shape" = modernbert ] && prune_points=after_layer
    for phase in $PHASES; do
        extras="--compile --memory"
        if [ "$SMALL" = 1 ]; then # both take long on a CPU and show nothing new after the first time
            case "$shape $phase" in
                "distilbert inference") extras=--compile ;;
                "bert train") extras=--memory ;;
                *) extras="" ;;
            esac
        fi
        for length in $LENGTHS; do
            tokens=$TOKENS
            [ "$phase" = inference ] && tokens=$((4 * TOKENS))
            batch=$((tokens / length > 0 ? tokens / length : 1))
            echo "== $shape, $phase, $length tokens, batch $batch" >&2
            # shellcheck disable=SC2086 # lists are meant to be split
            "$PYTHON" -m retention.cli bench --shape "$shape" --phase "$phase" --device "$DEVICE" --dtype bfloat16 \
                --policy adaptive --rho $RHOS --prune-at $prune_points --length "$length" --batch "$batch" \
                --batches 1 $HOW $extras --record "$RECORD" --set $settings || FAILED+=("$shape $phase $length")
        done
    done
done

"$PYTHON" -m retention.cli bench-plots "$RECORD" --out "$FIGURES"
if [ ${#FAILED[@]} -gt 0 ]; then
    printf 'bench_gpu.sh: not measured: %s\n' "${FAILED[@]}" >&2
    exit 1
fi
echo "records: $RECORD, figures: $FIGURES" >&2
