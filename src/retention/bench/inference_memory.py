"""Measure the memory of activations at inference, by layer, with and without a gate before layer 0.

Weights are random: which tokens are removed makes no difference to the memory, only how many. The sum of live tensors
is exact and does not depend on the allocator; weights, inputs and the memory inside single kernels do not count.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import nn

from retention.bench.forwards import DenseForward, PrunedForward
from retention.bench.inputs import Batch, synthetic_batches
from retention.bench.live_memory import LiveMemory, measure_live_memory
from retention.bench.settings import SHAPES, VOCABULARY
from retention.core.flops import EncoderShape
from retention.engine import adapter_for
from retention.errors import RetentionError
from retention.models.backbone import ScratchBackbone
from retention.policies import Adaptive
from retention.records import InferenceMemory, append_record, build_record

_RECORDS = Path("results/speed/inference_memory.jsonl")


def measure_encoder(
    encoder: nn.Module,
    shape: EncoderShape,
    batch: Batch,
    *,
    rhos: Sequence[float],
    schedules: Sequence[str],
    prune_points: Sequence[str],
) -> tuple[LiveMemory, list[dict[str, Any]]]:
    """Measure the dense encoder, and adaptive retention with all combinations of the settings.

    Args:
        encoder: encoder in evaluation mode.
        shape: its dimensions.
        batch: ``input_ids``, ``attention_mask``, ``protected_mask`` [B, T].
        rhos: target keep ratios.
        schedules: names of schedules.
        prune_points: ``after_layer``, ``after_attention``.

    Returns:
        Memory of the dense encoder, and one entry per combination: ``rho``, ``schedule``, ``prune_at``,
        ``gate_before_layer_0``, ``keep_ratios`` of the gates, ``embeddings_mib``, ``by_layer``, ``peak_mib``, and
        ``change``, the peak relative to the dense one minus 1.
    """
    layers = list(adapter_for(encoder.config.model_type).layers(encoder))  # type: ignore[union-attr, arg-type]
    weights = [*encoder.parameters(), *encoder.buffers(), *batch.values()]
    forward = DenseForward(encoder)
    dense = measure_live_memory(lambda: forward(batch), layers, weights)
    entries: list[dict[str, Any]] = []
    for rho, schedule, prune_at, before in product(rhos, schedules, prune_points, (False, True)):
        gates = range(-1 if before else 0, shape.num_layers - 1)
        policy = Adaptive(rho=rho, schedule=schedule, layers=list(gates)).eval()
        policy.build(shape)
        pruned = PrunedForward(encoder, policy, policy.layers, prune_at)
        memory = measure_live_memory(lambda run=pruned: run(batch), layers, [*weights, *policy.parameters()])  # type: ignore[misc]
        entries.append(
            {
                "rho": rho,
                "schedule": schedule,
                "prune_at": prune_at,
                "gate_before_layer_0": before,
                "keep_ratios": policy.budget.keep_ratios().tolist(),
                "embeddings_mib": memory.embeddings_mib,
                "by_layer": list(memory.by_layer),
                "peak_mib": memory.peak_mib,
                "change": memory.peak_mib / dense.peak_mib - 1.0,
            }
        )
    return dense, entries


def format_table(dense: LiveMemory, entries: Sequence[dict[str, Any]]) -> str:
    """Format the measurements as aligned text, MiB per layer."""
    lines = ["rho   schedule  pruning          gate before 0   peak MiB   change   embeddings, layers"]
    rows: list[tuple[str, LiveMemory | dict[str, Any]]] = [("dense" + " " * 40, dense)]
    for entry in entries:
        before = "yes" if entry["gate_before_layer_0"] else "no"
        rows.append((f"{entry['rho']:<5} {entry['schedule']:9} {entry['prune_at']:16} {before:13}", entry))
    for label, values in rows:
        fields = values if isinstance(values, dict) else {**vars(values), "peak_mib": values.peak_mib, "change": 0.0}
        by_layer = " ".join(f"{size:6.1f}" for size in (fields["embeddings_mib"], *fields["by_layer"]))
        lines.append(f"{label:46} {fields['peak_mib']:9.1f} {100 * fields['change']:+7.1f} %   {by_layer}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table, append a record and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="retention bench-memory", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", default="distilbert", choices=sorted(SHAPES), help="of the encoder")
    parser.add_argument("--length", type=int, default=512, help="tokens per sequence (default: 512)")
    parser.add_argument("--batch", type=int, default=4, help="sequences; all figures are in proportion (default: 4)")
    parser.add_argument("--rho", nargs="+", type=float, default=[0.5, 0.3], help="keep ratios (default: 0.5 0.3)")
    parser.add_argument("--schedule", nargs="+", default=["linear", "flat"], choices=["linear", "flat"])
    points = ("after_layer", "after_attention")
    parser.add_argument("--prune-at", nargs="+", default=list(points), choices=points, help="default: both")
    parser.add_argument("--attention", default="sdpa", choices=("sdpa", "eager"), help="default: sdpa")
    parser.add_argument("--record", type=Path, default=_RECORDS, help="JSON Lines file to append to")
    arguments = list(sys.argv[1:] if argv is None else argv)
    options = parser.parse_args(arguments)
    if min(options.length, options.batch) < 1:
        parser.error(f"--length and --batch: must be at least 1, got {options.length} and {options.batch}")
    started = time.perf_counter()
    torch.manual_seed(0)
    backbone = ScratchBackbone(name=options.shape, attn_implementation=options.attention, **SHAPES[options.shape])
    try:
        encoder = backbone.encoder(VOCABULARY).eval()
        [batch] = synthetic_batches(options.length, options.batch, 1, VOCABULARY, 0)
        settings = {"rhos": options.rho, "schedules": options.schedule, "prune_points": options.prune_at}
        dense, entries = measure_encoder(encoder, backbone.shape(), batch, **settings)
    except RetentionError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    print(format_table(dense, entries))
    result = InferenceMemory(
        backbone=f"{options.shape}-random",
        attention=options.attention,
        batch=options.batch,
        length=options.length,
        dense={"embeddings_mib": dense.embeddings_mib, "by_layer": dense.by_layer, "peak_mib": dense.peak_mib},
        pruned=entries,
    )
    config = {key: value for key, value in vars(options).items() if key != "record"}
    wall_s = time.perf_counter() - started
    record = build_record(result, config=config, seed=0, wall_s=wall_s, argv=["retention", "bench-memory", *arguments])
    append_record(options.record, record)
    print(f"record appended to {os.path.relpath(options.record)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
