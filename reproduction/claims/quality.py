"""Check claims on quality: relative to dense, to random pruning, and to the ablations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from reproduction.claims.claim import BY_CONSTRUCTION, Claim, Finding, Verdict, at_least
from reproduction.comparison import compare, interval
from reproduction.data_provenance import Provenance, data_note, provenance_of
from reproduction.depth_report import keep_ratio_by_layer
from reproduction.paper import ABLATIONS, ADAPTIVE, BENCHMARKS, BUDGETS, PAPER_KEEP_RATIOS, SEEDS, Benchmark, reported
from reproduction.sources import RecordSet
from retention.report.grouping import RunGroup, Runs, headline, percent, trained_alike
from retention.report.intervals import Estimate

MIN_RATIO = 0.95  # of dense, abstract
KEEP_RATIO_TOLERANCE = 0.02  # whole tokens of short sentences cannot meet a keep ratio exactly
BUDGET_TOLERANCE = 0.05  # a model that keeps more than this above the keep ratio of a claim does not decide it
PAPER = "paper"  # policy with the gates and the training that the paper describes


def quality_claims() -> list[Claim]:
    """Return the claims of Tables 1-3, 5 and 6, per benchmark, metric and keep ratio."""
    return [*_dense_claims(), *_random_claims(), *_paper_claims(), *_ablation_claims(), *_keep_ratio_claims()]


def _dense_claims() -> Iterator[Claim]:
    for benchmark, metric, rho in _grid():
        text = f"{benchmark.title} {metric} at {100 * rho:.0f} %: at least {100 * MIN_RATIO:.0f} % of the dense model"
        check = partial(_check_ratio_to_dense, task=benchmark.task, metric=benchmark.metrics[metric], rho=rho)
        yield Claim("Quality relative to the dense model", text, f"abstract, Table {_table(rho)}", check)


def _random_claims() -> Iterator[Claim]:
    for benchmark, metric, rho in _grid():
        difference = _paper_difference(benchmark, metric, rho, "Random pruning")
        text = f"{benchmark.title} {metric} at {100 * rho:.0f} %: ahead of random pruning{_in_paper(difference)}"
        check = partial(
            _check_ahead_of, task=benchmark.task, metric=benchmark.metrics[metric], rho=rho, policy="random"
        )
        yield Claim("Quality relative to random pruning", text, f"Table {_table(rho)}", check)


def _paper_claims() -> Iterator[Claim]:
    """Yield the two main claims for the method with the paper's own gates and training, where it was run."""
    for benchmark, metric, rho in _grid():
        if (benchmark.task, rho) in _PAPER_RUNS:
            settings: dict[str, Any] = {
                "task": benchmark.task,
                "metric": benchmark.metrics[metric],
                "rho": rho,
                "ours": PAPER,
            }
            at = f"{benchmark.title} {metric} at {100 * rho:.0f} %, trained as the paper describes"
            dense = partial(_check_ratio_to_dense, **settings)
            text, source = (
                f"{at}: at least {100 * MIN_RATIO:.0f} % of the dense model",
                f"abstract, Table {_table(rho)}",
            )
            yield Claim(_AS_WRITTEN, text, source, dense)
            random = partial(_check_ahead_of, **settings, policy="random")
            yield Claim(_AS_WRITTEN, f"{at}: ahead of random pruning", f"Table {_table(rho)}", random)


_AS_WRITTEN = "The method with the paper's own training (`paper`)"
_PAPER_RUNS = {("sst2", 0.3)}


def _ablation_claims() -> Iterator[Claim]:
    for ablation in ABLATIONS:
        for benchmark, metric, rho in _grid():
            difference = _paper_difference(benchmark, metric, rho, ablation.title)
            ahead = difference is not None and difference > 0
            text = (
                f"{benchmark.title} {metric} at {100 * rho:.0f} %: the full method is "
                f"{'ahead of' if ahead else 'behind'} {ablation.title}{_in_paper(difference)}"
            )
            check = partial(
                _check_ahead_of,
                task=benchmark.task,
                metric=benchmark.metrics[metric],
                rho=rho,
                policy=ablation.policy,
                sign=1 if ahead else -1,
                ablation=True,
            )
            yield Claim("Ablations", text, "Table 3", check)


def _keep_ratio_claims() -> Iterator[Claim]:
    for task, table in (("sst2", 5), ("arxiv", 6)):
        title = next(benchmark.title for benchmark in BENCHMARKS if benchmark.task == task)
        for rho in BUDGETS:
            paper = PAPER_KEEP_RATIOS[task][rho]
            text = (
                f"{title} at {100 * rho:.0f} %: keep ratios by layer meet the target "
                f"(the paper's own average {sum(paper) / len(paper):.1f} %)"
            )
            yield Claim(BY_CONSTRUCTION, text, f"Table {table}", partial(_check_keep_ratio, task=task, rho=rho))


def _check_ratio_to_dense(
    records: RecordSet, *, task: str, metric: str, rho: float, ours: str = ADAPTIVE.policy
) -> Iterator[Finding]:
    runs = records.runs
    for group in _groups_of(runs, ours, task, rho):
        dense = runs.dense_reference(group, metric)
        comparison = compare(group, dense, metric)
        if dense is not None and comparison is not None:
            ratio = comparison.ratio
            baseline = headline([each for each in runs.groups(group.setup, "random", rho) if _comparable(group, each)])
            beside = _share_of_dense(baseline, dense, metric)
            finding = _finding(group, dense, at_least(ratio, MIN_RATIO), ratio, _format_ratio(ratio))
            cited = finding.records if baseline is None else (*finding.records, *baseline.records)
            yield replace(finding, records=cited, random=beside or "not run")
        elif group.points(metric) and runs.groups(group.setup, "dense"):
            verdict = Verdict.NOT_RUN if _is_stand_in(group) else Verdict.INCONCLUSIVE
            measured = "no dense model was trained alike"
            yield Finding(verdict, measured, _describe(group), group.records, weight=(0.0, 0.0), random="-")


def _check_ahead_of(
    records: RecordSet,
    *,
    task: str,
    metric: str,
    rho: float,
    policy: str,
    ours: str = ADAPTIVE.policy,
    sign: int = 1,
    ablation: bool = False,
) -> Iterator[Finding]:
    """Compare the full method with another policy that was trained alike and keeps as many tokens.

    Args:
        records: the records to check.
        task: name of the task in records.
        metric: name of the metric in records.
        rho: target keep ratio of both.
        policy: name of the other policy.
        ours: name of the policy that is compared with it.
        sign: -1 where the paper has the other policy ahead.
        ablation: all training settings must be equal, those that act on pruned runs alone as well; the ablation may
            miss the budget, as thresholds do.
    """
    runs = records.runs
    for group in _groups_of(runs, ours, task, rho):
        others = runs.groups(group.setup, policy, rho)
        if ablation:
            others = [other for other in others if other.training_settings() == group.training_settings()]
        else:
            others = [other for other in others if _comparable(group, other)]
        other = headline(others)
        comparison = compare(group, other, metric)
        if other is not None and comparison is not None:
            difference = comparison.difference
            verdict = at_least(difference if sign > 0 else _negated(difference), 0.0)
            measured = f"{difference.mean:+.1f} points{_range(difference, 1.0, '+')}, {_seeds(difference)}"
            yield _finding(group, other, verdict, difference, measured)


def _check_keep_ratio(records: RecordSet, *, task: str, rho: float) -> Iterator[Finding]:
    for group in _groups_of(records.runs, ADAPTIVE.policy, task, rho):
        ratios = keep_ratio_by_layer(group.records)
        means = [record["keep_ratio"].get("mean") for record in group.records]
        if not ratios or None in means:
            continue
        met = all(abs(mean - rho) <= KEEP_RATIO_TOLERANCE for mean in means)
        listed = " ".join(f"{100 * ratio:.1f}" for ratio in ratios.values())
        verdict = Verdict.REPRODUCED if met else Verdict.NOT_REPRODUCED
        if _is_stand_in(group):
            verdict = Verdict.NOT_RUN
        measured = f"mean {percent(group.keep_ratio)}; by layer {listed}"
        weight = (float(len(group.records)), _rows(group.setup.test))
        yield Finding(verdict, measured, _describe(group), group.records, weight)


def _finding(group: RunGroup, reference: RunGroup, verdict: Verdict, value: Estimate, measured: str) -> Finding:
    if _is_stand_in(group):
        verdict = Verdict.NOT_RUN
    elif value.count < SEEDS or not _meets_budget(group):
        verdict = Verdict.INCONCLUSIVE
    weight = (float(value.count), _rows(group.setup.test))
    return Finding(verdict, measured, _describe(group), (*group.records, *reference.records), weight)


def _share_of_dense(group: RunGroup | None, dense: RunGroup, metric: str) -> str | None:
    comparison = compare(group, dense, metric) if group is not None else None
    return None if comparison is None else _format_ratio(comparison.ratio)


def _format_ratio(ratio: Estimate) -> str:
    return f"{100 * ratio.mean:.1f} % of dense{_range(ratio, 100.0, '')}, {_seeds(ratio)}"


def _rows(count: str) -> float:
    return float(count) if count.isdigit() else 0.0


def _is_stand_in(group: RunGroup) -> bool:
    return provenance_of(group.setup) is Provenance.STAND_IN


def _describe(group: RunGroup) -> str:
    variant = f"; {group.variant}" if group.variant else ""
    return f"{group.setup.backbone}; {data_note(group.setup)}{variant}"


def _groups_of(runs: Runs, policy: str, task: str, rho: float) -> list[RunGroup]:
    return [group for setup in runs.setups(task) for group in runs.groups(setup, policy, rho)]


def _meets_budget(group: RunGroup) -> bool:
    return group.keep_ratio is None or group.keep_ratio <= group.rho + BUDGET_TOLERANCE


def _comparable(group: RunGroup, other: RunGroup) -> bool:
    """Return True if two pruned models were trained alike and keep about the same share of the tokens."""
    first, second = group.keep_ratio, other.keep_ratio
    same_share = first is None or second is None or abs(first - second) <= BUDGET_TOLERANCE
    return same_share and trained_alike(group, other)


def _negated(value: Estimate) -> Estimate:
    low, high = (None if end is None else -end for end in (value.high, value.low))
    return Estimate(-value.mean, low, high, value.count)


def _grid() -> Iterator[tuple[Benchmark, str, float]]:
    for benchmark in BENCHMARKS:
        for metric in benchmark.metrics:
            for rho in BUDGETS:
                yield benchmark, metric, rho


def _table(rho: float) -> int:
    return BUDGETS.index(rho) + 1


def _paper_difference(benchmark: Benchmark, metric: str, rho: float, method: str) -> float | None:
    ours, other = (reported(title, rho, benchmark.task, metric) for title in (ADAPTIVE.title, method))
    return None if ours is None or other is None else ours - other


def _in_paper(difference: float | None) -> str:
    return "" if difference is None else f" (paper: {difference:+.1f} points)"


def _range(value: Estimate, scale: float, sign: str) -> str:
    return "" if value.low is None else f" {interval(value, scale, sign)}"


def _seeds(value: Estimate) -> str:
    return f"{value.count} of {SEEDS} seeds" if value.count < SEEDS else f"{value.count} seeds"
