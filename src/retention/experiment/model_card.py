"""Write the model card of a finished run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from retention.pretrained.model_card import LICENSE_NOTE, markdown_table
from retention.records import Record


def model_card(record: Record, example: str) -> str:
    """Return the ``README.md`` of a run folder: task, data, results, and how to load the model.

    Args:
        record: of the run.
        example: one line of Python that uses the loaded ``model``.
    """
    results, training = _results(record), _training(record)
    sections = [
        f"# {record['policy']} on {record['task']}",
        f"{record['backbone']} with real token removal inside the encoder, keep ratio {record['rho']}; "
        "made with the Python package `retention` (adaptive-retention).",
        *results,
        "## Use",
        _usage(example),
        *training,
        "All settings are in `config.yaml`, the whole record in `record.json`.",
        "## License",
        LICENSE_NOTE,
    ]
    return "\n\n".join(sections) + "\n"


def training_details(record: Record) -> str:
    """Return the sections on results, cost, data and training, for the card of a model folder."""
    return "\n\n".join([*_results(record), *_training(record)])


def _results(record: Record) -> list[str]:
    data = record["data"]
    return [
        "## Results",
        markdown_table(("metric", "value"), [(name, _number(value)) for name, value in record["metrics"].items()]),
        f"Main metric: {record['monitor']}. Measured on {data.get('test', '?')} test rows, seed {record['seed']}.",
        "## Cost",
        markdown_table(("quantity", "value"), _costs(record)),
        "## Data",
        markdown_table(("property", "value"), [(name, data[name]) for name in _described(data)]),
    ]


def _training(record: Record) -> list[str]:
    config = record["config"]
    backbone = config.get("trained_backbone") or config["backbone"]
    base = backbone.get("path") or f"{backbone.get('model_type', record['backbone'])}, trained from scratch"
    return [
        "## Training",
        f"Base model: {base}",
        f"```\n{record['command']}\n```",
        f"Commit {record['commit']}, {record['date']}.",
    ]


def _costs(record: Record) -> list[tuple[str, str]]:
    kept = record["keep_ratio"]
    rows = [("target keep ratio", str(record["rho"])), ("achieved keep ratio", _number(kept.get("mean")))]
    by_layer = {int(layer): _number(value) for layer, value in kept.get("by_layer", {}).items()}
    rows += [("keep ratio before layer 0", value) for layer, value in by_layer.items() if layer < 0]
    rows += [(f"keep ratio after layer {layer}", value) for layer, value in by_layer.items() if layer >= 0]
    backbone = record["config"].get("trained_backbone") or record["config"]["backbone"]
    if backbone.get("layers") is not None:
        rows.append(("encoder layers", str(backbone["layers"])))
    return [*rows, ("FLOPs ratio to the dense encoder", _number(record["flops_ratio"]))]


def _described(data: Mapping[str, Any]) -> list[str]:
    return [
        name for name in ("source", "provenance", "train", "val", "test", "max_length") if data.get(name) is not None
    ]


def _usage(example: str) -> str:
    return f'```python\nfrom retention import load\n\nmodel = load("<this folder>")\n{example}\n```'


def _number(value: Any) -> str:
    return "not measured" if value is None else f"{value:.4g}"
