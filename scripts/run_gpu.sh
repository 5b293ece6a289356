#!/usr/bin/env bash
# The full recipes of all six benchmarks on one GPU: dense, adaptive at 0.5 and 0.3, random and truncate at 0.3, three
# seeds each, in two stages (reproduction/series.py). Records are appended to results/quality/<recipe>.jsonl; what has a
# record is not run again, so the script goes on where it stopped. Then all tables and figures are made.
#
#   scripts/run_gpu.sh                           data and weights from the hub
#   DATA=<folder> scripts/run_gpu.sh             local data where <folder>/<benchmark> exists
#   RECIPES="sst2_paper imdb_paper" SEEDS="0" SERIES="dense adaptive:0.3" scripts/run_gpu.sh
#   SETTINGS="trainer.precision=32-true" scripts/run_gpu.sh      further settings of run.py (default: bf16-mixed)
#   SMALL=1 scripts/run_gpu.sh                   proves the script: the built-in task, one seed, on the CPU
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python}
if [[ -n "${SMALL:-}" ]]; then
  recipes=(keywords_quick) seeds=(0) series=(dense adaptive:0.3) settings=(trainer.accelerator=cpu)
  records="$(mktemp -d)" # nothing of a trial is kept beside real records
else
  read -ra recipes <<<"${RECIPES:-sst2_paper imdb_paper cuad_paper arxiv_paper qasper_paper pubmed_paper}"
  read -ra seeds <<<"${SEEDS:-0 1 2}"
  read -ra series <<<"${SERIES:-dense adaptive:0.5 adaptive:0.3 random:0.3 truncate:0.3}"
  read -ra settings <<<"${SETTINGS:-trainer.precision=bf16-mixed}"
  records=results/quality
fi

failed=()
for recipe in "${recipes[@]}"; do
  folder="${DATA:-}/${recipe%_paper}"
  local_data=()
  if [[ -n "${DATA:-}" && -d "$folder" ]]; then local_data=("data.dir=$folder"); fi
  echo "== $recipe"
  "$python" -m reproduction.series "$recipe" "${settings[@]}" "${local_data[@]}" \
    --record "$records/$recipe.jsonl" --series "${series[@]}" --seeds "${seeds[@]}" || failed+=("$recipe")
done

if [[ -n "${SMALL:-}" ]]; then
  "$python" -m reproduction leaderboard --records "$records"/*.jsonl --out "$records"
else
  "$python" -m reproduction tables figures claims
fi
if ((${#failed[@]})); then
  echo "not everything ran: ${failed[*]}; the same command goes on where it stopped" >&2
  exit 1
fi
