"""Run layers of a finished forward pass again in the backward pass, as gradient checkpointing does."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from retention.engine.state import ForwardState

_REENTRANT = (
    "gradient checkpointing with use_reentrant=True loses gradients of removed tokens and gates; call "
    "model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={'use_reentrant': False})"
)


class Recomputing(Protocol):
    """Owner of forward passes; in practice a ``Retainer``."""

    prune_at: str

    def current_state(self) -> ForwardState:
        """Return the state of the forward pass that runs in this thread."""

    def capture(self) -> Callable[[], AbstractContextManager[None]]:
        """Return a function that makes a context in which a part of the present pass can run again."""


class RecomputedLayer:
    """Replacement for the checkpointing function of one layer: recomputes it with the state of its own forward pass.

    Several passes may run before the first backward pass, and the backward pass may follow outside of the retainer's
    context or in another thread, so hooks inside the layer must not use the state of the latest pass.

    Args:
        owner: of the forward pass.
        checkpoint: the layer's function, ``torch.utils.checkpoint.checkpoint`` with its settings.
    """

    def __init__(self, owner: Recomputing, checkpoint: Callable[..., Any]) -> None:
        self.owner = owner
        self.checkpoint = checkpoint

    def __call__(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run ``function``, the layer's forward pass, under checkpointing.

        Raises:
            RuntimeError: reentrant checkpointing where it would give wrong gradients.
        """
        if is_reentrant(self.checkpoint):
            log_gates = self.owner.current_state().log_gates
            soft = log_gates is not None and log_gates.requires_grad
            if soft or self.owner.prune_at == "after_attention":
                raise RuntimeError(_REENTRANT)
        again = self.owner.capture()
        first_run = True

        def run(*inputs: Any) -> Any:
            nonlocal first_run
            if first_run:
                first_run = False
                return function(*inputs)
            with again():
                return function(*inputs)

        return self.checkpoint(run, *args)


def is_reentrant(checkpoint: Callable[..., Any]) -> bool:
    """Return True if a checkpointing function, a ``functools.partial``, does not disable ``use_reentrant``."""
    keywords = getattr(checkpoint, "keywords", None)
    return keywords is not None and keywords.get("use_reentrant", True) is not False
