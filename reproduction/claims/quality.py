"""Claims on quality: beside dense, beside random, and beside the ablations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from reproduction.claims.claim import Claim, Finding, Verdict, at_least
from reproduction.comparison import Relation, interval, relate
from reproduction.data_provenance import Rows, kind_of_rows, rows_note
from reproduction.depth_report import kept_by_layer
from reproduction.paper import ABLATIONS, ADAPTIVE, BENCHMARKS, BUDGETS, KEPT_BY_LAYER, SEEDS, Benchmark, reported
from reproduction.quality_report import headline
from reproduction.runs import Cells, Column, Record, Row, best_dense, columns_of, percent, rows_of
from reproduction.sources import Evidence
from retention.records.identity import training
from retention.report.intervals import Estimate

LEAST_SHARE = 0.95  # of dense, abstract
KEPT_TOLERANCE = 0.02  # of the budget: whole tokens of short sentences cannot meet it exactly


def quality_claims() -> list[Claim]:
    """Tables 1-3, 5 and 6, per benchmark, metric and budget."""
    return [*_share_claims(), *_random_claims(), *_ablation_claims(), *_kept_claims()]


def _share_claims() -> Iterator[Claim]:
    for benchmark, metric, rho in _grid():
        text = f"{benchmark.title} {metric} at {100 * rho:.0f} %: at least {100 * LEAST_SHARE:.0f} % of the dense model"
        check = partial(_share_of_dense, benchmark=benchmark, metric=benchmark.metrics[metric], rho=rho)
        yield Claim("Quality beside the dense model", text, f"abstract, Table {_table(rho)}", check)


def _random_claims() -> Iterator[Claim]:
    for benchmark, metric, rho in _grid():
        own, other = (reported(title, rho, benchmark.task, metric) for title in (ADAPTIVE.title, "Random pruning"))
        text = f"{benchmark.title} {metric} at {100 * rho:.0f} %: ahead of random pruning{_gap(own, other)}"
        check = partial(_ahead, benchmark=benchmark, metric=benchmark.metrics[metric], rho=rho, policy="random")
        yield Claim("Quality beside random pruning", text, f"Table {_table(rho)}", check)


def _ablation_claims() -> Iterator[Claim]:
    for ablation in ABLATIONS:
        for benchmark, metric, rho in _grid():
            own, other = (reported(title, rho, benchmark.task, metric) for title in (ADAPTIVE.title, ablation.title))
            behind = own is not None and other is not None and own > other
            word = "ahead of" if behind else "behind"
            text = (
                f"{benchmark.title} {metric} at {100 * rho:.0f} %: the full method is {word} "
                f"{ablation.title}{_gap(own, other)}"
            )
            check = partial(
                _ahead,
                benchmark=benchmark,
                metric=benchmark.metrics[metric],
                rho=rho,
                policy=ablation.policy,
                sign=1 if behind else -1,
                alike=True,
            )
            yield Claim(f"Ablation: {ablation.title}", text, "Table 3", check)


def _kept_claims() -> Iterator[Claim]:
    for task, table in (("sst2", 5), ("arxiv", 6)):
        title = next(benchmark.title for benchmark in BENCHMARKS if benchmark.task == task)
        for rho in BUDGETS:
            paper = KEPT_BY_LAYER[task][rho]
            text = (
                f"{title} at {100 * rho:.0f} %: the kept shares by layer meet the stated budget "
                f"(the paper's own average {sum(paper) / len(paper):.1f} %)"
            )
            yield Claim("Kept shares by layer", text, f"Table {table}", partial(_meets_budget, task=task, rho=rho))


def _share_of_dense(evidence: Evidence, *, benchmark: Benchmark, metric: str, rho: float) -> Iterator[Finding]:
    cells = evidence.runs
    for column, row in _own_rows(cells, benchmark.task, rho):
        dense = best_dense(cells, column, metric, beside=row)
        if dense is None:
            continue
        own, base = cells[row, column], cells[dense, column]
        relation = relate(own, base, metric)
        if relation is not None:
            share = relation.share
            measured = f"{100 * share.mean:.1f} % of dense{_range(share, 100.0, '')}, {_seeds(share)}"
            yield _finding(column, row, at_least(share, LEAST_SHARE), share, measured, [*own, *base])


def _ahead(
    evidence: Evidence,
    *,
    benchmark: Benchmark,
    metric: str,
    rho: float,
    policy: str,
    sign: int = 1,
    alike: bool = False,
) -> Iterator[Finding]:
    """The full method against another policy.

    Args:
        sign: -1 where the paper has the other ahead.
        alike: only with runs that were trained in the same way, as an ablation must be.
    """
    cells = evidence.runs
    for column, row in _own_rows(cells, benchmark.task, rho):
        others = rows_of(cells, column, policy, rho)
        if alike:
            others = [other for other in others if _training(cells, column, other) == _training(cells, column, row)]
        other = headline(cells, column, others)
        if other is None:
            continue
        own, base = cells[row, column], cells[other, column]
        relation = relate(own, base, metric)
        if relation is not None:
            verdict = at_least(_turned(relation, sign), 0.0)
            difference = relation.difference
            measured = f"{difference.mean:+.1f} points{_range(difference, 1.0, '+')}, {_seeds(difference)}"
            yield _finding(column, row, verdict, difference, measured, [*own, *base])


def _meets_budget(evidence: Evidence, *, task: str, rho: float) -> Iterator[Finding]:
    cells = evidence.runs
    for column, row in _own_rows(cells, task, rho):
        shares = kept_by_layer(cells[row, column])
        means = [record["keep_ratio"].get("mean") for record in cells[row, column]]
        if not shares or None in means:
            continue
        met = all(abs(mean - rho) <= KEPT_TOLERANCE for mean in means)
        listed = " ".join(f"{100 * share:.1f}" for share in shares.values())
        measured = f"mean {percent(sum(means) / len(means))}; by layer {listed}"
        verdict = Verdict.REPRODUCED if met else Verdict.NOT_REPRODUCED
        if kind_of_rows(column) is Rows.OTHER:
            verdict = Verdict.NOT_RUN
        yield Finding(verdict, measured, setting(column, row), tuple(cells[row, column]))


def setting(column: Column, row: Row) -> str:
    """What a figure rests on."""
    variant = f"; {row.variant}" if row.variant else ""
    return f"{column.backbone}; {rows_note(column)}{variant}"


def _finding(
    column: Column, row: Row, verdict: Verdict, found: Estimate, measured: str, records: Sequence[Record]
) -> Finding:
    if kind_of_rows(column) is Rows.OTHER:
        verdict = Verdict.NOT_RUN
    elif found.count < SEEDS:
        verdict = Verdict.UNDECIDED
    return Finding(verdict, measured, setting(column, row), tuple(records))


def _own_rows(cells: Cells, task: str, rho: float) -> Iterator[tuple[Column, Row]]:
    for column in columns_of(cells, task):
        for row in rows_of(cells, column, ADAPTIVE.policy, rho):
            yield column, row


def _training(cells: Cells, column: Column, row: Row) -> dict[str, Any]:
    return training(cells[row, column][0].get("config") or {})


def _turned(relation: Relation, sign: int) -> Estimate:
    found = relation.difference
    if sign > 0 or found.low is None or found.high is None:
        return found
    return Estimate(-found.mean, -found.high, -found.low, found.count)


def _grid() -> Iterator[tuple[Benchmark, str, float]]:
    for benchmark in BENCHMARKS:
        for metric in benchmark.metrics:
            for rho in BUDGETS:
                yield benchmark, metric, rho


def _table(rho: float) -> int:
    return BUDGETS.index(rho) + 1


def _gap(own: float | None, other: float | None) -> str:
    return "" if own is None or other is None else f" (paper: {own - other:+.1f} points)"


def _range(found: Estimate, scale: float, sign: str) -> str:
    return "" if found.low is None else f" {interval(found, scale, sign)}"


def _seeds(found: Estimate) -> str:
    return f"{found.count} of {SEEDS} seeds" if found.count < SEEDS else f"{found.count} seeds"
