"""Build the objects of a configuration; collect all configuration errors and raise them once."""

from __future__ import annotations

import logging
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from retention.errors import Checks, ConfigError, RetentionError, first_line, is_finite
from retention.experiment.keys import unknown_key
from retention.records.signatures import Parameters, constructor_parameters, flat_fields

_ACCEPTED: dict[type, tuple[type, ...]] = {float: (float, int), int: (int,), bool: (bool,), str: (str,)}
log = logging.getLogger(__name__)

_UNREADABLE = object()  # a node whose problem is already recorded

Resolve = Callable[[str, str], Any]  # (_target_, dotted path of its node) -> class or function


class Builder:
    """Build the objects that ``_target_`` nodes name, and collect what is wrong with them.

    Constructors check their scalars and raise ``ConfigError`` with keys relative to their node. A node with an unknown
    key or a faulty child is still built (without the key, with None for the child), so that its own problems show in
    the same message.

    Args:
        config: the composed configuration.
        resolve: finds the class of a ``_target_``; the default finds any class or function, as Hydra does.
            Configurations that the user did not write need a stricter one, see ``stored.StoredTargets``.
    """

    def __init__(self, config: DictConfig, resolve: Resolve | None = None) -> None:
        self.config = config
        self.checks = Checks()
        self._resolve = resolve or _any_target

    def make(self, path: str) -> Any:
        """Build the object of the node at a dotted path; return None if it has problems."""
        return self._object(self._plain(path), path)

    def make_later(self, path: str) -> Callable[..., Any]:
        """Return a constructor with its configured arguments, for objects with arguments that are known only later.

        Names and types are checked now. A class with a ``check_settings`` function takes the settings of that function
        only, and their values are checked too.
        """
        target, settings = self._arguments(self._plain(path), path, later=True)
        if target is not None and hasattr(target, "check_settings"):
            self.checks.gather(lambda: target.check_settings(**settings), path)
        return partial(target, **settings) if target is not None else partial(dict)

    def finish(self) -> None:
        """Raise ``ConfigError`` with all collected problems, if any."""
        self.checks.finish()

    def _plain(self, path: str) -> Any:
        try:
            node = OmegaConf.select(self.config, path, throw_on_missing=True)
            if not OmegaConf.is_config(node):
                return node
            return OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
        except OmegaConfBaseException as error:
            self.checks.require(False, path, first_line(error))
            return _UNREADABLE

    def _value(self, node: Any, path: str) -> Any:
        if isinstance(node, Mapping):
            if "_target_" in node:
                return self._object(node, path)
            return {key: self._value(value, f"{path}.{key}") for key, value in node.items()}
        if isinstance(node, list):
            return [self._value(value, f"{path}[{index}]") for index, value in enumerate(node)]
        return node

    def _object(self, node: Any, path: str) -> Any:
        before = len(self.checks.problems)
        target, settings = self._arguments(node, path)
        if target is None:
            return None
        built = self._call(target, settings, path)
        return built if len(self.checks.problems) == before else None

    def _call(self, target: Any, settings: Mapping[str, Any], path: str) -> Any:
        try:
            return target(**settings)
        except ConfigError as error:
            self.checks.problems.extend(problem.under(path) for problem in error.problems)
        except (TypeError, ValueError) as error:
            self.checks.require(False, path, str(error))
        except RetentionError:
            raise
        except Exception as error:  # classes of other libraries raise errors of many types
            log.debug("%s: %s cannot be built", path, target, exc_info=error)
            self.checks.require(False, path, f"{type(error).__name__}: {' '.join(str(error).split())}")
        return None

    def _arguments(self, node: Any, path: str, *, later: bool = False) -> tuple[Any, dict[str, Any]]:
        """Return the class or function of a node and its checked keyword arguments; (None, {}) if unusable."""
        if node is _UNREADABLE:
            return None, {}
        if not isinstance(node, Mapping) or "_target_" not in node:
            self.checks.require(False, path, "has no _target_; choose an option of this config group")
            return None, {}
        name = node["_target_"]
        valid = isinstance(name, str) and re.fullmatch(r"[^\W\d]\S*\.\S+", name) is not None
        if not self.checks.require(valid, f"{path}._target_", f"must be the path of a class, got {name!r}"):
            return None, {}
        try:
            target = self._resolve(name, path)
        except (ImportError, ValueError) as error:
            self.checks.require(False, f"{path}._target_", " ".join(str(error).split()))
            return None, {}
        if not self.checks.require(callable(target), f"{path}._target_", f"{name} is not a class or function"):
            return None, {}
        parameters = constructor_parameters(getattr(target, "check_settings", target) if later else target)
        settings: dict[str, Any] = {}
        fits = True
        for key, value in {str(key): value for key, value in node.items() if key != "_target_"}.items():
            valid = parameters.open or key in parameters.hints
            if self.checks.require(valid, f"{path}.{key}", unknown_key(key, parameters.hints)):
                fits = self._check_type(value, parameters.hints.get(key), f"{path}.{key}") and fits
                settings[key] = self._value(value, f"{path}.{key}")
                if not _is_no_node(value):
                    fits = self._check_class(settings[key], parameters.hints.get(key), f"{path}.{key}") and fits
        return (target, self._with_flat_configs(settings, parameters, path)) if fits else (None, settings)

    def _with_flat_configs(self, settings: dict[str, Any], parameters: Parameters, path: str) -> dict[str, Any]:
        """Replace the fields of each ``FlatConfig`` by the dataclass built from them."""
        for name, config in parameters.flat.items():
            fields = {field: settings.pop(field) for field in flat_fields(config) if field in settings}
            if fields and (built := self._call(config, fields, path)) is not None:
                settings[name] = built
        return settings

    def _check_class(self, built: Any, hint: Any, path: str) -> bool:
        """Record a problem if the object of a node is not of the class that the constructor takes."""
        options = _options(hint)
        if built is None or not _needs_node(options):
            return True
        fits = isinstance(built, tuple(options))
        message = f"must name a {_class_names(options)}, got a {type(built).__name__}"
        return self.checks.require(fits, f"{path}._target_", message)

    def _check_type(self, value: Any, hint: Any, path: str) -> bool:
        options = _options(hint)
        if not all(option in _ACCEPTED or option is type(None) for option in options):
            message = f"must be a node with a _target_ that names a {_class_names(options)}, got {value!r}"
            return self.checks.require(not (_needs_node(options) and _is_no_node(value)), path, message)
        accepted = tuple(kind for option in options for kind in _ACCEPTED.get(option, (type(None),)))
        fits = isinstance(value, accepted) and (bool in accepted or not isinstance(value, bool))
        if fits and isinstance(value, float | int) and not is_finite(value):
            return self.checks.require(False, path, f"must be a finite number, got {value}")
        names = " or ".join("null" if option is type(None) else option.__name__ for option in options)
        return self.checks.require(fits, path, f"must be {names}, got {value!r}")


def _options(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def _is_no_node(value: Any) -> bool:
    """Return True if no object can be built from a value."""
    return value is not None and not (isinstance(value, Mapping) and "_target_" in value)


def _needs_node(options: Sequence[Any]) -> bool:
    """Return True if a value must be an object of a class of this package, or None."""
    classes = [option for option in options if option is not type(None)]
    return all(isinstance(each, type) and each.__module__.startswith("retention.") for each in classes)


def _class_names(options: Sequence[Any]) -> str:
    return " or ".join(getattr(option, "__name__", str(option)) for option in options if option is not type(None))


def _any_target(target: str, path: str) -> Any:
    del path
    return get_object(target)
