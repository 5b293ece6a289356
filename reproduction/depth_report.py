"""Tables 5 and 6: which share of the tokens is kept after each layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from reproduction.data_provenance import backbone_note, rows_note
from reproduction.paper import ADAPTIVE, BUDGETS, KEPT_BY_LAYER, SOURCE, benchmark_of
from reproduction.runs import NOT_RUN, Cells, Column, Record, Row, columns_of, rows_of
from reproduction.tables import Report, Section

TASKS = {5: "sst2", 6: "arxiv"}


def depth_report(cells: Cells, number: int) -> Report:
    """Table 5 (SST-2) or Table 6 (ArXiv): one section per column of runs."""
    task = TASKS[number]
    benchmark = benchmark_of(task)
    title = task if benchmark is None else benchmark.title
    columns = columns_of(cells, task)
    depth = max([len(shares) for shares in KEPT_BY_LAYER[task].values()] + [_layers(cells, c) for c in columns])
    sections = [_section(cells, task, column, depth) for column in columns] or [
        Section(NOT_RUN, _header(depth), tuple(_rows(cells, task, None, depth)))
    ]
    return Report(
        name=f"table{number}",
        title=f"Table {number}: tokens kept after each layer, {title}",
        legend=(
            f"Paper: {SOURCE}. Per cent of a sample's real tokens, layers counted from 1; ours are means over seeds.",
            "The last layer has no gate: what it returns has been through all layers.",
            "The paper's own shares do not average the budget in their heading, see the column 'mean'.",
        ),
        sections=tuple(sections),
    )


def kept_by_layer(records: Sequence[Record]) -> Mapping[int, float]:
    """Layer, counted from 0 -> share kept after it, mean over records that measured it."""
    found: dict[int, list[float]] = {}
    for record in records:
        for layer, share in (record["keep_ratio"].get("by_layer") or {}).items():
            if share is not None:
                found.setdefault(int(layer), []).append(float(share))
    return {layer: fmean(found[layer]) for layer in sorted(found)}


def _section(cells: Cells, task: str, column: Column, depth: int) -> Section:
    benchmark = benchmark_of(task)
    notes = [rows_note(column), *([] if benchmark is None else [backbone_note(column, benchmark)])]
    return Section(column.backbone, _header(depth), tuple(_rows(cells, task, column, depth)), tuple(notes))


def _header(depth: int) -> tuple[str, ...]:
    return ("", "rho", "seeds", "mean", *(f"layer {layer}" for layer in range(1, depth + 1)))


def _rows(cells: Cells, task: str, column: Column | None, depth: int) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for rho in BUDGETS:
        paper = KEPT_BY_LAYER[task][rho]
        rows.append(("paper", f"{rho:g}", "-", f"{fmean(paper):.1f}", *_cells(dict(enumerate(paper)), depth)))
        found = [] if column is None else rows_of(cells, column, ADAPTIVE.policy, rho)
        if column is None or not found:
            rows.append(("ours", f"{rho:g}", NOT_RUN, *["-"] * (depth + 1)))
            continue
        for row in found:
            rows += _own(cells[row, column], row, paper, depth)
    return rows


def _own(records: Sequence[Record], row: Row, paper: Sequence[float], depth: int) -> list[tuple[str, ...]]:
    variant = f" ({row.variant})" if row.variant else ""
    shares = {layer: 100.0 * share for layer, share in kept_by_layer(records).items()}
    if not shares:
        return [(f"ours{variant}", f"{row.rho:g}", str(len(records)), *["not measured"] * (depth + 1))]
    mean = fmean(shares.values())
    gaps = {layer: shares[layer] - paper[layer] for layer in shares if layer < len(paper)}
    told = [f"{gaps[layer]:+.1f}" if layer in gaps else "-" for layer in range(depth)]
    return [
        (f"ours{variant}", f"{row.rho:g}", str(len(records)), f"{mean:.1f}", *_cells(shares, depth)),
        (f"ours{variant} - paper", f"{row.rho:g}", "-", f"{mean - fmean(paper):+.1f}", *told),
    ]


def _cells(shares: Mapping[int, float], depth: int) -> list[str]:
    return [f"{shares[layer]:.1f}" if layer in shares else "-" for layer in range(depth)]


def _layers(cells: Cells, column: Column) -> int:
    found = [kept_by_layer(cells[row, column]) for row in rows_of(cells, column, ADAPTIVE.policy)]
    return max((layer + 1 for shares in found for layer in shares), default=0)
