"""Provide the default configuration: for keys that an older checkpoint or record lacks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from retention.records.signatures import constructor_parameters
from retention.records.targets import TargetError, resolve_class

_PACKAGE = Path(__file__).resolve().parents[1]
_PLAIN = bool | int | float | str | None


def config_dir() -> Path:
    """Return the folder with the yaml files: inside the installed package, or ``conf/`` of a source checkout."""
    packaged = _PACKAGE / "conf"
    return packaged if packaged.is_dir() else _PACKAGE.parents[1] / "conf"


@cache
def config_groups() -> frozenset[str]:
    """Return the config groups that every run has, such as ``task`` and ``retention``."""
    groups = [entry for entry in _main_file()["defaults"] if isinstance(entry, Mapping)]
    return frozenset(str(name) for entry in groups for name, option in entry.items() if option is not None)


@cache
def default_settings() -> Mapping[str, Any]:
    """Return the top-level keys of the main configuration file with their (unresolved) default values."""
    return {key: value for key, value in _main_file().items() if key not in ("defaults", "hydra")}


def valid_keys() -> frozenset[str]:
    """Return the top-level keys of a composed configuration."""
    return config_groups() | default_settings().keys()


def derived_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return dotted key -> value that a run has where its configuration does not mention the key.

    The values are the defaults of the main configuration file and of the constructors that the nodes name.

    Args:
        config: plain configuration; nodes that name unknown classes have no defaults.
    """
    values = dict(_scalars(default_settings(), ""))
    return values | dict(_constructor_defaults(config, ""))


def _main_file() -> dict[str, Any]:
    content: Any = OmegaConf.to_container(OmegaConf.load(config_dir() / "config.yaml"), resolve=False)
    return dict(content)


def _scalars(node: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _scalars(value, f"{prefix}{key}.")
        elif isinstance(value, _PLAIN) and not (isinstance(value, str) and "${" in value):
            yield f"{prefix}{key}", value


def _constructor_defaults(node: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in (_defaults_of(node["_target_"]) if "_target_" in node else {}).items():
        yield f"{prefix}{key}", value
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _constructor_defaults(value, f"{prefix}{key}.")


@cache
def _defaults_of(target: str) -> dict[str, Any]:
    try:
        defaults = constructor_parameters(resolve_class(target, object)).defaults
    except TargetError:
        return {}
    return {key: value for key, value in defaults.items() if isinstance(value, _PLAIN)}
