"""Compare cache policies on the same texts: values, their intervals, differences to a baseline, and records of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from retention.cache.budget import CacheBudget
from retention.cache.policies.base import CachePolicy
from retention.cache.policies.learned import LearnedScores
from retention.cache.reading import attention_for

if TYPE_CHECKING:  # these need the extra ``experiments``
    from retention.records import Decoding
    from retention.report.intervals import Estimate


@dataclass(frozen=True)
class Measurement:
    """Result of one policy at one size.

    Attributes:
        value: the main value over all texts: loss, accuracy or F1.
        by_text: the main value of each text.
        text_lengths: tokens of each text, or of the context of each example.
        counted: tokens of each text that count; questions of each example.
        fields: what the record says besides, see ``retention.records.Decoding``.
    """

    value: float
    by_text: Sequence[float]
    text_lengths: Sequence[int]
    counted: Sequence[int]
    fields: Mapping[str, Any] = field(default_factory=dict)


Measure = Callable[[CachePolicy | None, CacheBudget], Measurement]


@dataclass(frozen=True)
class Measured:
    """A policy that was measured.

    Attributes:
        name: of the policy.
        policy: the policy; None = the full cache.
        budget: of the cache.
        measurement: the result.
        seconds: that it took.
        baseline: what it is compared with, on the same texts; None = nothing.
    """

    name: str
    policy: CachePolicy | None
    budget: CacheBudget
    measurement: Measurement
    seconds: float
    baseline: Measured | None = None

    @cached_property
    def interval(self) -> Estimate:
        """Return the mean over texts, with its bootstrap interval."""
        return _bootstrap(self.measurement.by_text)

    @cached_property
    def difference(self) -> Estimate | None:
        """Return the mean difference to the baseline, with its interval; None without one, or for itself."""
        if self.baseline is None or self.baseline.name == self.name:
            return None
        pairs = zip(self.measurement.by_text, self.baseline.measurement.by_text, strict=True)
        return _bootstrap([ours - base for ours, base in pairs])

    def record(self, metric: str, **fields: Any) -> Decoding:
        """Return the record.

        Args:
            metric: field of the record that holds the main value: ``loss``, ``accuracy`` or ``f1``.
            fields: ``model``, ``task`` and ``texts`` of the record.
        """
        measured, gains = self.measurement, self.difference
        difference = None
        if self.baseline is not None and gains is not None:
            difference = {"baseline": self.baseline.name, "mean": gains.mean, "low": gains.low, "high": gains.high}
        values = {metric: measured.value, f"{metric}_by_text": list(measured.by_text), **measured.fields}
        return decoding_record(
            self.name,
            self.policy,
            self.budget,
            text_lengths=measured.text_lengths,
            counted_tokens=measured.counted,
            interval={"low": self.interval.low, "high": self.interval.high},
            difference=difference,
            **fields,
            **values,
        )


def measure_policy(
    model: Any, name: str, policy: CachePolicy | None, budget: CacheBudget, measure: Measure
) -> Measured:
    """Measure a policy with the attention that it needs, and the time.

    Args:
        model: a supported decoder, in evaluation mode.
        name: of the policy.
        policy: None = the full cache.
        budget: of the cache.
        measure: does the work.
    """
    start = time.perf_counter()
    with attention_for(model, policy):
        measurement = measure(policy, budget)
    return Measured(name, policy, budget, measurement, time.perf_counter() - start)


def compare_policies(
    model: Any, policies: Mapping[str, CachePolicy | None], budget: CacheBudget, measure: Measure, baseline: str
) -> Iterator[Measured]:
    """Measure policies at one size, and yield each result; the baseline comes first, the others in their order.

    Args:
        model: a supported decoder, in evaluation mode.
        policies: by name; None = the full cache.
        budget: of the cache.
        measure: does the work.
        baseline: name of the policy that others are compared with; if it is not among them, they are not compared.
    """
    reference: Measured | None = None
    for name in sorted(policies, key=lambda name: name != baseline):
        measured = measure_policy(model, name, policies[name], budget, measure)
        reference = measured if name == baseline else reference
        yield replace(measured, baseline=reference)


def decoding_record(name: str, policy: CachePolicy | None, budget: CacheBudget, **fields: Any) -> Decoding:
    """Return a record of a policy at one size, with its budget and how its scores were trained.

    Args:
        name: of the policy.
        policy: None = the full cache.
        budget: of the cache.
        fields: what the record says besides, see ``retention.records.Decoding``.
    """
    from retention.records import Decoding

    return Decoding(
        policy=name,
        size=budget.size,
        sinks=budget.sinks,
        window=budget.window,
        per_head=budget.per_head,
        scores=policy.origin if isinstance(policy, LearnedScores) else None,
        **fields,
    )


def _bootstrap(by_text: Sequence[float]) -> Estimate:
    from retention.report.intervals import bootstrap_interval

    return bootstrap_interval([list(by_text)])
