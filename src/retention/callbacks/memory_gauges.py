"""Read the peak memory of a process or device."""

from __future__ import annotations

import resource
import sys
from abc import ABC, abstractmethod
from pathlib import Path

import torch

_MIB = 2**20
_CLEAR_REFS = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


class MemoryGauge(ABC):
    """Peak memory since the last reset.

    Attributes:
        kind: what the number counts, as written to the result records.
    """

    kind: str

    @abstractmethod
    def reset(self) -> None:
        """Set the peak to the memory in use now."""

    @abstractmethod
    def peak_mib(self) -> float:
        """Return the highest use since the last reset, in MiB."""


class CudaMemoryGauge(MemoryGauge):
    """Peak memory that PyTorch allocated on one CUDA device; reading it does not synchronize."""

    kind = "cuda_allocated"

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def reset(self) -> None:
        """Set the peak to the memory in use now."""
        torch.cuda.reset_peak_memory_stats(self._device)

    def peak_mib(self) -> float:
        """Return the peak, in MiB."""
        return float(torch.cuda.max_memory_allocated(self._device)) / _MIB


class ResidentMemoryGauge(MemoryGauge):
    """Peak resident memory of this process since the last reset (Linux).

    Writing 5 to ``/proc/self/clear_refs`` resets ``VmHWM`` to the present size, see proc(5). It counts everything that
    is resident: weights, data, Python itself, and freed memory that the allocator has not returned.
    """

    kind = "resident_peak"

    def reset(self) -> None:
        """Set the peak to the memory in use now."""
        _CLEAR_REFS.write_text("5")

    def peak_mib(self) -> float:
        """Return the peak, in MiB."""
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
        raise OSError(f"{_STATUS} has no VmHWM line")

    @classmethod
    def is_supported(cls) -> bool:
        """Return True if the process may reset and read its own peak; some containers do not allow it."""
        gauge = cls()
        try:
            gauge.reset()
            gauge.peak_mib()
        except OSError:
            return False
        return True


class ProcessMemoryGauge(MemoryGauge):
    """Peak resident memory of the process since it started; it cannot be reset."""

    kind = "resident_peak_of_process"

    def reset(self) -> None:
        """Do nothing: the system has no way to reset this peak."""

    def peak_mib(self) -> float:
        """Return the peak, in MiB."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        # macOS counts bytes, every other system KiB (getrusage(2))
        return peak / (_MIB if sys.platform == "darwin" else 1024)


def gauge_for(device: torch.device) -> MemoryGauge:
    """Return the most precise gauge for a device: CUDA memory, else resident memory, resettable where possible."""
    if device.type == "cuda":
        return CudaMemoryGauge(device)
    return ResidentMemoryGauge() if ResidentMemoryGauge.is_supported() else ProcessMemoryGauge()
