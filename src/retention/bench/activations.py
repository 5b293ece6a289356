"""What autograd keeps for the backward pass, in bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Activations:
    """Memory that one training step keeps between forward and backward pass, mean over the batches.

    Weights, gradients, optimiser state and libraries are no part of it, so it is what removal can save.

    Attributes:
        saved_mib: in use when the loss is there.
        by_layer: in use when each layer has run, cumulative.
    """

    saved_mib: float
    by_layer: tuple[float, ...]

    @classmethod
    def mean(cls, steps: Sequence[Activations]) -> Activations:
        """The mean of at least one step."""
        layers = zip(*(step.by_layer for step in steps), strict=True)
        return cls(_mean(step.saved_mib for step in steps), tuple(_mean(layer) for layer in layers))


class _Held:
    """A tensor for as long as the graph that saved it lives."""

    __slots__ = ("__weakref__", "tensor")

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class SavedTensors:
    """Counts what the graphs that are built inside the block hold, by ``torch.autograd.graph.saved_tensors_hooks``.

    A storage counts once and as a whole, however many operations saved it or a view of it; what a discarded part of
    the graph had saved does not count. Under autocast, the converted copies of weights do.

    Args:
        exclude: tensors that are in memory in any case, such as parameters.
    """

    def __init__(self, exclude: Iterable[Tensor]) -> None:
        self._excluded = {_storage(tensor) for tensor in exclude}
        self._held: WeakSet[_Held] = WeakSet()
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda held: held.tensor)

    def __enter__(self) -> SavedTensors:
        self._hooks.__enter__()
        return self

    def __exit__(self, *reason: Any) -> None:
        self._hooks.__exit__(*reason)

    def total_bytes(self) -> int:
        """Bytes held now."""
        storages = {_storage(held.tensor): held.tensor.untyped_storage().nbytes() for held in self._held}
        return sum(size for storage, size in storages.items() if storage not in self._excluded)

    def _pack(self, tensor: Tensor) -> _Held:
        held = _Held(tensor.detach())  # a result that its own operation saves would keep its graph alive
        self._held.add(held)
        return held


def saved_by(loss: Callable[[], Tensor], layers: Sequence[nn.Module], exclude: Iterable[Tensor]) -> Activations:
    """What the graph of a loss holds; the graph is dropped without a backward pass.

    Args:
        loss: runs the forward pass.
        layers: of the encoder, in the order they run.
        exclude: see ``SavedTensors``.
    """
    after: list[int] = []
    with SavedTensors(exclude) as saved, _after_each(layers, lambda: after.append(saved.total_bytes())):
        result = loss()
        total = saved.total_bytes()
    del result  # held until here: with it goes the graph
    return Activations(total / 2**20, tuple(size / 2**20 for size in after))


@contextmanager
def _after_each(layers: Sequence[nn.Module], note: Callable[[], None]) -> Iterator[None]:
    def hook(layer: nn.Module, args: Any, output: Any) -> None:
        note()

    handles = [layer.register_forward_hook(hook) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _storage(tensor: Tensor) -> tuple[str, int]:
    return str(tensor.device), tensor.untyped_storage().data_ptr()


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)
