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
        function: replacement; an instance of a module-level class if hooked models are to be pickled.
    """

    def __init__(self, module: nn.Module, name: str, function: Callable[..., Any]) -> None:
        self.module = module
        self.name = name
        self.before = module.__dict__.get(name, _ABSENT)
        module.__dict__[name] = function

    def remove(self) -> None:
        """Restore the previous method."""
        if self.before is _ABSENT:
            del self.module.__dict__[self.name]
        else:
            self.module.__dict__[self.name] = self.before
