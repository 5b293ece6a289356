"""Read what constructors accept: names, types and defaults of the keys of a configuration node."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from dataclasses import dataclass
from typing import Any

from retention.core.settings import FlatConfig


@dataclass(frozen=True)
class Parameters:
    """Keys that a constructor accepts.

    Attributes:
        hints: key -> type hint, None if there is none or it cannot be resolved.
        defaults: key -> default value, of the keys that have one.
        flat: constructor parameter -> ``FlatConfig`` dataclass whose fields stand among the keys.
        open: True if any other key is accepted as well.
    """

    hints: dict[str, Any]
    defaults: dict[str, Any]
    flat: dict[str, type[FlatConfig]]
    open: bool


def constructor_parameters(target: Any) -> Parameters:
    """Return the keys of a class or function.

    The ``**settings`` of a constructor stand for the parameters of its base class. A parameter that is annotated with
    a ``FlatConfig`` is replaced by the fields of that dataclass.
    """
    parameters = Parameters({}, {}, {}, open=True)
    seen: set[str] = set()
    for function in _constructors(target):
        signature = inspect.signature(function).parameters.values()
        try:
            hints = typing.get_type_hints(function)
        except NameError:  # hints of other libraries may name types that exist for type checkers only
            hints = {}
        for parameter in signature:
            variadic = parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
            if parameter.name != "self" and not variadic and parameter.name not in seen:
                seen.add(parameter.name)
                _add(parameters, parameter, hints.get(parameter.name))
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature):
            return dataclasses.replace(parameters, open=False)
    return parameters


def flat_fields(config: type[FlatConfig]) -> list[str]:
    """Return the field names of a ``FlatConfig`` dataclass."""
    return [field.name for field in dataclasses.fields(config)]  # type: ignore[arg-type]


def _add(parameters: Parameters, parameter: inspect.Parameter, hint: Any) -> None:
    options = (hint, *typing.get_args(hint))
    config = next((each for each in options if inspect.isclass(each) and issubclass(each, FlatConfig)), None)
    if config is None:
        parameters.hints[parameter.name] = hint
        if parameter.default is not parameter.empty:
            parameters.defaults[parameter.name] = parameter.default
        return
    parameters.flat[parameter.name] = config
    hints = typing.get_type_hints(config)
    for name in flat_fields(config):
        parameters.hints[name] = hints[name]
        default = config.__dataclass_fields__[name].default  # type: ignore[attr-defined]
        if default is not dataclasses.MISSING:
            parameters.defaults[name] = default


def _constructors(target: Any) -> list[Any]:
    if not inspect.isclass(target):
        return [target]
    return [cls.__dict__["__init__"] for cls in target.__mro__[:-1] if "__init__" in cls.__dict__]
