"""Tell runs of one policy apart by the settings in which they differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from retention.records.defaults import derived_defaults

# Output folders, hardware and the seed are not part of the method; the rows are described by the record's ``data``.
_OUTSIDE = frozenset(
    {"paths", "output", "record", "logger", "callbacks", "hydra", "mode", "evaluate", "trained_backbone"}
)
_INCIDENTAL = frozenset(
    {
        "seed",
        "ckpt",
        "dir",
        "dirpath",
        "save_dir",
        "accelerator",
        "devices",
        "precision",
        "num_workers",
        "compare",
        "_target_",
    }
)
# Of these, what can change the scores of a run; of two runs that differ in nothing else, the later one counts.
_INCIDENTAL_RESULTS = frozenset({"seed", "accelerator", "devices", "precision"})
DATA_SEED = "data.seed"  # draws the training rows; counts where it is not the seed of the run
_ROWS = frozenset({"texts", "source", "source_note", "local_note", "provenance", "local_provenance"})
_TABLE_COLUMNS = frozenset({"retention.rho"})  # shown in a column of its own
GIVEN = "given"  # stands for every path
PRUNE_AT = "after_layer"  # of records that do not say where tokens leave
# Settings whose default differs from what runs did before the setting was added.
_BEFORE_ADDED: Mapping[str, Any] = {
    "retention.calibrate_threshold": False,
    "retention.frozen": False,  # LTP, ToP, PoWER-BERT: parameters kept moving during hard pruning
    "retention.predictor": "mlp",  # Transkimmer, Infor-Coef: predictor of half the width
    "retention.soft_gates": False,  # Transkimmer, Infor-Coef: tokens were removed in the soft phase
    "retention.unmerge": False,  # ToMe: merged tokens returned with the state in which they were merged
    "retention.rate": 1.0,  # ToP: bins learned at the policy's rate (LTP's rate is in every record)
}


def variants(records: Sequence[Mapping[str, Any]], *, short: bool = False) -> list[str]:
    """Return one label per record: its settings that are not the same in all records, as ``key=value``; "" if none.

    Seeds, paths and hardware settings do not count, so repetitions of one run share a label. Default values are not
    named; a setting that a record lacks, because it was added later, has its default.

    Args:
        records: result records with a resolved ``config``.
        short: leave out settings that always vary together with others, and shorten a key to its last part where that
            is unambiguous; there are as many distinct labels as without it.
    """
    configs = [_method(record.get("config") or {}) for record in records]
    defaults = [_defaults(config) for config in configs]
    filled = [{**default, **_settings(config)} for config, default in zip(configs, defaults, strict=True)]
    keys = sorted({key for flat in filled for key in flat})
    if len({data_seed(config) for config in configs}) == 1:
        keys.remove(DATA_SEED)  # all runs draw the same rows, also the one whose seed is equal
    varying = [key for key in keys if len({word(flat.get(key)) for flat in filled}) > 1]
    if short:
        varying = _sufficient(varying, filled)
    last_parts = [key.rpartition(".")[2] for key in varying]
    names = {
        key: last if short and last_parts.count(last) == 1 else key
        for key, last in zip(varying, last_parts, strict=True)
    }
    return [
        ", ".join(
            f"{names[key]}={word(flat.get(key))}"
            for key in varying
            if not (key in flat and key in default and flat[key] == default[key])
        )
        for flat, default in zip(filled, defaults, strict=True)
    ]


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return dotted key -> value of the settings that define the method; missing ones have their defaults.

    A checkpoint that was only tested has the encoder settings that it was trained with.
    """
    method = _method(config)
    return {**_defaults(method), **_settings(method)}


def training(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings outside of the policy's node: equal for two policies that were trained alike."""
    return {key: value for key, value in settings(config).items() if not key.startswith("retention.")}


def incidental_differences(config: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return ``key=value (not other value)`` for settings that do not tell runs apart, such as precision.

    Args:
        config: resolved configuration of a run.
        other: that of a run with equal ``settings`` and seed.
    """
    values = [dict(_incidental(_method(each), "")) for each in (config, other)]
    shared = [key for key in values[0] if key in values[1]]
    return [
        f"{key}={word(values[0][key])} (not {word(values[1][key])})"
        for key in shared
        if values[0][key] != values[1][key]
    ]


def model_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what, beside policy and keep ratio, tells the models of one comparison apart.

    Args:
        config: resolved configuration of a run.

    Returns:
        ``layers`` (kept layers of a shallower student: a number, a list, or None = all), ``saliency`` (weight of the
        saliency distillation), ``prune_at``, ``lr`` (learning rate) and ``epochs``.
    """
    flat = settings(config)
    return {
        "layers": flat.get("backbone.layers"),
        "saliency": flat.get("distill.saliency", 0.0),
        "prune_at": flat.get("prune_at", PRUNE_AT),
        "lr": flat.get("task.lr"),
        "epochs": flat.get("trainer.max_epochs"),
    }


def word(value: Any) -> str:
    """Return the text by which a setting's value is compared and shown."""
    return "null" if value is None else str(value)


def _method(config: Mapping[str, Any]) -> Mapping[str, Any]:
    trained = config.get("trained_backbone")
    return config if trained is None else {**config, "backbone": trained}


def _defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return dotted key -> value of settings that a configuration may leave out."""
    values = derived_defaults(config)
    values |= {key: value for key, value in _BEFORE_ADDED.items() if key in values}
    return {key: value for key, value in values.items() if _defines_method(key)} | {DATA_SEED: None}


def _sufficient(keys: list[str], flats: Sequence[Mapping[str, Any]]) -> list[str]:
    """Drop keys, from the last on, as long as the remaining ones tell as many kinds of records apart."""
    kinds = len(_kinds(keys, flats))
    for key in reversed(keys):
        others = [other for other in keys if other != key]
        keys = others if len(_kinds(others, flats)) == kinds else keys
    return keys


def _kinds(keys: Sequence[str], flats: Sequence[Mapping[str, Any]]) -> set[tuple[str, ...]]:
    return {tuple(word(flat.get(key)) for key in keys) for flat in flats}


def _defines_method(key: str) -> bool:
    parts = key.split(".")
    return key not in _TABLE_COLUMNS and parts[0] not in _OUTSIDE and not (_INCIDENTAL | _ROWS) & set(parts)


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return dotted key -> value of the settings that a configuration has, with the seed of other training rows."""
    seed = data_seed(config)
    return {**_flat(config, ""), **({} if seed == config.get("seed") else {DATA_SEED: seed})}


def data_seed(config: Mapping[str, Any]) -> Any:
    """Return the seed that draws the training rows, by default that of the run."""
    nodes = ((config.get("task") or {}).get("data"), config.get("data"), config)
    return next((node["seed"] for node in nodes if isinstance(node, Mapping) and "seed" in node), None)


def _incidental(config: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            if prefix or name not in _OUTSIDE:
                yield from _incidental(value, f"{prefix}{name}.")
        elif name in _INCIDENTAL_RESULTS:
            yield f"{prefix}{name}", value


def _flat(config: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in config.items():
        key = f"{prefix}{name}"
        if not _defines_method(key):
            continue
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{key}.")
        else:  # of a path, for example of the dense model of the same seed, only that there is one
            flat[key] = GIVEN if isinstance(value, str) and "/" in value else value
    return flat
