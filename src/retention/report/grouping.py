"""Group quality records into runs that may be averaged and groups that may be compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, stdev
from typing import Any

import pandas as pd

from retention.errors import DataError
from retention.records import Quality
from retention.records.identity import incidental_differences, settings, training, variants, word

DENSE = "dense"
NOT_RUN = "not run"
UNKNOWN = "?"  # number of rows that a record does not say
_REQUIRED = ("task", "data", "policy", "backbone", "rho", "seed", "keep_ratio", "flops_ratio", "metrics", "monitor")
# Training settings that act on pruned or shallower models alone: a dense run without them may be trained alike.
_PRUNING_SETTINGS = ("prune_at", "phases.", "budgets.", "distill.saliency", "backbone.layers")

Record = Mapping[str, Any]


@dataclass(frozen=True)
class EvaluationSetup:
    """Task, data, encoder and headline metric: runs of one setup may be compared.

    Attributes:
        task: name of the task in records.
        monitor: name of the headline metric.
        backbone: name of the encoder.
        source: description of the data.
        train: number of training rows, or of contracts where rows are drawn by contract; ``UNKNOWN`` if the record does
            not say.
        test: number of test rows, likewise.
        length: number of tokens that rows are cut to, "" if the record does not say.
        provenance: relation of the data to the task's benchmark, "" if the record does not say; see
            ``reproduction.data_provenance``.
        evaluated: the rows that ``test`` counts, "test" or "validation".
    """

    task: str
    monitor: str
    backbone: str
    source: str
    train: str
    test: str
    length: str
    provenance: str = field(default="", compare=False)
    evaluated: str = "test"

    def describe(self) -> str:
        """Return task, data, numbers of rows and encoder in one line."""
        cut = f" cut to {self.length} tokens" if self.length else ""
        rows = f"{self.train} training and {self.test} {self.evaluated} rows"
        return f"{self.task}: {self.source}, {rows}{cut}, {self.backbone}"

    def same_data(self, other: EvaluationSetup) -> bool:
        """Return True if two setups differ in nothing but the encoder and the length of its input."""
        return self._data() == other._data()

    def _data(self) -> tuple[str, ...]:
        return self.task, self.monitor, self.source, self.train, self.test


@dataclass(frozen=True, eq=False)
class RunGroup:
    """Runs of one policy with one target keep ratio and equal settings, one run per seed.

    Attributes:
        setup: task, data, encoder and metric.
        policy: name of the policy.
        rho: target keep ratio, in (0, 1].
        variant: settings in which these runs differ from others of the policy, "" if there are none.
        records: one quality record per seed, in the order of the seeds.
        earlier: records that later ones of the same seed replace.
    """

    setup: EvaluationSetup
    policy: str
    rho: float
    variant: str
    records: tuple[Record, ...]
    earlier: tuple[Record, ...] = ()

    @property
    def label(self) -> str:
        """Name of the policy, with its variant in parentheses."""
        return f"{self.policy} ({self.variant})" if self.variant else self.policy

    @property
    def sort_key(self) -> tuple[bool, str, float, str]:
        """Sort dense first, then by name, from the highest keep ratio to the lowest."""
        return self.policy != DENSE, self.policy, -self.rho, self.variant

    @property
    def keep_ratio(self) -> float | None:
        """Mean achieved keep ratio, in [0, 1]; None if it was not measured."""
        return mean_of_measured(record["keep_ratio"].get("mean") for record in self.records)

    @property
    def flops_ratio(self) -> float | None:
        """Mean FLOPs relative to the dense model; None if they were not measured."""
        return mean_of_measured(record["flops_ratio"] for record in self.records)

    def points(self, metric: str | None = None) -> list[float]:
        """Return a metric times 100 of every run that measured it, by default the headline metric."""
        return list(self.points_by_seed(metric).values())

    def points_by_seed(self, metric: str | None = None) -> dict[int, float]:
        """Return seed -> metric times 100, by default the headline metric; diverged runs are left out."""
        name = metric or self.setup.monitor
        values = {record["seed"]: record["metrics"].get(name) for record in self.records}
        return {seed: 100.0 * value for seed, value in values.items() if value is not None}

    def training_settings(self) -> dict[str, Any]:
        """Return the dotted settings that are not the policy's own."""
        return training(self.records[0].get("config") or {})


@dataclass(frozen=True)
class Runs:
    """Groups of runs, sorted by setup and, within a setup, by ``RunGroup.sort_key``."""

    all: tuple[RunGroup, ...] = ()

    def setups(self, task: str | None = None) -> list[EvaluationSetup]:
        """Return all setups, or those of one task."""
        return [setup for setup in dict.fromkeys(group.setup for group in self.all) if task in (None, setup.task)]

    def groups(
        self, setup: EvaluationSetup | None = None, policy: str | None = None, rho: float | None = None
    ) -> list[RunGroup]:
        """Return the groups of a setup, a policy and a target keep ratio; None matches all."""
        return [
            group
            for group in self.all
            if setup in (None, group.setup) and policy in (None, group.policy) and rho in (None, group.rho)
        ]

    def dense_reference(self, group: RunGroup, metric: str | None = None) -> RunGroup | None:
        """Return the dense runs that were trained like a group, None if there are none with the metric.

        Scores play no part in the choice. Settings that act on pruned runs alone (gates, phases, sampled budgets,
        saliency distillation) may differ.
        """
        if group.policy == DENSE and group.points(metric):
            return group
        alike = [dense for dense in self.groups(group.setup, DENSE) if trained_alike(group, dense)]
        return headline([dense for dense in alike if dense.points(metric)])


def trained_alike(group: RunGroup, other: RunGroup) -> bool:
    """Return True if two groups differ in no training setting but those that act on pruned runs alone."""
    return _dense_settings(group) == _dense_settings(other)


def headline(groups: Sequence[RunGroup]) -> RunGroup | None:
    """Return the group with most seeds, then the latest one; scores play no part."""

    def seeds_and_date(group: RunGroup) -> tuple[int, str]:
        return len(group.records), max(str(record.get("date", "")) for record in group.records)

    return max(groups, key=seeds_and_date, default=None)


def group_runs(records: Iterable[Record]) -> Runs:
    """Group quality records; of two runs with equal settings and seed the later one counts.

    Args:
        records: result records; other kinds than ``quality`` are left out.

    Raises:
        DataError: a record lacks a field, or its headline metric is missing or outside [0, 1].
    """
    quality = [record for record in records if record.get("kind") == "quality"]
    for record in quality:
        _check(record)
    if not quality:
        return Runs()
    frame = pd.DataFrame(
        {
            "setup": [_setup(record) for record in quality],
            "policy": [record["policy"] for record in quality],
            "rho": [float(record["rho"]) for record in quality],
            "seed": [record["seed"] for record in quality],
            "date": [str(record.get("date", "")) for record in quality],
            "record": quality,
            "variant": "",
        }
    )
    method = ["setup", "policy", "rho"]
    for _, members in frame.groupby(method, sort=False):
        frame.loc[members.index, "variant"] = variants(list(members["record"]))
    frame = frame.sort_values("date", kind="stable")
    frame["earlier"] = frame.duplicated([*method, "variant", "seed"], keep="last")
    frame = frame.sort_values("seed", kind="stable")
    groups = []
    for _, members in frame.groupby([*method, "variant"], sort=False):
        first, counted = members.iloc[0], members[~members["earlier"]]
        earlier = tuple(members[members["earlier"]]["record"])
        kind = (first["setup"], first["policy"], first["rho"], first["variant"])
        groups.append(RunGroup(*kind, tuple(counted["record"]), earlier))
    return Runs(tuple(sorted(groups, key=lambda group: (group.setup.describe(), *group.sort_key))))


def fill_training_rows(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Return records, with the number of training rows of models that were only tested, where another record tells it.

    That is a record of the same policy, settings and seed on the same test rows; if such records give several numbers,
    the number stays unknown.
    """
    kinds = [_model(record) for record in records]
    counts: dict[Any, set[int]] = {}
    for record, kind in zip(records, kinds, strict=True):
        if kind is not None and record["data"].get("train") is not None:
            counts.setdefault(kind, set()).add(record["data"]["train"])
    return [
        {**record, "data": {**record["data"], "train": min(counts[kind])}}
        if kind is not None and record["data"].get("train") is None and len(counts.get(kind, ())) == 1
        else dict(record)
        for record, kind in zip(records, kinds, strict=True)
    ]


def left_out_line(records: Iterable[Record]) -> str:
    """Return one line that names runs which ``group_runs`` leaves out although their configuration differs.

    Precision, hardware and the seeds of parts do not tell runs apart, so that repetitions on other machines count once.

    Returns:
        The line, empty if there are no such runs.
    """
    quality = [record for record in records if record.get("kind") == "quality"]
    named: dict[str, None] = {}
    count = 0
    for group in group_runs(quality).all:
        for record in group.earlier:
            counted = next(each for each in group.records if each["seed"] == record["seed"])
            if differences := incidental_differences(record.get("config") or {}, counted.get("config") or {}):
                count += 1
                run = f"{group.label} at keep ratio {group.rho:g}, seed {record['seed']}"
                named[f"{run} ({', '.join(differences)})"] = None
    if not count:
        return ""
    runs = "1 older run" if count == 1 else f"{count} older runs"
    return f"Left out: {runs} of equal settings and seed, whose configuration differs: {'; '.join(named)}"


def mean_of_measured(values: Iterable[float | None]) -> float | None:
    """Return the mean of the values that are not None; None if there is none."""
    measured = [value for value in values if value is not None]
    return fmean(measured) if measured else None


def mean_and_deviation(values: Sequence[float]) -> str:
    """Format a mean and, from two values on, the sample standard deviation."""
    return f"{fmean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def percent(ratio: float | None) -> str:
    """Format a ratio in per cent, or say that it was not measured."""
    return "not measured" if ratio is None else f"{100.0 * ratio:.1f} %"


def _dense_settings(group: RunGroup) -> dict[str, Any]:
    """Return the training settings that a dense run has as well; a missing key equals null."""
    settings = group.training_settings().items()
    return {key: value for key, value in settings if value is not None and not key.startswith(_PRUNING_SETTINGS)}


def _check(record: Record) -> None:
    name = f"quality record of {record.get('date', 'unknown date')}"
    missing = [field for field in _REQUIRED if field not in record]
    if missing:
        raise DataError(f"{name}: lacks {', '.join(missing)}; remove the record or run the experiment again")
    monitor, metrics = record["monitor"], record["metrics"]
    if monitor not in metrics:
        raise DataError(f"{name}: has no metric {monitor!r}, its monitor; it has {', '.join(metrics) or 'none'}")
    if metrics[monitor] is not None and not -1.0 <= metrics[monitor] <= 1.0:
        message = "the main metric must be a ratio or a correlation in [-1, 1], not points"
        raise DataError(f"{name}: metric {monitor} is {metrics[monitor]}; {message}")


def as_test_rows(record: Record) -> Record:
    """Return a record of validation rows as one of as many test rows, which tables and plots can group."""
    data = record["data"]
    if contracts := data.get("contracts"):
        data = {**data, "contracts": {**contracts, "test": contracts.get("val")}}
    return {**record, "kind": Quality.kind, "evaluated": "validation", "data": {**data, "test": data.get("val")}}


def _setup(record: Record) -> EvaluationSetup:
    data = record["data"]
    drawn = data.get("contracts") or data  # the contracts of a seed have other numbers of clauses than those of another
    if data.get("folds") is not None:
        drawn = _fold_sizes(data)
    return EvaluationSetup(
        task=record["task"],
        monitor=record["monitor"],
        backbone=record["backbone"],
        source=str(data.get("source") or data.get("name") or "unnamed rows"),
        train=_number(drawn.get("train")),
        test=_number(drawn.get("test")),
        length=str(data.get("max_length") or ""),
        provenance=str(data.get("provenance") or ""),
        evaluated=str(record.get("evaluated", "test")),
    )


def _model(record: Record) -> Any:
    """Return what tells the model and the test rows of a quality record from others; None for other records."""
    if record.get("kind") != "quality" or any(field not in record for field in _REQUIRED):
        return None
    if record["data"].get("contracts"):
        return None
    values = frozenset((key, word(value)) for key, value in settings(record.get("config") or {}).items())
    return replace(_setup(record), train=""), record["policy"], record["seed"], values


def _number(count: int | None) -> str:
    return UNKNOWN if count is None else str(count)


def _fold_sizes(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the numbers of rows as of the smallest fold, which are the same for all seeds: folds differ by one row."""
    if any(data.get(split) is None for split in ("train", "val", "test")):
        return data
    count = sum(data[split] for split in ("train", "val", "test"))
    test = count // data["folds"]
    return {"train": count - data["val"] - test, "test": test} if 0 <= data["test"] - test <= 1 else data
