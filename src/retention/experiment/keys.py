"""Check the keys of a composed configuration outside of its ``_target_`` nodes, which ``Builder`` checks."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from retention.errors import Checks
from retention.records.defaults import default_settings, valid_keys

_GROUPS = ("task", "trainer", "backbone", "retention", "dual")
_TASK_KEYS = ("name", "data", "head", "monitor", "rho", "epochs", "lr", "compare")


def require_keys(config: DictConfig) -> None:
    """Raise ``ConfigError`` if keys that every run needs were removed (``~seed``) or are no nodes (``task=5``)."""
    checks = Checks()
    for key in sorted({*default_settings(), *_GROUPS}):
        checks.require(key in config, key, "is missing; every run needs it")
    content: Any = OmegaConf.to_container(config, resolve=False)
    for name, keys in (*_plain_nodes(), *((group, ()) for group in _GROUPS if group != "task")):
        node = content.get(name, {})
        if checks.require(isinstance(node, dict), name, f"must be a node with keys, got {node!r}"):
            for key in sorted(set(keys) - node.keys()) if name in config else ():
                checks.require(False, f"{name}.{key}", "is missing; every run needs it")
    checks.finish()


def check_keys(config: DictConfig) -> None:
    """Raise ``ConfigError`` if the top level or a node that is no object has unknown keys."""
    checks, valid = Checks(), valid_keys()
    for key in sorted(str(key) for key in config):
        checks.require(key in valid, key, unknown_key(key, valid))
    for name, keys in _plain_nodes():
        for key in sorted(str(key) for key in config[name]):
            checks.require(key in keys, f"{name}.{key}", unknown_key(key, keys))
    checks.finish()


def unknown_key(key: str, valid: Collection[str], shown: str = "{}") -> str:
    """Return the message for an unknown key: the most similar valid key, or all of them.

    Args:
        key: name of the key in its node.
        valid: names that the node can have.
        shown: how a suggested key is shown; ``{}`` stands for its name.

    Examples:
        >>> unknown_key("roh", ["rho", "slope"], "retention.{}")
        'unknown key; did you mean retention.rho?'
        >>> unknown_key("zzz", ["slope", "rho"])
        'unknown key; valid keys: rho, slope'
    """
    close = difflib.get_close_matches(key, sorted(valid), n=1)
    if close:
        return f"unknown key; did you mean {shown.format(close[0])}?"
    return f"unknown key; valid keys: {', '.join(sorted(valid))}"


def _plain_nodes() -> Iterator[tuple[str, Collection[str]]]:
    """Yield each node that is no object, with the keys it has."""
    for name, node in default_settings().items():
        if isinstance(node, dict) and "_target_" not in node:
            yield name, node.keys()
    yield "task", _TASK_KEYS
