"""Measure the peak memory of one variant in its own process."""

from __future__ import annotations

import gc
import json
import pickle
import subprocess
import sys
from dataclasses import asdict, dataclass

import torch

from retention.bench.inputs import Inputs
from retention.bench.plan import build_plan
from retention.bench.settings import BenchSettings
from retention.bench.timing import synchronizer
from retention.bench.variants import VariantBuilder, VariantSpec
from retention.callbacks.memory_gauges import gauge_for


@dataclass(frozen=True)
class PeakMemory:
    """Memory use of one process.

    Attributes:
        peak_mib: highest use over two passes through the batches; weights, Python and libraries are included.
        start_mib: use just before them.
        kind: what both numbers count, see ``retention.callbacks.Memory``.
    """

    peak_mib: float
    start_mib: float
    kind: str


def peak_memory_in_subprocess(settings: BenchSettings, spec: VariantSpec, inputs: Inputs) -> PeakMemory:
    """Run one variant in a new process, so that no other variant's memory is counted.

    Args:
        settings: settings of the whole measurement.
        spec: the variant.
        inputs: its batches, on the CPU.
    """
    arguments = pickle.dumps((settings, spec, inputs))
    done = subprocess.run([sys.executable, "-m", __name__], input=arguments, stdout=subprocess.PIPE, check=True)
    return PeakMemory(**json.loads(done.stdout.splitlines()[-1]))


def peak_memory_in_process(settings: BenchSettings, spec: VariantSpec, inputs: Inputs) -> PeakMemory:
    """Run one variant in this process; everything that is already in memory is counted."""
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    variant = VariantBuilder(build_plan(settings), inputs.to(settings.device)).build(spec)
    gc.collect()
    gauge = gauge_for(torch.device(settings.device))
    gauge.reset()
    start = gauge.peak_mib()
    for _ in range(2):  # the first step allocates the optimizer state, the second runs with it
        for call in variant.calls():
            call()
    synchronizer(settings.device)()
    return PeakMemory(gauge.peak_mib(), start, gauge.kind)


if __name__ == "__main__":  # started by peak_memory_in_subprocess
    print(json.dumps(asdict(peak_memory_in_process(*pickle.load(sys.stdin.buffer)))))
