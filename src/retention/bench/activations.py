"""Measure the memory that autograd keeps for the backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from retention.bench.layer_calls import call_at_layers


@dataclass(frozen=True)
class Activations:
    """Memory that one training step keeps between forward and backward pass, mean over the batches.

    Weights, gradients, optimizer state and libraries are left out, because token removal cannot change them.

    Attributes:
        saved_mib: saved when the loss has been computed, in MiB.
        by_layer: saved when each layer has run, cumulative, in MiB.
    """

    saved_mib: float
    by_layer: tuple[float, ...]

    @classmethod
    def mean(cls, steps: Sequence[Activations]) -> Activations:
        """Average at least one step."""
        layers = zip(*(step.by_layer for step in steps), strict=True)
        return cls(fmean(step.saved_mib for step in steps), tuple(fmean(layer) for layer in layers))


class _SavedTensor:
    """Tensor that lives as long as the graph that saved it."""

    __slots__ = ("__weakref__", "tensor")

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class SavedTensors:
    """Count the bytes saved by graphs that are built inside the block (``torch.autograd.graph.saved_tensors_hooks``).

    A storage counts once and as a whole, however many operations saved it or a view of it. Tensors of a discarded part
    of the graph do not count. Under autocast, the converted copies of weights count.

    Args:
        exclude: tensors that are in memory in any case, such as parameters.
    """

    def __init__(self, exclude: Iterable[Tensor]) -> None:
        self._excluded = {_storage_key(tensor) for tensor in exclude}
        self._saved: WeakSet[_SavedTensor] = WeakSet()
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda saved: saved.tensor)

    def __enter__(self) -> SavedTensors:
        self._hooks.__enter__()
        return self

    def __exit__(self, *reason: Any) -> None:
        self._hooks.__exit__(*reason)

    def total_bytes(self) -> int:
        """Return the bytes that are saved now."""
        sizes = {_storage_key(saved.tensor): saved.tensor.untyped_storage().nbytes() for saved in self._saved}
        return sum(size for key, size in sizes.items() if key not in self._excluded)

    def _pack(self, tensor: Tensor) -> _SavedTensor:
        saved = _SavedTensor(tensor.detach())  # an operation that saves its own result would keep the graph alive
        self._saved.add(saved)
        return saved


def measure_saved_activations(
    loss: Callable[[], Tensor], layers: Sequence[nn.Module], exclude: Iterable[Tensor]
) -> Activations:
    """Measure what the graph of a loss saves; the graph is dropped without a backward pass.

    Args:
        loss: runs the forward pass and returns the loss.
        layers: layers of the encoder, in the order they run.
        exclude: tensors that do not count, see ``SavedTensors``.
    """
    after: list[int] = []
    with SavedTensors(exclude) as saved, call_at_layers(layers, lambda: after.append(saved.total_bytes()), "after"):
        result = loss()
        total = saved.total_bytes()
    del result  # frees the graph, which had to live until here
    return Activations(total / 2**20, tuple(size / 2**20 for size in after))


def _storage_key(tensor: Tensor) -> tuple[str, int]:
    return str(tensor.device), tensor.untyped_storage().data_ptr()
