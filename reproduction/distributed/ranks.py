"""Run jobs on one rank, and write what the rank ends with; launched once per rank, see ``launch``."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from hydra import compose, initialize_config_dir
from torch.distributed.tensor import DTensor

from reproduction.distributed.faults import FAULTS, rank
from reproduction.distributed.jobs import TWO, Job, read_job
from retention.errors import RetentionError
from retention.experiment import assembly
from retention.experiment.hydra_setup import config_dir
from retention.experiment.run import run
from retention.experiment.stopping import Stopped
from retention.training.budget_sampling import BudgetSampling


def run_job(job: Job, folder: Path, layout: tuple[str, ...]) -> dict[str, Any]:
    """Run a job in this process.

    Args:
        job: the run.
        folder: folder of all jobs.
        layout: ``TWO`` or ``ONE`` processes.

    Returns:
        ``state`` (weights and buffers of the model), ``budgets`` (sampled by each step), ``metrics``, and the exit
        ``status`` of a run that was stopped by a signal, else None.
    """
    overrides = job.overrides(folder, layout)
    modules: list[Any] = []
    budgets: list[tuple[float, ...]] = []
    draw = BudgetSampling.draw

    def build_module(*arguments: Any) -> Any:
        modules.append(assembly.build_module(*arguments))
        return modules[-1]

    def record_draw(self: BudgetSampling, step: int) -> tuple[float, ...]:
        budgets.append(draw(self, step))
        return budgets[-1]

    metrics, status = {}, None
    fault = nullcontext() if job.change is None else FAULTS[job.change]()
    with (
        mock.patch.object(BudgetSampling, "draw", record_draw),
        mock.patch("retention.experiment.encoders.build_module", build_module),
        fault,
        initialize_config_dir(str(config_dir()), version_base="1.3"),
    ):
        try:
            config = compose("config", overrides=overrides)
            [record] = run(config, overrides, lambda extra: compose("config", overrides=extra))
            metrics = {**record["metrics"], "keep_ratio": record["keep_ratio"]["mean"], "flops": record["flops_ratio"]}
        except Stopped as stopped:
            status = int(str(stopped.code))
    state = {name: _whole(value) for name, value in modules[0].model.state_dict().items()}
    return {"state": state, "budgets": budgets, "metrics": metrics, "status": status}


def _whole(value: torch.Tensor) -> torch.Tensor:
    """Return a copy of a tensor, gathered from all ranks if it is sharded."""
    return (value.full_tensor() if isinstance(value, DTensor) else value).detach().clone()


def main() -> int:
    """Run the jobs of ``<folder>/jobs.json`` on this rank; return the exit status."""
    folder = Path(sys.argv[1])
    for values in json.loads((folder / "jobs.json").read_text()):
        job = read_job(values)
        try:
            outcome = run_job(job, folder, TWO)
        except RetentionError as error:  # as on the command line
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            return 2
        torch.save(outcome, folder / f"{job.name}.rank{rank()}.pt")
        if outcome["status"] is not None and job.change == "signal_to_launcher":
            return int(outcome["status"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
