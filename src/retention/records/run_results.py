"""Define the records of runs: results of one model, and of two on the same rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from retention.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Results of a training or test run.

    Attributes:
        task: name of the task.
        data: description of the rows (``source``, ``provenance``) and their numbers (``train``, ``test``, ...).
        policy: name of the retention policy.
        backbone: name of the encoder.
        rho: target keep ratio, in (0, 1].
        keep_ratio: achieved keep ratio on real tokens, ``mean`` and ``by_layer``.
        flops_ratio: encoder FLOPs on real tokens divided by those of the dense model.
        metrics: name -> value; ratios in [0, 1].
        monitor: the main metric, a key of ``metrics``.
        throughput_tokens_per_s: real tokens per second of the test run, None if not timed.
        peak_mib: peak memory of the run, None if not measured.
        memory_kind: kind of memory that ``peak_mib`` counts, see ``retention.callbacks.Memory``.
        training: ``epochs`` and optimizer ``steps`` of the training (missing where a model was only tested), and
            summaries of the callbacks: ``speed``, ``memory`` and ``slack`` of the budget (its ``unmet_budget`` is the
            slack that a method was left with at the end of the soft phase, None if it met its budget).
        groups: name of a group of rows -> its number of ``rows`` and their mean ``score``.
        training_cost: cost of the training in dense epochs, see ``retention.callbacks.TrainingCost``; empty for a
            model that was only tested.

    Raises:
        DataError: ``monitor`` is not in ``metrics``.
    """

    kind: ClassVar[str] = "quality"
    task: str
    data: Mapping[str, Any]
    policy: str
    backbone: str
    rho: float
    keep_ratio: Mapping[str, Any]
    flops_ratio: float
    metrics: Mapping[str, float]
    monitor: str
    throughput_tokens_per_s: float | None
    peak_mib: float | None
    memory_kind: str | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    groups: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    training_cost: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.monitor not in self.metrics:
            available = ", ".join(self.metrics) or "none"
            raise DataError(f"{self.kind} record: monitor {self.monitor!r} is not among the metrics ({available})")


@dataclass(frozen=True, kw_only=True)
class Validation(Quality):
    """Results of a trained model on its validation rows, for choosing settings; no test row was scored.

    Metrics, achieved keep ratio and FLOPs ratio are those of the validation rows.
    """

    kind: ClassVar[str] = "validation"


@dataclass(frozen=True, kw_only=True)
class Rescore:
    """Further scores of a finished run, computed from its predictions without the model.

    Attributes:
        of: the run: ``task``, ``policy``, ``rho``, ``seed``, ``backbone``, ``commit`` and ``date`` of its record.
        data: description of its rows.
        metrics: name -> value.
        groups: name of a group of rows -> its number of ``rows`` and their mean ``score``.
    """

    kind: ClassVar[str] = "rescore"
    of: Mapping[str, Any]
    data: Mapping[str, Any]
    metrics: Mapping[str, float]
    groups: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Difference between two runs over the rows of the same test set.

    Attributes:
        task: name of the task.
        data: description of the rows and their numbers.
        first: the run compared: ``policy``, ``rho``, ``seed``, ``backbone``, ``commit``, ``layers`` of a shallower
            student (None = all), ``saliency`` (weight of the saliency distillation), ``prune_at``, ``lr``, and its mean
            ``score``.
        second: the run it is compared with, likewise. With several seeds, ``seed`` is a list in both and ``commit``
            that of the first seed.
        rows: number of test rows.
        difference: ``mean`` of score(first) - score(second), and its 95 % interval ``low`` .. ``high``.
        better, worse, equal: number of rows on which the first run scores more, less, the same; for divergences, on
            which it is nearer to the reference, farther, as far.
        measure: ``score``; ``divergence``: the scores are KL(reference || run) in nats, so lower is better; or a metric
            of the whole test set, such as ``macro_f1``, where no rows are better or worse.
        reference: the run that divergences are measured from, like ``first`` without a score; None = none.
        by_seed: mean difference of each seed; None with a single seed.
        documents: number of documents that the rows belong to, which were resampled instead of rows; None = rows were.
    """

    kind: ClassVar[str] = "paired"
    task: str
    data: Mapping[str, Any]
    first: Mapping[str, Any]
    second: Mapping[str, Any]
    rows: int
    difference: Mapping[str, Any]
    better: int
    worse: int
    equal: int
    measure: str = "score"
    reference: Mapping[str, Any] | None = None
    by_seed: Sequence[float] | None = None
    documents: int | None = None
