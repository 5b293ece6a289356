"""From configuration to objects; every configuration error is collected, then raised once."""

from __future__ import annotations

import difflib
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from retention.errors import Checks, ConfigError

_RANKS: dict[type, tuple[type, ...]] = {float: (float, int), int: (int,), bool: (bool,), str: (str,)}
_UNREADABLE = object()  # a node whose problem is already recorded


class Builder:
    """Builds the objects that ``_target_`` nodes name, and collects what is wrong with them.

    Constructors check their scalars and raise ``ConfigError`` with keys relative to their node; a node with an unknown
    key or a failed child is still built (without the key, with None for the child), so that its own problems show in
    the same message.

    Args:
        config: the composed configuration.
    """

    def __init__(self, config: DictConfig) -> None:
        self.config = config
        self.checks = Checks()

    def make(self, path: str) -> Any:
        """The object of the node at a dotted path; None where it has problems."""
        return self._object(self._plain(path), path)

    def make_later(self, path: str) -> Callable[..., Any]:
        """A constructor with its configured arguments, for objects that need arguments known only later.

        Names and types are checked now; a class with a ``check_settings`` function takes the settings of that
        function only, and their values are checked too.
        """
        target, settings = self._prepare(self._plain(path), path, later=True)
        if target is not None and hasattr(target, "check_settings"):
            self.checks.gather(lambda: target.check_settings(**settings), path)
        return partial(target, **settings) if target is not None else partial(dict)

    def finish(self) -> None:
        """Raise ``ConfigError`` with everything that was found."""
        self.checks.finish()

    def _plain(self, path: str) -> Any:
        try:
            node = OmegaConf.select(self.config, path, throw_on_missing=True)
            if not OmegaConf.is_config(node):
                return node
            return OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
        except OmegaConfBaseException as error:
            self.checks.require(False, path, str(error).splitlines()[0])
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
        target, settings = self._prepare(node, path)
        if target is None:
            return None
        try:
            built = target(**settings)
            return built if len(self.checks.problems) == before else None
        except ConfigError as error:
            self.checks.problems.extend(problem.under(path) for problem in error.problems)
        except (TypeError, ValueError) as error:
            self.checks.require(False, path, str(error))
        return None

    def _prepare(self, node: Any, path: str, *, later: bool = False) -> tuple[Any, dict[str, Any]]:
        if node is _UNREADABLE:
            return None, {}
        if not isinstance(node, Mapping) or "_target_" not in node:
            self.checks.require(False, path, "has no _target_; choose an option of this config group")
            return None, {}
        try:
            target = get_object(str(node["_target_"]))
        except (ImportError, ValueError) as error:
            self.checks.require(False, f"{path}._target_", str(error).splitlines()[0])
            return None, {}
        accepted = _parameters(getattr(target, "check_settings", target) if later else target)
        settings: dict[str, Any] = {}
        fits = True
        for key, value in {str(key): value for key, value in node.items() if key != "_target_"}.items():
            close = difflib.get_close_matches(key, accepted.hints, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known keys: {', '.join(sorted(accepted.hints))}"
            known = accepted.open or key in accepted.hints
            if self.checks.require(known, f"{path}.{key}", f"unknown key; {hint}"):
                fits = self._check_type(value, accepted.hints.get(key), f"{path}.{key}") and fits
                settings[key] = self._value(value, f"{path}.{key}")
        return target if fits else None, settings

    def _check_type(self, value: Any, hint: Any, path: str) -> bool:
        options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        if not all(option in _RANKS or option is type(None) for option in options):
            return True
        accepted = tuple(rank for option in options for rank in _RANKS.get(option, (type(None),)))
        fits = isinstance(value, accepted) and (bool in accepted or not isinstance(value, bool))
        names = " or ".join("null" if option is type(None) else option.__name__ for option in options)
        return self.checks.require(fits, path, f"must be {names}, got {value!r}")


@dataclass(frozen=True)
class _Parameters:
    """What a constructor takes.

    Attributes:
        hints: parameter name -> type hint, None where there is none or it cannot be resolved.
        open: whether it takes any other key as well.
    """

    hints: dict[str, Any]
    open: bool


def _parameters(target: Any) -> _Parameters:
    """Parameters of a constructor; its **settings stand for those of the base class."""
    hints: dict[str, Any] = {}
    for function in _constructors(target):
        signature = inspect.signature(function).parameters.values()
        try:
            known = typing.get_type_hints(function)
        except NameError:  # hints of other libraries may name types that exist for type checkers only
            known = {}
        for parameter in signature:
            if parameter.name != "self" and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                hints.setdefault(parameter.name, known.get(parameter.name))
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature):
            return _Parameters(hints, open=False)
    return _Parameters(hints, open=True)


def _constructors(target: Any) -> list[Any]:
    if not inspect.isclass(target):
        return [target]
    return [cls.__dict__["__init__"] for cls in target.__mro__[:-1] if "__init__" in cls.__dict__]
