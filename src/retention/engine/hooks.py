"""Define the hooks of the engine, which copies of a hooked model do not inherit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class EngineHook:
    """Hook that a retainer registers on a module.

    A copy or pickle of the module gets a ``DetachedHook`` instead: no context would ever remove the hooks of the copy.

    Args:
        function: called with the arguments of the hook.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *args: Any) -> Any:
        """Call the function."""
        return self.function(*args)

    def __reduce__(self) -> tuple[type[DetachedHook], tuple[()]]:
        return DetachedHook, ()


class KeptAlive:
    """Holder of an object that a module keeps alive; empty in copies and pickles of the module.

    Args:
        value: the object.
    """

    def __init__(self, value: object = None) -> None:
        self.value = value

    def __reduce__(self) -> tuple[type[KeptAlive], tuple[()]]:
        return type(self), ()


class DetachedHook:
    """Hook without effect, in a copy of a module that had an ``EngineHook``."""

    def __call__(self, *args: Any) -> None:
        """Do nothing."""
