"""Peak memory of one variant, in a process of its own."""

from __future__ import annotations

import gc
import json
import pickle
import subprocess
import sys
from dataclasses import asdict, dataclass

import torch

from retention.bench.inputs import Inputs
from retention.bench.plan import make_plan
from retention.bench.settings import Settings
from retention.bench.timing import waiter
from retention.bench.variants import Spec, VariantBuilder
from retention.callbacks.gauges import gauge_for


@dataclass(frozen=True)
class Peak:
    """Memory of one process.

    Attributes:
        peak_mib: highest use over two passes through the batches; weights, Python and libraries are part of it.
        rest_mib: use just before them.
        kind: what both count, see ``retention.callbacks.Memory``.
    """

    peak_mib: float
    rest_mib: float
    kind: str


def peak_alone(settings: Settings, spec: Spec, inputs: Inputs) -> Peak:
    """Run one variant in a fresh process, so that no other variant's memory is counted.

    Args:
        settings: of the whole measurement.
        spec: the variant.
        inputs: its batches, on the CPU.
    """
    work = pickle.dumps((settings, spec, inputs))
    done = subprocess.run([sys.executable, "-m", __name__], input=work, stdout=subprocess.PIPE, check=True)
    return Peak(**json.loads(done.stdout.splitlines()[-1]))


def peak_here(settings: Settings, spec: Spec, inputs: Inputs) -> Peak:
    """The same in this process; everything it already holds is counted."""
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    variant = VariantBuilder(make_plan(settings), inputs.to(settings.device)).build(spec)
    gc.collect()
    gauge = gauge_for(torch.device(settings.device))
    gauge.reset()
    rest = gauge.peak_mib()
    for _ in range(2):  # the first step allocates the optimiser state, the second has it from the start
        for call in variant.calls():
            call()
    waiter(settings.device)()
    return Peak(gauge.peak_mib(), rest, gauge.kind)


if __name__ == "__main__":  # the process that peak_alone starts
    print(json.dumps(asdict(peak_here(*pickle.load(sys.stdin.buffer)))))
