"""Provide the base class of settings that share one flat configuration node."""

from __future__ import annotations


class FlatConfig:
    """Base class of settings whose fields are written flat in the policy's yaml node.

    Subclasses are frozen, keyword-only dataclasses that check themselves in ``__post_init__`` and name the field as the
    key of the problem. A constructor parameter annotated with a subclass takes its fields from the node of the object
    that is being built: ``retention.beta=0.5`` sets ``GateConfig.beta`` of ``Adaptive(gate=...)``.
    """
