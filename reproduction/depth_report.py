"""Build Tables 5 and 6: keep ratio after each layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from reproduction.data_provenance import backbone_note, data_note
from reproduction.paper import ADAPTIVE, BENCHMARKS, BUDGETS, PAPER_KEEP_RATIOS, SOURCE
from reproduction.tables import Report, Table
from retention.report.grouping import NOT_RUN, EvaluationSetup, Record, RunGroup, Runs

TASKS = {5: "sst2", 6: "arxiv"}


def depth_report(runs: Runs, number: int) -> Report:
    """Build Table 5 (SST-2) or Table 6 (ArXiv): one table per setup."""
    task = TASKS[number]
    benchmark = next(benchmark for benchmark in BENCHMARKS if benchmark.task == task)
    groups = [group for setup in runs.setups(task) for group in runs.groups(setup, ADAPTIVE.policy)]
    ours = (layer + 1 for group in groups for layer in keep_ratio_by_layer(group.records))
    depth = max([*(len(ratios) for ratios in PAPER_KEEP_RATIOS[task].values()), *ours])
    header = ("", "rho", "seeds", "mean", *(f"layer {layer}" for layer in range(1, depth + 1)))
    tables = [
        Table(
            setup.backbone,
            header,
            _rows(runs, task, setup, depth),
            (data_note(setup), backbone_note(setup, benchmark)),
        )
        for setup in runs.setups(task)
    ]
    return Report(
        name=f"table{number}",
        title=f"Table {number}: tokens kept after each layer, {benchmark.title}",
        legend=(
            f"Paper: {SOURCE}. Per cent of a sample's real tokens, layers counted from 1; ours are means over seeds. "
            "The last layer has no gate: its output has passed all layers. The paper's own ratios do not average to "
            "the keep ratio in its heading, see the column 'mean'."
        ),
        tables=tables or [Table(NOT_RUN, header, _rows(runs, task, None, depth))],
    )


def keep_ratio_by_layer(records: Sequence[Record]) -> dict[int, float]:
    """Return the keep ratio after each layer, counted from 0: the mean over records that measured it."""
    ratios: dict[int, list[float]] = {}
    for record in records:
        for layer, ratio in (record["keep_ratio"].get("by_layer") or {}).items():
            if ratio is not None:
                ratios.setdefault(int(layer), []).append(float(ratio))
    return {layer: fmean(ratios[layer]) for layer in sorted(ratios)}


def _rows(runs: Runs, task: str, setup: EvaluationSetup | None, depth: int) -> list[list[str]]:
    rows: list[list[str]] = []
    for rho in BUDGETS:
        paper = PAPER_KEEP_RATIOS[task][rho]
        rows.append(["paper", f"{rho:g}", "-", f"{fmean(paper):.1f}", *_cells(dict(enumerate(paper)), depth)])
        groups = [] if setup is None else runs.groups(setup, ADAPTIVE.policy, rho)
        for group in groups:
            rows += _our_rows(group, paper, depth)
        if not groups:
            rows.append(["ours", f"{rho:g}", NOT_RUN, *["-"] * (depth + 1)])
    return rows


def _our_rows(group: RunGroup, paper: Sequence[float], depth: int) -> list[list[str]]:
    label, rho = f"ours ({group.variant})" if group.variant else "ours", f"{group.rho:g}"
    seeds = str(len(group.records))
    ratios = {layer: 100.0 * ratio for layer, ratio in keep_ratio_by_layer(group.records).items()}
    if not ratios:
        return [[label, rho, seeds, *["not measured"] * (depth + 1)]]
    mean = fmean(ratios.values())
    gaps = {layer: ratios[layer] - paper[layer] for layer in ratios if layer < len(paper)}
    return [
        [label, rho, seeds, f"{mean:.1f}", *_cells(ratios, depth)],
        [f"{label} - paper", rho, "-", f"{mean - fmean(paper):+.1f}", *_cells(gaps, depth, "+")],
    ]


def _cells(values: Mapping[int, float], depth: int, sign: str = "") -> list[str]:
    return [f"{values[layer]:{sign}.1f}" if layer in values else "-" for layer in range(depth)]
