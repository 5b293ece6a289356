"""Read and write the subfolder ``retention`` of a model folder: settings as JSON, weights of the policy as safetensors.

``config.json`` holds ``format_version``, ``policy`` (class and settings), ``name``, ``prune_at``, ``dropped``,
``protected_ids``, ``budgets`` (lowest and highest target keep ratio of the training), ``pooling`` (null for an encoder
without one), ``protect_query`` and, if calls that give no target keep ratio use another one than the policy's, ``rho``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from retention.engine import adapter_for, encoder_of
from retention.engine.retainer import DROPPED
from retention.errors import CheckpointError, ConfigError
from retention.json_text import parse_json
from retention.models.pooling import POOLINGS
from retention.policies.bases.retention_policy import RetentionPolicy
from retention.policies.dense import Dense
from retention.pretrained.budget import check_rho
from retention.pretrained.stored_policy import build_policy, first_problem, policy_data

FOLDER = "retention"
CONFIG = "config.json"
WEIGHTS = "policy.safetensors"
FORMAT_VERSION = 1

_LARGEST_CONFIG = 2**20  # bytes


@dataclass(frozen=True, kw_only=True)
class RetentionSettings:
    """Settings of token removal that are saved beside a policy.

    Attributes:
        dropped: ``forward`` or ``cut``, see ``retain``.
        prune_at: ``after_layer`` or ``after_attention``, see ``retain``.
        protected_ids: token ids that are never removed.
        budgets: lowest and highest target keep ratio that the policy's weights are for.
        pooling: how an ``Embedder`` pools token states, one of ``retention.models.pooling.POOLINGS``; None without.
        protect_query: never remove the first text of a pair, for rerankers.
        rho: target keep ratio in (0, 1] of calls that give none; None = that of the policy.
    """

    dropped: str = "forward"
    prune_at: str = "after_layer"
    protected_ids: tuple[int, ...] = ()
    budgets: tuple[float, float] = (1.0, 1.0)
    pooling: str | None = None
    protect_query: bool = False
    rho: float | None = None


@dataclass(frozen=True)
class StoredRetention:
    """Policy of a model folder, and its settings.

    Attributes:
        policy: in evaluation mode, built for the encoder.
        settings: of the removal.
    """

    policy: RetentionPolicy
    settings: RetentionSettings


def write_retention(folder: Path, policy: RetentionPolicy, settings: RetentionSettings) -> None:
    """Write settings and weights of a policy into a model folder.

    Raises:
        ConfigError: the policy cannot be saved, see ``policy_data``.
    """
    stored = asdict(settings)
    if settings.rho is None:
        del stored["rho"]  # versions before this setting refuse it
    content = {"format_version": FORMAT_VERSION, "name": policy.name, "policy": policy_data(policy), **stored}
    target = folder / FOLDER
    target.mkdir(exist_ok=True)
    (target / CONFIG).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    weights = {name: value.detach().cpu().contiguous() for name, value in policy.state_dict().items()}
    save_file(weights, target / WEIGHTS)


def read_retention(folder: Path, model: nn.Module, classes: Iterable[type] = ()) -> StoredRetention:
    """Read the policy of a model folder; one without the subfolder has a policy that keeps every token.

    Args:
        folder: the model folder.
        model: its encoder, with or without a head.
        classes: policy classes from outside the package that the caller vouches for.

    Raises:
        CheckpointError: settings or weights cannot be used.
    """
    config: Any = encoder_of(model).config
    family = str(config.model_type)
    shape = adapter_for(family).shape(config)
    path = folder / FOLDER / CONFIG
    if not path.is_file():
        dense = Dense()
        dense.build(shape, family)
        return StoredRetention(dense.eval(), RetentionSettings())
    content = _content(path)
    settings = _settings(content, str(path))
    policy = build_policy(content["policy"], shape, family, str(path), budgets=settings.budgets, classes=classes)
    try:
        check_rho(policy, settings.rho)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {first_problem(error)}") from error
    load_weights(policy, folder)
    return StoredRetention(policy.eval(), settings)


def read_pooling(folder: Path) -> str | None:
    """Return the pooling of a model folder with a policy; None where ``retention/config.json`` names none.

    Raises:
        CheckpointError: the settings cannot be used.
    """
    path = folder / FOLDER / CONFIG
    return _settings(_content(path), str(path)).pooling if path.is_file() else None


def _content(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LARGEST_CONFIG:
            raise CheckpointError(f"{path}: larger than {_LARGEST_CONFIG} bytes, so it is no retention configuration")
        content = parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); copy the folder again") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not valid JSON ({error}); copy the folder again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: must be a JSON object, got a {type(content).__name__}")
    version = content.get("format_version")
    if version != FORMAT_VERSION or isinstance(version, bool):
        raise CheckpointError(
            f"{path}: format_version must be {FORMAT_VERSION}, got {version!r}; update adaptive-retention if the model "
            "is newer"
        )
    keys = {"format_version", "name", "policy", *(field.name for field in fields(RetentionSettings))}
    if unknown := sorted(content.keys() - keys):
        raise CheckpointError(f"{path}: unknown keys ({', '.join(unknown)}); valid keys: {', '.join(sorted(keys))}")
    if missing := sorted(keys - {"rho"} - content.keys()):
        raise CheckpointError(f"{path}: lacks {', '.join(missing)}; save the model again")
    return content


def _settings(content: Mapping[str, Any], source: str) -> RetentionSettings:
    def check(condition: bool, key: str, message: str) -> None:
        if not condition:
            raise CheckpointError(f"{source}: {key}: {message}, got {content[key]!r}")

    ids, budgets, pooling = content["protected_ids"], content["budgets"], content["pooling"]
    rho = content.get("rho")
    check(content["dropped"] in DROPPED, "dropped", f"must be one of {', '.join(DROPPED)}")
    check(isinstance(content["prune_at"], str), "prune_at", "must be after_layer or after_attention")
    valid = isinstance(ids, list) and len(ids) <= 1000 and all(type(each) is int and each >= 0 for each in ids)
    check(valid, "protected_ids", "must be a list of token ids")
    pair = isinstance(budgets, list) and len(budgets) == 2 and all(type(each) in (int, float) for each in budgets)
    check(pair and 0 < budgets[0] <= budgets[1] <= 1, "budgets", "must be two ascending keep ratios in (0, 1]")
    check(pooling is None or pooling in POOLINGS, "pooling", f"must be null or one of {', '.join(POOLINGS)}")
    check(isinstance(content["protect_query"], bool), "protect_query", "must be true or false")
    is_ratio = isinstance(rho, int | float) and not isinstance(rho, bool) and 0 < rho <= 1
    check(rho is None or is_ratio, "rho", "must be null or a target keep ratio in (0, 1]")
    return RetentionSettings(
        dropped=content["dropped"],
        prune_at=content["prune_at"],
        protected_ids=tuple(ids),
        budgets=(float(budgets[0]), float(budgets[1])),
        pooling=pooling,
        protect_query=content["protect_query"],
        rho=None if rho is None else float(rho),
    )


def load_weights(policy: RetentionPolicy, folder: Path) -> None:
    """Copy the weights of a model folder's policy into a policy that was built in the same way.

    Raises:
        CheckpointError: they cannot be read, belong to another policy or encoder, or are not finite.
    """
    path = folder / FOLDER / WEIGHTS
    try:
        weights: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read as safetensors ({error}); copy the folder again") from error
    current = policy.state_dict()
    problems = [f"missing {name}" for name in sorted(current.keys() - weights.keys())]
    problems += [f"unexpected {name}" for name in sorted(weights.keys() - current.keys())]
    problems += [
        f"{name} is {tuple(weights[name].shape)} there and {tuple(current[name].shape)} here"
        for name in sorted(current.keys() & weights.keys())
        if weights[name].shape != current[name].shape
    ]
    if problems:
        raise CheckpointError(f"{path}: is not of this policy and encoder ({'; '.join(problems[:3])})")
    if broken := sorted(name for name, value in weights.items() if not value.isfinite().all()):
        raise CheckpointError(f"{path}: {broken[0]} holds values that are not finite; copy the folder again")
    policy.load_state_dict(weights)
