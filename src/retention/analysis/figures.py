"""Figure 2, and what the paper lacks: quality against FLOPs and against measured speed, kept tokens by depth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from matplotlib.axes import Axes

from retention.analysis.depth_report import kept_by_layer
from retention.analysis.drawing import GREY, mark, panels_figure, save_figure
from retention.analysis.knobs import Study, studies
from retention.analysis.paper import ADAPTIVE, BENCHMARKS, KNOBS, Benchmark
from retention.analysis.rows import Rows, kind_of_rows
from retention.analysis.runs import (
    DENSE,
    NOT_RUN,
    Cells,
    Column,
    Record,
    Row,
    best_dense,
    columns_of,
    mean_known,
    points,
    rows_of,
)
from retention.analysis.sources import Evidence
from retention.analysis.speeds import measured

Place = tuple[float, float, float]  # x, mean score, spread over seeds


@dataclass(frozen=True)
class Cloud:
    """Scores of all policies on one column of runs against something; the dense model stands apart."""

    column: Column
    label: str
    dense: float | None
    curves: Mapping[str, Sequence[Place]]


def draw_figures(evidence: Evidence, folder: Path) -> list[Path]:
    """Every figure that has something to show, Figure 2 always; returns the files."""
    files = draw_figure2(evidence, folder)
    wanted = [
        ("quality_by_flops", draw_cloud, list(flops_clouds(evidence.runs))),
        ("quality_by_speed", draw_cloud, list(speed_clouds(evidence))),
    ]
    for name, draw, clouds in wanted:
        if clouds:
            figure = panels_figure(draw, clouds, [_title(cloud.column) for cloud in clouds])
            files += save_figure(figure, folder / name)
    deep = [column for column in columns_of(evidence.runs) if _depths(evidence.runs, column)]
    if deep:
        figure = panels_figure(
            lambda axes, column: draw_depth(axes, _depths(evidence.runs, column)), deep, list(map(_title, deep))
        )
        files += save_figure(figure, folder / "kept_by_depth")
    return files


def draw_figure2(evidence: Evidence, folder: Path) -> list[Path]:
    """Six panels, three curves each, defaults starred; a panel without runs says so."""
    found = studies(evidence.records)
    panels: list[tuple[Benchmark, Study | None]] = []
    for benchmark in BENCHMARKS:
        own = [study for study in found if study.column.task == benchmark.task]
        panels.append((benchmark, max(own, key=_size) if own else None))
    titles = [benchmark.title + ("" if study is None else f", {_where(study)}") for benchmark, study in panels]
    return save_figure(panels_figure(_draw_study, panels, titles), folder / "figure2")


def flops_clouds(cells: Cells) -> Iterator[Cloud]:
    """Quality against the achieved share of FLOPs."""
    for column in columns_of(cells):
        curves = {
            policy: [
                (100.0 * share, *_score(cells[row, column]))
                for row in rows
                if (share := mean_known(record["flops_share"] for record in cells[row, column])) is not None
            ]
            for policy, rows in _by_policy(cells, column).items()
        }
        yield Cloud(column, "FLOPs, % of dense", _dense(cells, column), curves)


def speed_clouds(evidence: Evidence) -> Iterator[Cloud]:
    """Quality against the measured speed-up, where both were recorded with the same settings."""
    cells = evidence.runs
    for column in columns_of(cells):
        curves: dict[str, list[Place]] = {}
        for policy, rows in _by_policy(cells, column).items():
            for row in rows:
                for speed in measured(evidence.speeds, cells[row, column][0], column)[-1:]:
                    turn = float(speed["speedup"]["median"])
                    curves.setdefault(policy, []).append((turn, *_score(cells[row, column])))
        if curves:
            yield Cloud(column, "measured speed-up over the fastest dense", _dense(cells, column), curves)


def draw_cloud(axes: Axes, cloud: Cloud) -> None:
    """One curve per policy, from many tokens to few; bars are standard deviations over seeds."""
    for number, (policy, places) in enumerate(sorted(cloud.curves.items(), key=lambda item: item[0] != "adaptive")):
        xs, means, spreads = zip(*sorted(places), strict=True)
        line = "-" if number < 6 else ":"
        axes.errorbar(xs, means, yerr=spreads, linestyle=line, capsize=2.0, label=policy, **mark(number))
    if cloud.dense is not None:
        axes.axhline(cloud.dense, color=GREY, linewidth=0.8)
        axes.annotate(
            "dense", (1.0, cloud.dense), xycoords=("axes fraction", "data"), ha="right", va="bottom", color=GREY
        )
    axes.margins(x=0.15)
    axes.set_xlabel(cloud.label)
    axes.set_ylabel(f"{cloud.column.monitor}, points")


def draw_depth(axes: Axes, shares: Mapping[float, Mapping[int, float]]) -> None:
    """Share of the tokens that go on after each layer, one curve per budget."""
    for number, (rho, by_layer) in enumerate(shares.items()):
        steps = [0, *(layer + 1 for layer in by_layer)]
        axes.step(
            steps,
            [100.0, *(100.0 * share for share in by_layer.values())],
            where="post",
            label=f"rho {rho:g}",
            **mark(number),
        )
    axes.set_ylim(bottom=0.0)
    axes.set_xlabel("layers that have run")
    axes.set_ylabel("live tokens, % of the text")


def _draw_study(axes: Axes, panel: tuple[Benchmark, Study | None]) -> None:
    _, study = panel
    if study is None:
        axes.text(0.5, 0.5, NOT_RUN, ha="center", va="center", transform=axes.transAxes, color=GREY)
        axes.set_xticks([])
        axes.set_yticks([])
        return
    for number, (knob, curve) in enumerate(study.curves.items()):
        style: dict[str, Any] = mark(number)
        scores = {value: points(runs) for value, runs in curve.items() if points(runs)}
        axes.plot(list(scores), [fmean(values) for values in scores.values()], label=knob, **style)
        if KNOBS[knob] in scores:
            axes.plot([KNOBS[knob]], [fmean(scores[KNOBS[knob]])], marker="*", markersize=14, color=style["color"])
    axes.set_xlabel("value of the knob (star: default)")
    axes.set_ylabel(f"{study.column.monitor}, points")


def _size(study: Study) -> int:
    return sum(len(runs) for curve in study.curves.values() for runs in curve.values())


def _where(study: Study) -> str:
    return f"{study.column.backbone}, rho {study.rho:g}{_stand_in(study.column)}"


def _title(column: Column) -> str:
    return f"{column.task}, {column.backbone}, {column.train} training rows{_stand_in(column)}"


def _stand_in(column: Column) -> str:
    return ", STAND-IN" if kind_of_rows(column) is Rows.OTHER else ""


def _by_policy(cells: Cells, column: Column) -> dict[str, list[Row]]:
    """Rows of every policy but the dense model; settings that differ make curves of their own."""
    found: dict[str, list[Row]] = {}
    for row in rows_of(cells, column):
        if row.policy != DENSE and points(cells[row, column]):
            found.setdefault(row.label(), []).append(row)
    return found


def _score(records: Sequence[Record]) -> tuple[float, float]:
    values = points(records)
    return fmean(values), stdev(values) if len(values) > 1 else 0.0


def _dense(cells: Cells, column: Column) -> float | None:
    row = best_dense(cells, column)
    return None if row is None else fmean(points(cells[row, column]))


def _depths(cells: Cells, column: Column) -> dict[float, Mapping[int, float]]:
    """Asked share -> layer -> kept share, of the method."""
    rows = rows_of(cells, column, ADAPTIVE.policy)
    return {row.rho: shares for row in rows if (shares := kept_by_layer(cells[row, column]))}
