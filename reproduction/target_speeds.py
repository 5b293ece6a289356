"""Compare our models with shallower students at equal speed: one model of each at a required speed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from reproduction.comparison import interval, signed
from reproduction.sources import RecordSet
from reproduction.timed_models import TimedModel, difference_by_row, paired_difference, timed_models
from retention.report.tables import markdown_table, text_frame

SPEEDS = (2.0, 3.0, 4.0)  # speedups over the dense model
TOLERANCE = 0.05  # a model of one third of the layers, measured at 2.9x, counts as three times as fast
_NONE = "none that fast"

_TIMES = {2.0: "twice", 3.0: "three times"}


def target_speed_table(records: RecordSet, task: str, speeds: Sequence[float] = SPEEDS) -> str:
    """Return one row per required speed: our model and the shallow student that ``models_at_speed`` chooses.

    Args:
        records: committed records.
        task: name of the task.
        speeds: required speedups over the dense model.

    Raises:
        DataError: there is no latency record of the task.
    """
    models = timed_models(records, task)
    rows = []
    for speed in speeds:
        ours, shallow = models_at_speed(models, speed)
        cells = [f"{speed:g}x", *_cells(ours), *_cells(shallow)]
        rows.append([*cells, _difference(records, task, ours, shallow)])
    header = ("speedup of at least", "ours", "score", "speedup", "fewer layers", "score", "speedup", "difference")
    return markdown_table(text_frame(header, rows))


def speed_summary_table(
    records: RecordSet, tasks: Mapping[str, tuple[str, str]], speeds: Sequence[float] = (2.0, 3.0)
) -> str:
    """Return the rows of ``target_speed_table`` of several tasks, one per task and speed, with the dense score.

    Scores are means over the seeds, without their deviation; a model that is also shown at the speed above is not
    named again.

    Args:
        records: committed records.
        tasks: name of each task -> what its rows are, and its metric.
        speeds: required speedups over the dense model; those that neither side reaches are left out.

    Raises:
        DataError: there is no latency record of a task.
    """
    rows = []
    for task, words in tasks.items():
        title = ", ".join(words)
        models = timed_models(records, task)
        [reference] = [model for model in models if model.family == "dense"]
        dense = f"{reference.score:.1f}"
        above: list[TimedModel | None] = [None, None]
        for speed in speeds:
            ours, shallow = models_at_speed(models, speed)
            if ours is not None or shallow is not None:
                sides = [_side(*pair) for pair in zip((ours, shallow), above, strict=True)]
                above = [ours, shallow]
                times = _TIMES.get(speed, f"{speed:g} times")
                rows.append([title, dense, times, *sides, _difference(records, task, ours, shallow)])
                title = dense = ""  # shown once per task
    header = ("task", "dense", "speed", "tokens removed", "fewer layers", "difference")
    return markdown_table(text_frame(header, rows))


def level_speed_table(records: RecordSet, task: str) -> str:
    """Return one row per shallow student and dense model: our fastest model that is level with it or ahead.

    A model counts as level if the interval of its difference reaches 0: the test rows do not show it to be worse. That
    is weak evidence where intervals are wide. Without a comparison row by row its mean score must not be lower: an
    interval over two seeds alone would reach 0 for almost any model.

    Raises:
        DataError: there is no latency record of the task.
    """
    models = timed_models(records, task)
    rows = []
    for reference in (model for model in models if model.family in ("dense", "shallow")):
        ours = [model for model in models if model.family == "ours"]
        level = [model for model in ours if _is_level(model, reference, records, task)]
        fastest = min(level, key=lambda model: model.ms_per_row, default=None)
        ratio = "-" if fastest is None else f"{reference.ms_per_row / fastest.ms_per_row:.2f}x"
        rows.append([reference.label, reference.score_text, "none" if fastest is None else fastest.label])
        rows[-1] += [
            "-" if fastest is None else fastest.score_text,
            ratio,
            _difference(records, task, fastest, reference),
        ]
    header = ("reference", "score", "fastest of ours whose interval reaches 0", "score", "faster by", "difference")
    return markdown_table(text_frame(header, rows))


def models_at_speed(models: Sequence[TimedModel], speed: float) -> tuple[TimedModel | None, TimedModel | None]:
    """Choose one of our models and one shallow student that reach a speedup; None if none does.

    No test score decides: of the models that were trained for most epochs the one with most seeds, and of those the
    slowest, which has most computation left.

    Args:
        models: of one task.
        speed: required speedup over the dense model; 5 % less is enough.
    """
    return _at_speed(models, "ours", speed), _at_speed(models, "shallow", speed)


def _at_speed(models: Sequence[TimedModel], family: str, speed: float) -> TimedModel | None:
    fast = [model for model in models if model.family == family and model.speedup >= (1 - TOLERANCE) * speed]
    return max(fast, key=lambda model: (model.epochs or 1, len(model.points), model.ms_per_row), default=None)


def _side(model: TimedModel | None, above: TimedModel | None) -> str:
    """Return the score of a model and its measured speedup; words if there is none, or it stands in the row above."""
    if model is None:
        return _NONE
    return "the same" if model is above else f"{model.score:.1f} at {model.speedup:.2f}x"


def _is_level(model: TimedModel, reference: TimedModel, records: RecordSet, task: str) -> bool:
    difference = difference_by_row(records, task, model, reference)
    if difference is None or difference.high is None:
        return model.score >= reference.score
    return difference.high >= 0


def _cells(model: TimedModel | None) -> tuple[str, str, str]:
    return (_NONE, "-", "-") if model is None else (model.label, model.score_text, f"{model.speedup:.2f}x")


def _difference(records: RecordSet, task: str, first: TimedModel | None, second: TimedModel | None) -> str:
    if first is None or second is None:
        return "-"
    difference = paired_difference(records, task, first, second)
    if difference is None:
        return f"{signed(first.score - second.score)} (no interval)"
    return f"{signed(difference.mean)} {interval(difference)}"
