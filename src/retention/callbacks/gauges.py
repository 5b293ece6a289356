"""Gauges of peak memory: one per way of measuring it."""

from __future__ import annotations

import resource
import sys
from abc import ABC, abstractmethod
from pathlib import Path

import torch

_MIB = 2**20
_CLEAR_REFS = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


class Gauge(ABC):
    """A high-water mark of memory.

    Attributes:
        kind: what the number is, as written to the result records.
    """

    kind: str

    @abstractmethod
    def reset(self) -> None:
        """Start again from the memory in use now."""

    @abstractmethod
    def peak_mib(self) -> float:
        """Highest use since the last reset, in MiB."""


class CudaGauge(Gauge):
    """Peak of the memory that PyTorch allocated on one CUDA device; neither call waits for the device."""

    kind = "cuda_allocated"

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def reset(self) -> None:
        torch.cuda.reset_peak_memory_stats(self._device)

    def peak_mib(self) -> float:
        return float(torch.cuda.max_memory_allocated(self._device)) / _MIB


class ResidentGauge(Gauge):
    """Peak resident memory of this process since the last reset (Linux).

    Writing 5 to ``/proc/self/clear_refs`` sets the mark ``VmHWM`` back to the present size (proc(5)). The mark counts
    everything resident: weights, data, Python itself, and memory the allocator holds on to after freeing.
    """

    kind = "resident_peak"

    def reset(self) -> None:
        _CLEAR_REFS.write_text("5")

    def peak_mib(self) -> float:
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
        raise OSError(f"{_STATUS} has no VmHWM line")

    @classmethod
    def works(cls) -> bool:
        """Whether this system lets the process reset and read its own mark; some containers do not."""
        gauge = cls()
        try:
            gauge.reset()
            gauge.peak_mib()
        except OSError:
            return False
        return True


class ProcessGauge(Gauge):
    """Peak resident memory of the process since it started; it cannot be reset, so a later stage never reads lower."""

    kind = "resident_peak_of_process"

    def reset(self) -> None:
        """Nothing: the system keeps this mark for the life of the process."""

    def peak_mib(self) -> float:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        # macOS counts bytes, every other system KiB (getrusage(2))
        return peak / (_MIB if sys.platform == "darwin" else 1024)


def gauge_for(device: torch.device) -> Gauge:
    """The best gauge for a device: CUDA's own, else resident memory, resettable where the system allows it."""
    if device.type == "cuda":
        return CudaGauge(device)
    return ResidentGauge() if ResidentGauge.works() else ProcessGauge()
