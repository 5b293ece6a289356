"""Pool paired differences whose records hold different training seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, variance

from retention.report.grouping import Record
from retention.report.intervals import Estimate

_QUANTILE = NormalDist().inv_cdf(0.975)  # ends of a 95 % interval, in standard errors


@dataclass(frozen=True)
class SeedDifferences:
    """Differences of one paired record, in points.

    Attributes:
        by_seed: seed -> difference.
        fixed_models: mean, with its interval over test rows that holds the trained models fixed.
        bootstrap: mean, with its interval over seeds and test rows; over rows alone if there is one seed.
        date: of the record.
    """

    by_seed: Mapping[int, float]
    fixed_models: Estimate
    bootstrap: Estimate
    date: str


def seed_differences(record: Record, sign: float = 1.0) -> SeedDifferences:
    """Return the differences of a paired record, in points.

    Args:
        record: of kind ``paired``; one seed, or several with ``by_seed``.
        sign: 1 = first minus second, -1 = second minus first.
    """
    difference, seeds = record["difference"], record["first"]["seed"]
    seeds = seeds if isinstance(seeds, list) else [seeds]
    values = record.get("by_seed") or [difference["mean"]] * len(seeds)  # missing in records of earlier versions

    def between(low: str, high: str) -> Estimate:
        first, second = sorted(100 * sign * difference[end] for end in (low, high))
        return Estimate(100 * sign * difference["mean"], first, second, record["rows"])

    fixed_models = between("low", "high")
    bootstrap = between("bootstrap_low", "bootstrap_high") if "bootstrap_low" in difference else fixed_models
    by_seed = {int(seed): 100 * sign * value for seed, value in zip(seeds, values, strict=True)}
    return SeedDifferences(by_seed, fixed_models if len(by_seed) > 1 else bootstrap, bootstrap, str(record.get("date")))


def pooled(differences: Iterable[SeedDifferences]) -> Estimate:
    """Return the mean over all seeds with its 95 % interval over seeds and test rows.

    Records with most seeds are taken first, then the latest, of equal dates the last; each seed counts once. The
    interval of a single record is its bootstrap. That of several is a normal one, with the sum of two variances: that
    over rows, the mean of the records' (more seeds hardly reduce it, because the rows are the same), and that of the
    mean over seeds.

    Args:
        differences: of the same pair of models, at least one.
    """
    chosen = _disjoint(differences)
    if len(chosen) == 1:
        return chosen[0].bootstrap
    values = [value for each in chosen for value in each.by_seed.values()]
    rows = [standard_error(each.fixed_models) ** 2 for each in chosen for _ in each.by_seed]
    error = (fmean(rows) + variance(values) / len(values)) ** 0.5
    mean = fmean(values)
    return Estimate(mean, mean - _QUANTILE * error, mean + _QUANTILE * error, chosen[0].bootstrap.count)


def standard_error(estimate: Estimate) -> float:
    """Return the standard error of a mean, from the width of its 95 % interval and a normal distribution.

    Args:
        estimate: with an interval.
    """
    assert estimate.low is not None and estimate.high is not None
    return (estimate.high - estimate.low) / (2 * _QUANTILE)


def _disjoint(differences: Iterable[SeedDifferences]) -> Sequence[SeedDifferences]:
    chosen: list[SeedDifferences] = []
    seen: set[int] = set()
    latest_first = reversed(list(differences))
    for each in sorted(latest_first, key=lambda each: (len(each.by_seed), each.date), reverse=True):
        if seen.isdisjoint(each.by_seed):
            chosen.append(each)
            seen.update(each.by_seed)
    return chosen
