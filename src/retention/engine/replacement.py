"""Replacing a method of one module for a while, without touching its class or its ``state_dict``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import nn

_NOTHING = object()


class Handle(Protocol):
    """Something that can be undone."""

    def remove(self) -> None:
        """Undo it."""


class Replacement:
    """Puts ``function`` in the place of a method until ``remove``.

    Args:
        module: the instance; others of its class keep the method.
        name: of the method.
        function: an object of a module-level class where hooked models are to be pickled.
    """

    def __init__(self, module: nn.Module, name: str, function: Callable[..., Any]) -> None:
        self.module = module
        self.name = name
        self.before = module.__dict__.get(name, _NOTHING)
        module.__dict__[name] = function

    def remove(self) -> None:
        """Put back what was there before."""
        if self.before is _NOTHING:
            del self.module.__dict__[self.name]
        else:
            self.module.__dict__[self.name] = self.before
