"""Store a policy as plain data, and build it from such data; nothing that the data names is run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, TypeVar

import torch

from retention.core.duals import Dual
from retention.core.flops import EncoderShape
from retention.core.settings import FlatConfig, RecordsSettings
from retention.errors import CheckpointError, ConfigError, Problem
from retention.policies.bases.retention_policy import RetentionPolicy
from retention.policies.registry import available_policies
from retention.records.signatures import Parameters, constructor_parameters, flat_fields
from retention.records.targets import TargetError, dotted_name, resolve_class

T = TypeVar("T", bound=RecordsSettings)

_LARGEST = 2**20  # of a stored number: sizes far above any sensible one would exhaust the memory
_LARGEST_SEED = 2**63 - 1
_REMEDY = "only policies of this package, of installed policy packages and of classes=[...] are built"
_LONGEST = 1000  # of a stored list or text


def policy_data(policy: RetentionPolicy) -> dict[str, Any]:
    """Return class and constructor settings of a policy as plain data.

    Raises:
        ConfigError: the policy was constructed with positional arguments, or with something that is neither a number,
            a text, a list of them, a dual nor one of the settings classes of this package.
    """
    return _object_data(policy, "policy")


def build_policy(
    data: Any,
    shape: EncoderShape,
    family: str,
    source: str,
    *,
    budgets: tuple[float, float],
    classes: Iterable[type] = (),
) -> RetentionPolicy:
    """Build the policy that ``policy_data`` described, with new weights, for an encoder.

    Only policies of this package, of installed policy packages and of ``classes`` are built. The random generators are
    left as they are.

    Args:
        data: as read from a file.
        shape: dimensions of the encoder.
        family: ``model_type`` of the encoder.
        source: file that the data comes from, for messages.
        budgets: lowest and highest target keep ratio that the weights are for.
        classes: further classes that the caller vouches for.

    Raises:
        CheckpointError: the data is not that of an allowed policy, or its settings do not fit the class or the encoder.
    """
    trusted = (*classes, *available_policies().values())
    with torch.random.fork_rng(devices=[]):
        policy = _object(data, RetentionPolicy, trusted, "policy", source)  # type: ignore[type-abstract]
        try:
            low, high = budgets
            if low < high:
                policy.support_budgets(low, high)
            policy.build(shape, family)
        except ConfigError as error:
            raise CheckpointError(f"{source}: the policy does not fit the encoder: {first_problem(error)}") from error
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{source}: the policy cannot be built for the encoder: {error}") from error
    return policy


def _object_data(value: RecordsSettings, path: str) -> dict[str, Any]:
    settings = value.constructor_settings
    if settings is None:
        raise _not_saved(path, f"{type(value).__name__} was constructed with positional arguments; pass them by name")
    stored: dict[str, Any] = {}
    for key, each in settings.items():
        if isinstance(each, FlatConfig):
            fields = dataclasses.asdict(each)  # type: ignore[call-overload]
            stored |= {name: _plain(field, f"{path}.{name}") for name, field in fields.items()}
        elif isinstance(each, Dual):
            stored[key] = _object_data(each, f"{path}.{key}")
        else:
            stored[key] = _plain(each, f"{path}.{key}")
    return {"class": dotted_name(type(value)), "settings": dict(sorted(stored.items()))}


def _plain(value: Any, path: str) -> Any:
    """Return a setting as plain data; what ``_value`` would refuse is refused here."""
    if isinstance(value, str | Sequence) and len(value) > _LONGEST:
        raise _not_saved(path, f"has {len(value)} entries or characters, at most {_LONGEST} can be saved")
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, Real):
        if not abs(float(value)) <= _largest(path):  # false for NaN
            raise _not_saved(path, f"{value} cannot be saved; use a number of magnitude <= {_largest(path)}")
        return int(value) if isinstance(value, Integral) else float(value)
    if isinstance(value, Sequence):
        return [_plain(each, f"{path}[{index}]") for index, each in enumerate(value)]
    raise _not_saved(path, f"a {type(value).__name__} cannot be saved; use numbers, texts and lists of them")


def _not_saved(path: str, message: str) -> ConfigError:
    return ConfigError([Problem(path, message)])


def _object(data: Any, expected: type[T], trusted: Sequence[type], path: str, source: str) -> T:
    """Build the object of a class and settings node."""
    if not isinstance(data, Mapping) or set(data) != {"class", "settings"} or not isinstance(data["settings"], Mapping):
        raise CheckpointError(f"{source}: {path}: must hold 'class' and 'settings' and nothing else")
    try:
        cls = resolve_class(data["class"], expected, trusted)
    except TargetError as error:
        raise CheckpointError(f"{source}: {path}.class: {error}; {_REMEDY}") from error
    if issubclass(cls, RetentionPolicy) and cls not in trusted:
        raise CheckpointError(f"{source}: {path}.class: {data['class']!r} is not a policy; {_REMEDY}")
    arguments = _arguments(data["settings"], constructor_parameters(cls), path, source)
    try:
        return cls(**arguments)
    except ConfigError as error:
        raise CheckpointError(f"{source}: {path}.settings: {first_problem(error)}") from error
    except (TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{source}: {path}.settings: do not fit {cls.__name__} ({error})") from error


def _arguments(settings: Mapping[str, Any], parameters: Parameters, path: str, source: str) -> dict[str, Any]:
    """Return checked keyword arguments; fields of a ``FlatConfig`` are collected into it."""
    arguments: dict[str, Any] = {}
    for key, value in settings.items():
        if key not in parameters.hints and not parameters.open:
            valid = ", ".join(sorted(parameters.hints))
            raise CheckpointError(f"{source}: {path}.settings: unknown key {key!r}; valid keys: {valid}")
        arguments[key] = _value(value, f"{path}.settings.{key}", source)
    for name, config in parameters.flat.items():
        fields = {field: arguments.pop(field) for field in flat_fields(config) if field in arguments}
        if not fields:
            continue
        try:
            arguments[name] = config(**fields)
        except ConfigError as error:
            raise CheckpointError(f"{source}: {path}.settings: {first_problem(error)}") from error
        except TypeError as error:
            raise CheckpointError(f"{source}: {path}.settings: {error}") from error
    return arguments


def _value(value: Any, path: str, source: str) -> Any:
    if isinstance(value, Mapping):  # the only objects among the settings of a policy
        return _object(value, Dual, (), path, source)  # type: ignore[type-abstract]
    if isinstance(value, list | str) and len(value) > _LONGEST:
        raise CheckpointError(f"{source}: {path}: longer than {_LONGEST}, which no policy needs")
    if isinstance(value, list):
        if any(isinstance(each, list | Mapping) for each in value):
            raise CheckpointError(f"{source}: {path}: must be a flat list of numbers")
        return [_value(each, f"{path}[{index}]", source) for index, each in enumerate(value)]
    if isinstance(value, int | float) and not abs(value) <= _largest(path):  # false for NaN
        raise CheckpointError(f"{source}: {path}: must be a number of magnitude <= {_largest(path)}, got {value}")
    return value


def _largest(path: str) -> int:
    return _LARGEST_SEED if path.endswith(".seed") else _LARGEST


def first_problem(error: ConfigError) -> str:
    """Return the first problem of an error, with its key."""
    problem = error.problems[0]
    return f"{problem.key}: {problem.message}" if problem.key else problem.message
