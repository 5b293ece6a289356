"""Check what every value of a configuration has to be: a finite number, a usable text, no class where none is built."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from retention.errors import Checks, first_line, is_finite

# Objects are built from the other nodes; in `task` from these two.
_PLAIN_NODES = ("trainer", "data", "paths")
_BUILT_IN_TASK = ("task.data", "task.head")


def check_values(config: DictConfig, built: Collection[str] = _BUILT_IN_TASK) -> None:
    """Raise ``ConfigError`` for each value that no setting can have.

    These are numbers that are not finite in float32, texts that cannot be stored or name a file, references to keys
    that do not exist, and a ``_target_`` in a node that is not built.

    Args:
        config: the composed configuration.
        built: the nodes at or in ``task`` that objects are built from.
    """
    checks = Checks()
    for key, value in _items(OmegaConf.to_container(config, resolve=False), ""):
        if isinstance(value, Mapping):
            target = value.get("_target_", "")
            checks.require(isinstance(target, str), f"{key}._target_", f"must be the path of a class, got {target!r}")
            names_class = "_target_" in value and _is_plain(key, built)
            checks.require(not names_class, f"{key}._target_", "no object is built here; give a plain value")
        elif isinstance(value, str) and "${" in value:
            checks.require(*_resolved(config, key))
        elif isinstance(value, str):
            checks.require(_is_storable(value), key, f"has a null character or half a character, got {value!r}")
        elif isinstance(value, float | int):
            checks.require(is_finite(value), key, f"must be a finite number, got {value}")
    checks.finish()


def _resolved(config: DictConfig, key: str) -> tuple[bool, str, str]:
    """Return the arguments of ``Checks.require`` for a value that refers to others."""
    try:
        OmegaConf.select(config, key, throw_on_resolution_failure=True)
    except (OmegaConfBaseException, RecursionError) as error:
        return False, key, first_line(error)
    return True, key, ""


def _is_storable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # a lone surrogate
        return False
    return "\0" not in text


def _is_plain(key: str, built: Collection[str]) -> bool:
    """Return True if no object is built from the node at a key."""
    root = key.partition(".")[0]
    in_task = root == "task" and not any(key == each or key.startswith(f"{each}.") for each in built)
    return in_task or root in _PLAIN_NODES


def _items(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the value of every node and leaf."""
    if path:
        yield path, node
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _items(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _items(value, f"{path}[{index}]")
