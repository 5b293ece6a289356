"""Replace a method of one module temporarily, without changing its class or its ``state_dict``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import nn

_ABSENT = object()


class Handle(Protocol):
    """Handle of a hook or replacement that can be removed."""

    def remove(self) -> None:
        """Undo the change."""


class Replacement:
    """Replace a method of a module until ``remove`` is called.

    Args:
        module: the instance; others of its class keep the method.
        name: of the method.
        function: replacement.
    """

    def __init__(self, module: nn.Module, name: str, function: Callable[..., Any]) -> None:
        self.module = module
        self.name = name
        self.before = module.__dict__.get(name, _ABSENT)
        self.substitute = Substitute(module, name, function)
        module.__dict__[name] = self.substitute

    def remove(self) -> None:
        """Restore the previous method; one that somebody else has set in the meantime stays."""
        self.substitute.active = False  # for wrappers around it that stay
        if self.module.__dict__.get(self.name) is not self.substitute:
            return
        if self.before is _ABSENT:
            del self.module.__dict__[self.name]
        else:
            self.module.__dict__[self.name] = self.before


class Substitute:
    """Function in place of a method, with the method's signature.

    A copy or pickle of the module gets the original method: nothing would ever remove the replacement from the copy.

    Args:
        module: the instance.
        name: of the method.
        function: called instead of the method while ``active``.

    Attributes:
        original: the method itself.
    """

    def __init__(self, module: nn.Module, name: str, function: Callable[..., Any]) -> None:
        self.function = function
        self.original: Callable[..., Any] = getattr(module, name)
        self.__wrapped__ = self.original  # inspect.signature shows the method's parameters
        self.active = True
        self._module = module
        self._name = name
        self._of_class = name not in module.__dict__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the replacement, or the method once the replacement has been removed."""
        return (self.function if self.active else self.original)(*args, **kwargs)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        if self._of_class:
            return ClassMethodOf, (self._module, self._name)
        return _unchanged, (self.original,)


class ClassMethodOf:
    """Method of a module's class as an attribute of the module, in a copy of a module with a replaced method."""

    def __init__(self, module: nn.Module, name: str) -> None:
        self.module = module
        self.name = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the method."""
        return getattr(type(self.module), self.name)(self.module, *args, **kwargs)


def _unchanged(function: Callable[..., Any]) -> Callable[..., Any]:
    return function
