"""Measure the memory of an encoder's forward pass at inference, layer by layer, by counting live tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from retention.bench.layer_calls import call_at_layers


@dataclass(frozen=True)
class LiveMemory:
    """Largest sum of live tensors during a forward pass, without weights and inputs.

    Attributes:
        embeddings_mib: before layer 0, in MiB.
        by_layer: from the start of each layer to that of the next, gates between them included, in MiB.
    """

    embeddings_mib: float
    by_layer: tuple[float, ...]

    @property
    def peak_mib(self) -> float:
        """Largest of all, in MiB."""
        return max(self.embeddings_mib, *self.by_layer)


class LiveTensors(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follow the storages that operations inside the block create, and the largest sum of those alive at a time.

    A storage counts once and as a whole, from the operation that creates it until nothing refers to it. Memory that a
    kernel uses inside one operation is not seen.

    Args:
        exclude: tensors that are in memory in any case, such as weights and inputs.
    """

    def __init__(self, exclude: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._excluded = {_reference(tensor).cdata for tensor in exclude}
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak_bytes = 0

    def live_bytes(self) -> int:
        """Return the bytes that are alive now."""
        entries = self._alive.items()
        self._alive = {key: entry for key, entry in entries if not entry[0].expired()}  # type: ignore[no-untyped-call]
        return sum(size for _, size in self._alive.values())

    def restart(self) -> int:
        """Return the peak so far and start a new one from what is alive."""
        peak, self.peak_bytes = self.peak_bytes, self.live_bytes()
        return peak

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation and count what is alive after it."""
        result = func(*args, **(kwargs or {}))
        for value in tree_iter(result):
            if isinstance(value, Tensor):
                reference = _reference(value)
                if reference.cdata not in self._excluded:
                    self._alive[reference.cdata] = (reference, value.untyped_storage().nbytes())
        self.peak_bytes = max(self.peak_bytes, self.live_bytes())
        return result


def measure_live_memory(
    forward: Callable[[], object], layers: Sequence[nn.Module], exclude: Iterable[Tensor]
) -> LiveMemory:
    """Measure a forward pass without gradients.

    Args:
        forward: runs the encoder once.
        layers: layers of the encoder, in the order they run.
        exclude: tensors that do not count, see ``LiveTensors``.
    """
    peaks: list[int] = []
    with torch.no_grad(), LiveTensors(exclude) as live:
        with call_at_layers(layers, lambda: peaks.append(live.restart()), "before"):
            result = forward()
        peaks.append(live.restart())
    del result  # alive until here, as the caller of an encoder keeps its output
    embeddings, *by_layer = (peak / 2**20 for peak in peaks)
    return LiveMemory(embeddings, tuple(by_layer))


def _reference(tensor: Tensor) -> StorageWeakRef:
    """Return a reference that does not keep the storage alive."""
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]
