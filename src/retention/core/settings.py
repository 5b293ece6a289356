"""Provide base classes of settings, and of classes that are saved with the settings they were constructed with."""

from __future__ import annotations

from typing import Any, Self


class RecordsSettings:
    """Base class that keeps the keyword arguments of its constructor, so that an equal object can be built later.

    Attributes:
        constructor_settings: keyword arguments by name; None if positional arguments were passed, whose names are not
            known.
    """

    constructor_settings: dict[str, Any] | None

    def __new__(cls, *args: Any, **settings: Any) -> Self:
        """Create the object and record the keyword arguments."""
        created = super().__new__(cls)
        created.__dict__["constructor_settings"] = None if args else settings
        return created


class FlatConfig:
    """Base class of settings whose fields are written flat in the policy's yaml node.

    Subclasses are frozen, keyword-only dataclasses that check themselves in ``__post_init__`` and name the field as the
    key of the problem. A constructor parameter annotated with a subclass takes its fields from the node of the object
    that is being built: ``retention.beta=0.5`` sets ``GateConfig.beta`` of ``Adaptive(gate=...)``.
    """
