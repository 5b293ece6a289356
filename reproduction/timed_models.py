"""Join the latency record of a task with the quality records of the same models, and their paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from reproduction.paper import ADAPTIVE
from reproduction.pooling import pooled, seed_differences
from reproduction.sources import RecordSet
from retention.errors import DataError
from retention.records.identity import PRUNE_AT, model_settings
from retention.report.grouping import (
    DENSE,
    EvaluationSetup,
    Record,
    RunGroup,
    headline,
    mean_and_deviation,
    mean_of_measured,
)
from retention.report.intervals import Estimate, estimate

# Tasks with models that were timed: what their rows are, and their metric.
TIMED_TASKS = {
    "cuad_spans": ("CUAD spans (windows of contracts)", "area under the precision-recall curve"),
    "newsgroups20": ("20 Newsgroups (posts)", "accuracy"),
    "imdb": ("IMDb (reviews)", "accuracy"),
    "hyperpartisan": ("Hyperpartisan news (articles)", "accuracy"),
    "sst2": ("SST-2 (sentences)", "accuracy"),
}
# Models of another encoder than the others of their task: name -> task and encoder in the latency record.
OTHER_ENCODERS = {"imdb_mpnet": ("imdb", "mpnet")}
FEWER_LAYERS = "fewer_layers"  # method of shallower students in records
UNPRUNED = (DENSE, FEWER_LAYERS)
_SETTINGS = ("layers", "saliency", "prune_at", "lr", "epochs")  # see ``model_settings``
_SAME = 5e-5  # largest difference of two means of the same row scores


@dataclass(frozen=True)
class TimedModel:
    """A model of a latency record, with the scores of all its seeds.

    Attributes:
        method: in words.
        label: method, keep ratio and layers, in words.
        family: ``ours`` (scored by a learned policy of this project, also on fewer layers), ``shallow`` (fewer layers,
            nothing removed), ``dense`` or ``baseline``.
        policy: name of the policy.
        rho: target keep ratio.
        layers: layers of a shallower student; None = all.
        saliency: weight of the saliency distillation.
        prune_at: ``after_layer`` or ``after_attention``.
        lr: learning rate; None if it is not known.
        epochs: of its training; None if they are not known.
        longer: True if the latency record names more than one epoch.
        flops_ratio: FLOPs divided by those of the dense model.
        ms_per_row: median time.
        speedup: median speedup over the reference of the record.
        speedup_range: its 10 and 90 % quantiles over the rounds.
        points: seed -> headline metric times 100.
        folds: number of parts of a cross-validation, of which each seed tests one; None = all seeds test the same rows.
        training_cost: FLOPs of its training from its start on, the teacher's included, in dense epochs; mean over the
            runs that counted them, None if none did.
    """

    method: str
    label: str
    family: str
    policy: str
    rho: float
    layers: Any
    saliency: float
    prune_at: str
    lr: float | None
    epochs: int | None
    longer: bool
    flops_ratio: float
    ms_per_row: float
    speedup: float
    speedup_range: tuple[float, float]
    points: Mapping[int, float]
    folds: int | None = None
    training_cost: float | None = None

    @property
    def score(self) -> float:
        """Mean of the seeds, in points."""
        return fmean(self.points.values())

    @property
    def settings(self) -> dict[str, Any]:
        """What tells it from other models of its policy and keep ratio, see ``model_settings``."""
        return {key: getattr(self, key) for key in _SETTINGS}

    @property
    def score_text(self) -> str:
        """Mean and deviation over the seeds or folds, and their number."""
        count, unit = len(self.points), "seed" if self.folds is None else "fold"
        return f"{self.short_score} ({count} {unit}{'s' * (count > 1)})"

    @property
    def short_score(self) -> str:
        """Mean and deviation over the seeds; the mean alone if there is one."""
        return mean_and_deviation(list(self.points.values()))


def timed_models(records: RecordSet, name: str, dtype: str = "float32") -> list[TimedModel]:
    """Return the models of the task's latest latency record, from slow to fast; of two seeds of a model the first.

    Scores are those of the test runs, whatever number format is timed.

    Args:
        records: committed records.
        name: of a task, or of ``OTHER_ENCODERS``.
        dtype: number format that was timed.

    Raises:
        DataError: there is no latency record of the task.
    """
    entries, task = latest_latency(records, name, dtype)["models"], task_of(name)
    groups = [_group_of(entry, records, task) for entry in entries]
    setups = [group.setup for group in groups if group is not None]
    models: dict[tuple[Any, ...], TimedModel] = {}
    for entry, group in zip(entries, groups, strict=True):
        model = _timed_model(entry, _group_in(setups, entry, records) if group is None else group)
        models.setdefault((model.policy, model.rho, *map(str, model.settings.values())), model)
    return sorted(models.values(), key=lambda model: -model.ms_per_row)


def task_of(name: str) -> str:
    """Return the task of a name of ``OTHER_ENCODERS``; other names are those of tasks."""
    return OTHER_ENCODERS.get(name, (name, ""))[0]


def latency_name(latency: Record) -> str:
    """Return the name of the task, or of ``OTHER_ENCODERS``, of a latency record."""
    pair = (latency.get("task"), latency.get("backbone"))
    return next((name for name, other in OTHER_ENCODERS.items() if other == pair), str(latency.get("task")))


def latest_latency(records: RecordSet, name: str, dtype: str = "float32", *, int8: bool = False) -> Record:
    """Return the latest latency record of a task in a number format.

    Args:
        records: committed records.
        name: of a task, or of ``OTHER_ENCODERS``.
        dtype: number format that was timed.
        int8: True for a record that has INT8 copies of the models beside them.

    Raises:
        DataError: there is none.
    """
    matching = [
        record
        for record in records.records
        if record["kind"] == "latency"
        and latency_name(record) == name
        and record.get("dtype", "float32") == dtype
        and any(model.get("int8", False) for model in record["models"]) == int8
    ]
    if not matching:
        formats = f"{dtype} with --int8" if int8 else dtype
        raise DataError(
            f"equal-time table: no latency record of {name} in {formats} in results/speed; run retention bench-models"
        )
    return max(matching, key=lambda record: str(record.get("date", "")))


def method_name(model: Mapping[str, Any]) -> str:
    """Return the method of an entry of a latency record, in words."""
    parts = [str(model["policy"]).replace("_", " ")]
    parts += ["saliency-distilled"] if model["policy"] == ADAPTIVE.policy and model["saliency"] > 0 else []
    prune_at = str(model.get("prune_at", PRUNE_AT))
    if prune_at != PRUNE_AT and model["policy"] not in UNPRUNED:
        parts.append(f"pruned {prune_at.replace('_', ' ')}")
    parts += [f"{model['epochs']} epochs"] if _longer(model) else []
    return ", ".join(parts)


def paired_difference(records: RecordSet, name: str, first: TimedModel, second: TimedModel) -> Estimate | None:
    """Return first minus second in points, with its 95 % interval.

    Records of row scores and of metrics of the whole test set count, those of divergences do not. Records of different
    seeds are pooled. Without any record, Student's t interval over the seeds that both have; None if that has no
    interval either.
    """
    difference = difference_by_row(records, name, first, second)
    common = sorted(first.points.keys() & second.points.keys())
    if difference is not None or len(common) < 2:
        return difference
    return estimate([first.points[seed] - second.points[seed] for seed in common])


def difference_by_row(records: RecordSet, name: str, first: TimedModel, second: TimedModel) -> Estimate | None:
    """Return first minus second in points from records that compare them row by row; None without such a record."""
    matches = [
        seed_differences(record, sign)
        for record in records.records
        if record["kind"] == "paired" and record["task"] == task_of(name) and record.get("measure") != "divergence"
        for sign, sides in ((1.0, ("first", "second")), (-1.0, ("second", "first")))
        if _is_of(record[sides[0]], first) and _is_of(record[sides[1]], second)
    ]
    return pooled(matches) if matches else None


def _timed_model(entry: Mapping[str, Any], group: RunGroup | None) -> TimedModel:
    if group is None and entry["metric"] is None:
        raise DataError(f"{method_name(entry)}: was timed, but no run like it was tested on the rows of the others")
    points = {int(entry["seed"]): 100.0 * float(entry["metric"])} if group is None else group.points_by_seed()
    layers, speedup = entry["layers"], entry["speedup"]
    known = _settings(entry) if group is None else model_settings(group.records[0].get("config") or {})
    parts = [method_name(entry)]
    parts += [f"rho {entry['rho']:g}"] if entry["policy"] not in UNPRUNED else []
    count = layers if isinstance(layers, int | None) else len(layers)
    parts += [] if count is None else ["1 layer" if count == 1 else f"{count} layers"]
    return TimedModel(
        method=parts[0],
        label=", ".join(parts),
        family=_family(str(entry["policy"])),
        policy=str(entry["policy"]),
        rho=float(entry["rho"]),
        layers=layers,
        saliency=float(entry["saliency"]),
        prune_at=known["prune_at"],
        lr=known.get("lr"),
        epochs=known.get("epochs"),
        longer=_longer(entry),
        flops_ratio=float(entry["flops_ratio"]),
        ms_per_row=float(entry["ms_per_row"]["median"]),
        speedup=float(speedup["median"]),
        speedup_range=(float(speedup["low"]), float(speedup["high"])),
        points=points,
        folds=None if group is None else group.records[0]["data"].get("folds"),
        training_cost=None if group is None else _training_cost(group),
    )


def _training_cost(group: RunGroup) -> float | None:
    return mean_of_measured((record.get("training_cost") or {}).get("dense_epochs") for record in group.records)


def _longer(entry: Mapping[str, Any]) -> bool:
    return entry.get("epochs") not in (None, 1)


def _family(policy: str) -> str:
    families = {DENSE: "dense", FEWER_LAYERS: "shallow", ADAPTIVE.policy: "ours"}
    return families.get(policy, "baseline")


def _group_of(entry: Mapping[str, Any], records: RecordSet, task: str) -> RunGroup | None:
    """Return the runs, one per seed, that a model of a latency record is one of: it has the very same test score."""
    for group in records.runs.groups(policy=entry["policy"], rho=entry["rho"]):
        if group.setup.task == task and any(_is_run(record, entry) for record in group.records):
            return group
    return None


def _group_in(setups: Sequence[EvaluationSetup], entry: Mapping[str, Any], records: RecordSet) -> RunGroup | None:
    """Return the runs with the settings of a model, tested on the rows of the other models of its latency record."""
    alike = [
        group
        for group in records.runs.groups(policy=entry["policy"], rho=entry["rho"])
        if group.setup in setups and _same_settings(group.records[0], entry)
    ]
    return headline(alike)


def _is_run(record: Record, entry: Mapping[str, Any]) -> bool:
    same = _same_settings(record, entry)
    score = record["metrics"][record["monitor"]]
    if not same or record["seed"] != entry["seed"] or score is None or entry["metric"] is None:
        return False
    return bool(abs(score - entry["metric"]) < 1e-9)


def _is_of(run: Mapping[str, Any], model: TimedModel) -> bool:
    """Return True if one side of a paired record is a model; where the record lacks settings, the score decides."""
    if (run["policy"], run["rho"]) != (model.policy, model.rho):
        return False
    known = {key: value for key, value in _settings(run).items() if key != "epochs" or model.epochs is not None}
    if any(model.settings[key] != value for key, value in known.items()):
        return False
    if "lr" in run and ("epochs" in run or not model.longer):  # earlier records have no epochs
        return True
    seeds: Sequence[int] = run["seed"] if isinstance(run["seed"], list) else [run["seed"]]
    points = [model.points[seed] for seed in seeds if seed in model.points]
    return bool(points) and abs(fmean(points) / 100 - run["score"]) < _SAME


def _settings(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a model in a latency or paired record; earlier ones lack some of them."""
    return {"prune_at": PRUNE_AT} | {key: entry[key] for key in _SETTINGS if key in entry}


def _same_settings(record: Record, entry: Mapping[str, Any]) -> bool:
    """Return True if a run has the settings of a model in a latency record, as far as that has them."""
    of_run, of_entry = model_settings(record.get("config") or {}), _settings(entry)
    return {key: of_run[key] for key in of_entry} == of_entry
