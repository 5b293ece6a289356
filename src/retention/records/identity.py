"""Telling runs of one policy apart by the settings in which they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# where a run writes, what it runs on and its seed are no part of the method; what its rows are is told by ``data``
_OUTSIDE = frozenset({"paths", "logger", "callbacks", "hydra", "mode", "trained_backbone"})
_INCIDENTAL = frozenset(
    {"seed", "dir", "dirpath", "save_dir", "accelerator", "devices", "precision", "num_workers", "_target_"}
)
_ROWS = frozenset({"source", "source_note", "local_note"})
_TOLD = frozenset({"retention.rho"})  # a column of its own; a dense model was asked for any share and keeps everything
# Settings that came after the first records, and what runs before them did: such runs are not set apart.
_ADDED: Mapping[str, Any] = {
    "prune_at": "after_layer",
    "task.head.protect": "special",
    "retention.relaxed": True,
    "retention.bidirectional": False,
    "retention.beta_end": None,
    "retention.gate_target": "attention",
    "retention.token_fusion": False,
    "retention.calibrate_threshold": False,
    "distill.saliency": 0.0,
    "distill.pooled_states": 0.0,
    "distill.token_states": 0.0,
    "backbone.gradient_checkpointing": False,
    "backbone.hidden_dropout": None,
    "budgets.sampled": 0,
    "budgets.sandwich": False,
    "budgets.low": 0.1,
    "budgets.high": 0.7,
    "budgets.in_place_weight": 1.0,
}


def variants(records: Sequence[Mapping[str, Any]], *, short: bool = False) -> list[str]:
    """One label per record: its settings that are not the same in all of them, ``key=value`` each; "" if none.

    Seeds, paths and the machine's settings do not count, so that repetitions of one run share a label. What a run is
    like without an option that came later is not named.

    Args:
        records: result records with a resolved ``config``.
        short: leave out settings that go along with others, and a key's groups where its last part tells it from the
            others; the labels are still as many.
    """
    told = [settings(record.get("config") or {}) for record in records]
    keys = sorted({key for flat in told for key in flat})
    varying = [key for key in keys if len({word(flat.get(key)) for flat in told}) > 1]
    if short:
        varying = _needed(varying, told)
    lasts = [key.rpartition(".")[2] for key in varying]
    names = {key: last if short and lasts.count(last) == 1 else key for key, last in zip(varying, lasts, strict=True)}
    return [
        ", ".join(
            f"{names[key]}={word(flat.get(key))}"
            for key in varying
            if key not in _ADDED or flat.get(key) != _ADDED[key]
        )
        for flat in told
    ]


def _needed(keys: list[str], told: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys without those, from the last on, that the others make up for."""
    kinds = len(_kinds(keys, told))
    for key in reversed(keys):
        others = [other for other in keys if other != key]
        keys = others if len(_kinds(others, told)) == kinds else keys
    return keys


def _kinds(keys: Sequence[str], told: Sequence[Mapping[str, Any]]) -> set[tuple[str, ...]]:
    return {tuple(word(flat.get(key)) for key in keys) for flat in told}


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted key -> value of the settings that define the method, those that came later filled in.

    A checkpoint that was only tested has the encoder settings that it was trained with.
    """
    trained = config.get("trained_backbone", config.get("backbone"))
    return {**_ADDED, **_flat(config if trained is None else {**config, "backbone": trained}, "")}


def training(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are not the policy's own: equal for two policies that were trained alike."""
    return {key: value for key, value in settings(config).items() if not key.startswith("retention.")}


def word(value: Any) -> str:
    """A setting's value as it is told apart and shown."""
    return "null" if value is None else str(value)


def _flat(config: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if key in _INCIDENTAL or key in _ROWS or (not prefix and key in _OUTSIDE):
            continue
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        elif f"{prefix}{key}" in _TOLD:
            continue
        elif not (isinstance(value, str) and "/" in value):  # a path, such as that of the seed's own teacher
            flat[f"{prefix}{key}"] = value
    return flat
