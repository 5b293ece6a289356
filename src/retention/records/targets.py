"""Resolve the class names of stored configurations to classes of this package, and to nothing else."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from importlib import import_module
from typing import Any, TypeVar

from retention.records.legacy import RENAMED_TARGETS

T = TypeVar("T")

# Subpackages with classes that a configuration may name. Modules outside of them are never imported for a stored name.
_SUBPACKAGES = frozenset({"core", "models", "policies", "tasks", "training"})


class TargetError(ValueError):
    """Raised when a stored configuration names something that must not be built from it."""


def resolve_class(target: Any, expected: type[T], trusted: Iterable[type] = ()) -> type[T]:
    """Return the class that a stored ``_target_`` names.

    Nothing but a class is ever returned: it must be defined in this package (or be one of ``trusted``) and be a
    subclass of ``expected``. Names of earlier versions are translated first.

    Args:
        target: dotted path of the class.
        expected: base class that belongs in this place of the configuration.
        trusted: classes from outside this package that the caller vouches for.

    Raises:
        TargetError: there is no such class, or it is not a subclass of ``expected``.

    Examples:
        >>> resolve_class("retention.core.duals.ExactDual", object).__name__
        'ExactDual'
        >>> resolve_class("os.system", object)
        Traceback (most recent call last):
        ...
        retention.records.targets.TargetError: 'os.system' is not a class of this package
    """
    name = RENAMED_TARGETS.get(target, target) if isinstance(target, str) else ""
    result = next((cls for cls in trusted if dotted_name(cls) == name), None) or _package_class(name)
    if result is None:
        raise TargetError(f"{target!r} is not a class of this package")
    if not issubclass(result, expected):
        raise TargetError(f"{target!r} is not a {expected.__name__}")
    return result


def dotted_name(cls: type) -> str:
    """Return the module and the qualified name of a class."""
    return f"{cls.__module__}.{cls.__qualname__}"


def _package_class(name: str) -> type | None:
    module, _, attribute = name.rpartition(".")
    package, *parts = module.split(".")
    public = all(part.isidentifier() and not part.startswith("_") for part in (*parts, attribute))
    if package != "retention" or not public or not parts or parts[0] not in _SUBPACKAGES:
        return None
    try:
        result = getattr(import_module(module), attribute, None)
    except ModuleNotFoundError:
        return None
    return result if inspect.isclass(result) and result.__module__.startswith("retention.") else None
