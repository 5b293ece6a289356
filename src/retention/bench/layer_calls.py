"""Call a function whenever a layer of an encoder runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from torch import nn


@contextmanager
def call_at_layers(
    layers: Sequence[nn.Module], callback: Callable[[], object], when: Literal["before", "after"]
) -> Iterator[None]:
    """Call ``callback`` before or after each layer that runs inside the block.

    Args:
        layers: layers of the encoder.
        callback: takes no arguments; its result is ignored.
        when: ``before`` a layer runs, or ``after`` it has run.
    """

    def hook(*_: Any) -> None:
        callback()

    if when == "before":
        handles = [layer.register_forward_pre_hook(hook) for layer in layers]
    else:
        handles = [layer.register_forward_hook(hook) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
