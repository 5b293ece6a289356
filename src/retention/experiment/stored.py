"""Read the configuration of a checkpoint as data: nothing that it names is run, only classes of this package are built.

Checkpoints and run folders come from other people. Their configuration may name classes of this package (or of
installed policy packages) in the places where such classes belong, and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from retention.core.duals import Dual
from retention.data.base import RetentionData
from retention.errors import CheckpointError, first_line
from retention.models.backbone import Backbone
from retention.models.head import Head
from retention.policies.bases.retention_policy import RetentionPolicy
from retention.records.defaults import config_groups, default_settings, valid_keys
from retention.records.legacy import upgrade_config
from retention.records.targets import TargetError, resolve_class
from retention.training.budget_sampling import BudgetSampling
from retention.training.distillation import Distillation
from retention.training.optimization import AdamWSettings
from retention.training.phases import TrainingPhases

# Top-level keys that always come from the present command line, never from a checkpoint.
FROM_COMMAND = ("mode", "evaluate", "ckpt", "trainer", "logger", "callbacks", "paths", "record", "output", "compare")
# The nodes of a stored configuration that may name a class, and what the class must be.
EXPECTED_CLASSES: Mapping[str, type] = {
    "task.data": RetentionData,
    "task.head": Head,
    "backbone": Backbone,
    "retention": RetentionPolicy,
    "retention.dual": Dual,
    "dual": Dual,
    "optimizer": AdamWSettings,
    "phases": TrainingPhases,
    "distill": Distillation,
    "budgets": BudgetSampling,
}
_HYDRA_KEYS = frozenset({"_args_", "_partial_", "_recursive_", "_convert_"})
_MAX_DEPTH = 20
_REFERENCE = re.compile(r"\$\{\.*[A-Za-z_]\w*(\.\w+|\[\w+\])*\}")  # to a key; no resolver, no nesting
_PLAIN_TYPES = (str, bool, int, float, type(None))


class StoredTargets:
    """Resolve the ``_target_`` of a stored node to a class that is allowed in its place.

    Args:
        classes: classes from outside the package that the caller vouches for.
        typed: dotted path of a node -> ``_target_`` that the user typed for it on this command line.
    """

    def __init__(self, classes: Iterable[type] = (), typed: Mapping[str, str] | None = None) -> None:
        from retention.policies.registry import available_policies

        self.classes = (*classes, *available_policies().values())
        self.typed = dict(typed or {})

    def __call__(self, target: str, path: str) -> Any:
        """Return the class.

        Raises:
            TargetError: the class is not allowed in this place.
        """
        from_command = path.split(".")[0] in FROM_COMMAND
        if from_command or self.typed.get(path) == target:
            return get_object(target)
        if path not in EXPECTED_CLASSES:
            raise TargetError(f"{target!r}: a checkpoint cannot name a class here")
        try:
            return resolve_class(target, EXPECTED_CLASSES[path], self.classes)
        except TargetError as error:
            remedy = f"if you trust it, pass {path}._target_={target} with mode=test, or load(..., classes=[...])"
            raise TargetError(f"{error}, so it is not loaded from a checkpoint; {remedy}") from None


def stored_config(content: Mapping[str, Any], source: str | Path) -> DictConfig:
    """Return the (unresolved) configuration of a checkpoint, with the key names and defaults of this version.

    Keys that the checkpoint lacks get the defaults of the configuration files; keys of ``FROM_COMMAND`` are left out.

    Args:
        content: the checkpoint, see ``read_checkpoint``.
        source: its path, for error messages.

    Raises:
        CheckpointError: the configuration is incomplete, has unknown keys, or holds anything but plain data.
    """
    kept = plain_config(content, source)
    if "cache" in kept:
        raise CheckpointError(
            f"{source}: is of a decoder with a bounded cache, not of an encoder; to go on with it, repeat its command "
            "with ckpt=last; to use it, load scores.safetensors of its folder with retention.cache.LearnedScores.load"
        )
    _check_targets(kept, "", source)
    _check_keys(kept, source)
    defaults = {key: value for key, value in default_settings().items() if key not in FROM_COMMAND}
    result: DictConfig = OmegaConf.create({**defaults, **{key: _filled(key, node) for key, node in kept.items()}})
    return result


def plain_config(content: Mapping[str, Any], source: str | Path) -> dict[str, Any]:
    """Return the (unresolved) configuration of a checkpoint of any kind as plain data, with present key names.

    Args:
        content: the checkpoint, see ``read_checkpoint``.
        source: its path, for error messages.

    Raises:
        CheckpointError: the configuration holds anything but plain data.
    """
    config = content["hyper_parameters"]["config"]
    if not isinstance(config, dict):
        raise CheckpointError(f"{source}: its configuration is not a mapping")
    kept = {key: value for key, value in config.items() if key not in FROM_COMMAND}
    _check_plain(kept, "", source)
    return upgrade_config(kept)


def storable_config(config: DictConfig) -> dict[str, Any]:
    """Return a configuration as it is stored in checkpoints: references to keys are kept, resolvers are replaced.

    ``${oc.env:HOME}/data`` is stored as the folder that it stands for, since a stored configuration may not ask for
    anything outside of itself. Keys of ``FROM_COMMAND`` are left out.
    """
    kept = OmegaConf.masked_copy(config, [str(key) for key in config if key not in FROM_COMMAND])
    raw = OmegaConf.to_container(kept, resolve=False)
    return {key: _storable(config, node, str(key)) for key, node in dict(raw).items()}  # type: ignore[arg-type]


def _storable(config: DictConfig, node: Any, path: str) -> Any:
    if isinstance(node, dict):
        return {key: _storable(config, value, f"{path}.{key}") for key, value in node.items()}
    if isinstance(node, list):
        return [_storable(config, value, f"{path}[{index}]") for index, value in enumerate(node)]
    if isinstance(node, str) and "${" in _REFERENCE.sub("", node):
        value = OmegaConf.select(config, path)
        return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    return node


def _check_plain(node: Any, path: str, source: str | Path) -> None:
    """Raise ``CheckpointError`` unless a stored node consists of plain values and references to keys."""
    if path.count(".") + path.count("[") > _MAX_DEPTH:
        raise CheckpointError(f"{source}: {path[:80]}...: its configuration is nested too deep")
    if isinstance(node, dict):
        for key, value in node.items():
            if not isinstance(key, str) or key in _HYDRA_KEYS:
                raise CheckpointError(f"{source}: {path or 'config'}: the key {key!r} is not allowed in a checkpoint")
            _check_plain(value, f"{path}.{key}" if path else key, source)
    elif isinstance(node, list):
        for index, value in enumerate(node):
            _check_plain(value, f"{path}[{index}]", source)
    elif type(node) not in _PLAIN_TYPES:
        raise CheckpointError(
            f"{source}: {path}: a {type(node).__name__} is not allowed in a checkpoint's configuration"
        )
    elif isinstance(node, str) and "${" in _REFERENCE.sub("", node):
        raise CheckpointError(
            f"{source}: {path}: {node!r} is not allowed in a checkpoint; "
            "only references to keys such as ${task.rho} are"
        )


def _check_targets(node: Any, path: str, source: str | Path) -> None:
    """Raise ``CheckpointError`` if a class is named where none belongs."""
    if isinstance(node, dict):
        target = node.get("_target_")
        if "_target_" in node and (path not in EXPECTED_CLASSES or not isinstance(target, str) or "${" in target):
            raise CheckpointError(
                f"{source}: {path or 'config'}: a checkpoint cannot name a class here, got {target!r}"
            )
        for key, value in node.items():
            _check_targets(value, f"{path}.{key}" if path else key, source)
    elif isinstance(node, list):
        for index, value in enumerate(node):
            _check_targets(value, f"{path}[{index}]", source)


def _check_keys(config: Mapping[str, Any], source: str | Path) -> None:
    if unknown := sorted(config.keys() - valid_keys()):
        raise CheckpointError(
            f"{source}: its configuration has unknown keys ({', '.join(unknown)}); it was made by a later version, or "
            "by another program"
        )
    groups = config_groups() - set(FROM_COMMAND)
    if missing := sorted(name for name in groups if not isinstance(config.get(name), dict)):
        raise CheckpointError(f"{source}: its configuration lacks {', '.join(missing)}; train the model again")
    for key in ("data", "head"):
        if not isinstance(config["task"].get(key), dict):
            raise CheckpointError(f"{source}: its configuration lacks task.{key}; train the model again")
    for key, default in default_settings().items():
        if isinstance(default, dict) and "_target_" not in default and key in config and key not in FROM_COMMAND:
            names = config[key].keys() if isinstance(config[key], dict) else {key}
            if unknown := sorted(names - default.keys()):
                raise CheckpointError(f"{source}: {key}: unknown keys in its configuration ({', '.join(unknown)})")


def _filled(key: str, node: Any) -> Any:
    """Return a stored node with the keys that were added to the default configuration since."""
    default = default_settings().get(key)
    same = isinstance(default, dict) and isinstance(node, dict) and node.get("_target_") == default.get("_target_")
    return {**default, **node} if same else node  # type: ignore[dict-item]


def plain_container(config: DictConfig, source: str | Path) -> Any:
    """Return a stored configuration with all references resolved.

    Raises:
        CheckpointError: a reference cannot be resolved.
    """
    try:
        return OmegaConf.to_container(config, resolve=True)
    except (OmegaConfBaseException, RecursionError) as error:
        raise CheckpointError(f"{source}: its configuration cannot be resolved ({first_line(error)})") from error
