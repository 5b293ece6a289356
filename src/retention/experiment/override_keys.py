"""Check that the keys on a command line exist in the configuration, before Hydra refuses them in its own words."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from retention.errors import Checks
from retention.experiment.hydra_setup import config_dir
from retention.experiment.keys import unknown_key
from retention.experiment.run_config import CONFIG, read_run_config
from retention.records.signatures import constructor_parameters
from retention.records.targets import TargetError, resolve_class

_OTHER_FILES = ("--config", "-cp", "-cn", "-cd")  # flags that choose other configuration files


def complete_overrides(arguments: Sequence[str]) -> list[str]:
    """Return the arguments of a command, with a plus sign before keys that only the tested run has.

    With ``mode=test`` Hydra composes the default task, while the settings are those of the checkpoint. Policies of
    other packages must be registered.

    Args:
        arguments: of the command line.

    Raises:
        ConfigError: keys that neither the composed configuration nor that of the tested run has; other faults are left
            to Hydra.
    """
    if any(argument.startswith(_OTHER_FILES) for argument in arguments):
        return list(arguments)
    words = _single_values([each for each in arguments if "=" in each and not each.startswith("-")])
    tested, added, checks = _tested_run(words), set(), Checks()
    while (error := _missing_key(words)) is not None:
        path = str(error.full_key)
        unknown = [word for word in words if _key(word) == path or _key(word).startswith(f"{path}.")]
        if not unknown:
            break
        for word in unknown:
            if _has(tested, _key(word)):
                added.add(_key(word))
            else:
                checks.require(False, _key(word), _message(word, path, error))
        words = [word for word in words if word not in unknown]
    checks.finish()
    return [f"+{argument}" if _key(argument) in added else argument for argument in arguments]


def _tested_run(words: Sequence[str]) -> Mapping[str, Any]:
    """Return the configuration in the folder of the checkpoint that is tested, as plain data; empty without one."""
    values = dict(word.split("=", 1) for word in words)
    path = values.get("ckpt", "").strip("'\"")
    content = read_run_config(Path(path).resolve().parent.parent / CONFIG) if values.get("mode") == "test" else None
    return content or {}


def _has(config: Mapping[str, Any], key: str) -> bool:
    """Return True if a configuration has a key, or its node is of a class with such a parameter."""
    *parents, name = key.split(".")
    node: Any = config
    for parent in parents:
        node = node.get(parent) if isinstance(node, Mapping) else None
    return isinstance(node, Mapping) and (name in node or name in _options(".".join(parents), node))


def _single_values(words: Sequence[str]) -> list[str]:
    """Return overrides with the first value of each that has several.

    A sweep recipe may choose the groups that swept keys belong to, so these are left out beside one.
    """
    parser = OverridesParser.create()
    single = []
    for word in words:
        try:
            override = parser.parse_override(word)
            if not override.is_sweep_override():
                single.append(word)
            elif not any(_key(each) == "sweep" for each in words):
                single.append(f"{word.partition('=')[0]}={next(iter(override.sweep_string_iterator()))}")
        except (HydraException, TypeError):  # of a sweep over an interval, which has no values to list
            single.append(word)
    return single


def _missing_key(words: Sequence[str]) -> OmegaConfBaseException | None:
    """Compose the configuration; return the error of the first override whose key does not exist."""
    try:
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            compose("config", overrides=list(words))
    except HydraException as error:
        cause = error.__cause__
        return cause if isinstance(cause, ConfigAttributeError | ConfigKeyError) else None
    except OmegaConfBaseException:
        return None
    return None


def _message(word: str, path: str, error: OmegaConfBaseException) -> str:
    """Return what is wrong with an override.

    Args:
        word: the override.
        path: dotted path of the first part of its key that does not exist.
        error: of OmegaConf; it holds the node that lacks the key.
    """
    parent, dot, name = path.rpartition(".")
    node = error.parent_node if isinstance(error.parent_node, Mapping) else {}
    options = _options(parent, node)
    if name in options and path == _key(word):
        return f"is not in the configuration files; add it with a plus sign: +{word}"
    valid = ({str(key) for key in node} | options) - {"_target_"}
    if not valid:
        return f"unknown key; {parent} has no keys"
    return unknown_key(name, valid, f"{parent}{dot}{{}}{_key(word).removeprefix(path)}")


def _options(path: str, node: Mapping[str, object]) -> set[str]:
    """Return the keys that a node can have beside those in the configuration files."""
    if path == "trainer":
        return set(inspect.signature(pl.Trainer).parameters)
    with suppress(TargetError):
        target = resolve_class(node.get("_target_"), object)
        return set(constructor_parameters(getattr(target, "check_settings", target)).hints)
    return set()


def _key(word: str) -> str:
    return word.partition("=")[0]
