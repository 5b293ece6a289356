"""Compare trained models by their measured time per row: pruned models beside shallower students."""

from __future__ import annotations

from reproduction.sources import RecordSet
from reproduction.timed_models import TimedModel, latest_latency, method_name, timed_models
from retention.report.tables import markdown_table, text_frame


def equal_time_table(records: RecordSet, task: str, dtype: str = "float32") -> str:
    """Return one row per model of the task's latest latency record, from slow to fast.

    Times are those of the record; scores are means over all seeds that were tested. The training is counted from the
    model's start on, the teacher's share included, in the FLOPs of dense epochs.

    Args:
        records: committed records.
        task: name of the task.
        dtype: number format that was timed.

    Raises:
        DataError: there is no latency record of the task.
    """
    metric = str(latest_latency(records, task, dtype)["models"][0]["monitor"])
    header = ("method", "keep ratio", "layers", metric, "training", "FLOPs ratio", "ms per row", "speedup")
    return markdown_table(text_frame(header, [_row(model) for model in timed_models(records, task, dtype)]))


def int8_table(records: RecordSet, task: str) -> str:
    """Return one row per model of the task's latest latency record with INT8 copies, as measured in that record.

    Scores are those of the timed rows alone, since INT8 copies were tested on these.

    Args:
        records: committed records.
        task: name of the task, or of ``OTHER_ENCODERS``.

    Raises:
        DataError: there is no latency record with INT8 copies.
    """
    latency = latest_latency(records, task, int8=True)
    models = sorted(latency["models"], key=lambda model: -model["ms_per_row"]["median"])
    metric = f"{models[0]['monitor']} on {latency['data']['rows']} rows"
    header = ("method", "keep ratio", "layers", "linear layers", metric, "ms per row", "speedup")
    rows = [
        [
            method_name(model),
            f"{model['rho']:g}",
            "all" if model["layers"] is None else str(model["layers"]),
            "INT8" if model["int8"] else "float32",
            f"{100 * model['metric_on_rows']:.1f}",
            f"{model['ms_per_row']['median']:.2f}",
            f"{model['speedup']['median']:.2f}x",
        ]
        for model in models
    ]
    return markdown_table(text_frame(header, rows))


def _row(model: TimedModel) -> list[str]:
    return [
        model.method,
        f"{model.rho:g}",
        "all" if model.layers is None else str(model.layers),
        model.score_text,
        "-" if model.training_cost is None else f"{model.training_cost:.1f} epochs",
        f"{100 * model.flops_ratio:.1f} %",
        f"{model.ms_per_row:.2f}",
        f"{model.speedup:.2f}x ({model.speedup_range[0]:.2f}-{model.speedup_range[1]:.2f})",
    ]
