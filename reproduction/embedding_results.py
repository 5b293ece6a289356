"""Summarize records of embedding models: quality beside time, with retained models of several seeds as one row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

from retention.errors import DataError
from retention.records import Embedding
from retention.report.grouping import Record
from retention.report.tables import markdown_table, text_frame

_METRICS: Mapping[str, str] = {
    "stsb_spearman": "STS-B",
    "cranfield_ndcg10": "Cranfield",
    "newsgroups_accuracy": "20 Newsgroups",
    "newsgroups_knn_accuracy": "20 Newsgroups, k-NN",
}
_LONG_TEXTS = "cranfield"  # the benchmark whose FLOPs ratio is shown


def embedding_results_table(records: Sequence[Record], reference: str, *, by_model: bool = False) -> str:
    """Return one row per method, number format and keep ratio, from slow to fast, on the test split.

    Measures in points; mean and, over several models, standard deviation. Models of the same policy, number of layers,
    number format and keep ratio are seeds of one method, unless ``by_model``. Of two records of a model the later one
    counts; it may lack measures or times that the earlier one has.

    Args:
        records: committed records.
        reference: label of the unpruned model, which the records were compared with.
        by_model: give every model rows of its own, under its name, in the order of the records.

    Raises:
        DataError: there is no record of that reference.
    """
    groups = _groups(records, reference, by_model)
    metrics = [name for name in _METRICS if any(name in record["metrics"] for group in groups for record in group)]
    header = ["model", "keep ratio", "seeds", *(_METRICS[name] for name in metrics), "FLOPs ratio", "speedup"]
    ordered = groups if by_model else sorted(groups, key=lambda group: _mean_speedup(group) or 0.0)
    return markdown_table(text_frame(header, [_row(group, metrics, by_model) for group in ordered]))


def _groups(records: Sequence[Record], reference: str, by_model: bool) -> list[list[Record]]:
    latest: dict[tuple[str, str, float], Record] = {}
    for record in sorted(records, key=lambda each: str(each.get("date", ""))):
        if (record["kind"], record.get("split"), record.get("reference")) == (Embedding.kind, "test", reference):
            key = (str(record["model"]), _precision(record), float(record["rho"]))
            latest[key] = _merged(latest[key], record) if key in latest else record
    if not latest:
        raise DataError(f"embedding table: no records of {reference} in results/embedding; run evaluate-embeddings")
    groups: dict[tuple[str, str, int, str, float], list[Record]] = {}
    for record in latest.values():
        model = str(record["model"]) if by_model else ""
        method = (model, str(record["policy"]), int(record["layers"]), _precision(record), float(record["rho"]))
        groups.setdefault(method, []).append(record)
    return list(groups.values())


def _merged(earlier: Record, later: Record) -> Record:
    """Return the later record, with the measures and times that only the earlier one has."""
    merged = {key: {**earlier[key], **later[key]} for key in ("metrics", "flops_ratio")}
    return {**later, **merged, "speed": later["speed"] or earlier["speed"]}


def _row(group: list[Record], metrics: Sequence[str], by_model: bool) -> list[str]:
    first = group[0]
    cells = [_values([100 * record["metrics"][name] for record in group]) for name in metrics]
    flops = fmean(record["flops_ratio"][_LONG_TEXTS] for record in group)
    speedup = _mean_speedup(group)
    return [
        _name(first, by_model),
        f"{first['rho']:g}",
        str(len(group)),
        *cells,
        f"{100 * flops:.0f} %",
        "-" if speedup is None else f"{speedup:.2f}x",
    ]


def _name(record: Record, by_model: bool) -> str:
    precision, model = _precision(record), str(record["model"])
    suffix = "" if precision == "float32" else f", {precision}"
    if record["reference"] in (model, f"{model}-{precision}"):
        return f"unpruned{suffix}"
    if by_model:
        return model.replace("-", " ") + suffix
    method = f"{record['layers']} layers" if record["policy"] == "dense" else f"{record['policy']} retention"
    return f"{method}{suffix}"


def _precision(record: Record) -> str:
    return str(record.get("precision", "float32"))


def _mean_speedup(group: list[Record]) -> float | None:
    timed = [float(record["speed"]["speedup"]["median"]) for record in group if record["speed"] is not None]
    return fmean(timed) if timed else None


def _values(values: Sequence[float]) -> str:
    return f"{fmean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")
