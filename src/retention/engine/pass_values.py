"""Keep the values of one forward pass apart from those of passes in other threads."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any, Generic, Protocol, TypeVar, overload

Value = TypeVar("Value")


class PassValues:
    """Values by name of the current or last forward pass; every thread has its own.

    Copies and pickles start empty, because values may belong to a graph, which cannot be copied.
    """

    def __init__(self) -> None:
        self._local = threading.local()

    @property
    def current(self) -> dict[str, Any]:
        """Return the values of this thread."""
        values: dict[str, Any] | None = getattr(self._local, "values", None)
        return self.start() if values is None else values

    def start(self) -> dict[str, Any]:
        """Start a forward pass of this thread with no values, and return them."""
        values: dict[str, Any] = {}
        self._local.values = values
        return values

    def snapshot(self) -> dict[str, Any]:
        """Return the values of this thread, independent of what the pass records later."""
        return {name: _copied(value) for name, value in self.current.items()}

    @contextmanager
    def using(self, values: dict[str, Any]) -> Iterator[None]:
        """Use the values of an earlier pass, perhaps of another thread, inside the block."""
        before, self._local.values = self.current, values
        try:
            yield
        finally:
            self._local.values = before

    def __reduce__(self) -> tuple[type[PassValues], tuple[()]]:
        return type(self), ()


def _copied(value: Any) -> Any:
    """Copy containers, also those in the fields of a dataclass, but not what they hold."""
    if isinstance(value, dict | list):
        return copy.copy(value)
    if is_dataclass(value) and not isinstance(value, type):
        clone = copy.copy(value)
        for field in fields(value):
            object.__setattr__(clone, field.name, _copied(getattr(value, field.name)))
        return clone
    return value


class HasPassValues(Protocol):
    """Object with attributes of one forward pass; usually a policy."""

    pass_values: PassValues


class PassValue(Generic[Value]):
    """Attribute of a class that has one value per forward pass and thread, stored in ``pass_values``.

    Args:
        default: makes the value of a pass that has not set it.

    Examples:
        >>> class Policy:
        ...     losses = PassValue[list[float]](list)
        ...
        ...     def __init__(self) -> None:
        ...         self.pass_values = PassValues()
        >>> policy = Policy()
        >>> policy.losses.append(0.5)
        >>> policy.losses
        [0.5]
        >>> _ = policy.pass_values.start()  # the next pass
        >>> policy.losses
        []
    """

    def __init__(self, default: Callable[[], Value]) -> None:
        self.default = default
        self.name = ""

    def __set_name__(self, owner: type[Any], name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type[Any]) -> PassValue[Value]: ...

    @overload
    def __get__(self, instance: HasPassValues, owner: type[Any]) -> Value: ...

    def __get__(self, instance: HasPassValues | None, owner: type[Any]) -> PassValue[Value] | Value:
        """Return the value of this thread's pass."""
        if instance is None:
            return self
        values = instance.pass_values.current
        if self.name not in values:
            values[self.name] = self.default()
        value: Value = values[self.name]
        return value

    def __set__(self, instance: HasPassValues, value: Value) -> None:
        """Set the value of this thread's pass."""
        instance.pass_values.current[self.name] = value
