"""Provide the LightningModule that trains and compares the scorers of a bounded cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from retention.cache import CacheBudget, CachePolicy, LearnedScores
from retention.cache.comparison import Measured, measure_policy
from retention.cache.distillation import DistillationStep
from retention.cache.phase import PhaseStep, TrainingPhase
from retention.cache.small_decoder import DecoderStep
from retention.errors import CheckpointError
from retention.tasks.decoding.task import DecoderRun
from retention.training.resumable import ResumableModule


class Evaluation(NamedTuple):
    """One evaluation: a policy (None = the full cache) at one budget."""

    name: str
    policy: CachePolicy | None
    budget: CacheBudget


class DecoderModule(ResumableModule):
    """Run the phases of a training one after the other, one step per batch; the steps are those of the commands.

    A batch of the training loader is only a number: each phase chooses its examples by its own generator, and
    checkpoints hold its state. A pretrained decoder is neither trained nor stored.

    Args:
        run: decoder, scorers, phases and texts.
        budget: of the cache.
        evaluations: of the test, in order.
        config: plain configuration of the run, stored in checkpoints.
    """

    def __init__(
        self, run: DecoderRun, budget: CacheBudget, evaluations: Sequence[Evaluation], config: dict[str, Any]
    ) -> None:
        super().__init__(config)
        self.automatic_optimization = False  # each phase has its optimizer
        self.run, self.budget, self.evaluations = run, budget, tuple(evaluations)
        self.scores: LearnedScores = run.scores
        self.adapters = nn.ParameterList([] if run.adapters is None else run.adapters.parameters)
        self.results: list[Measured] = []
        if run.trains_model:
            self.decoder: Any = run.model
        else:
            self.__dict__["decoder"] = run.model  # not a submodule: its weights stay out of checkpoints

    # -- what callbacks read -------------------------------------------------------------------------------------------

    @property
    def sample(self) -> Tensor:
        """Return a validation text, [1, T]."""
        return self.run.sample

    @property
    def phase(self) -> TrainingPhase | None:
        """Return the phase of the next step; None if all are finished."""
        return next((phase for phase in self.run.phases if not phase.is_finished), None)

    # -- training ------------------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> Any:
        """Return the optimizers of all phases."""
        return [phase.optimizer for phase in self.run.phases]

    def training_step(self, batch: int, batch_idx: int) -> dict[str, Tensor]:
        """Do the next step of the present phase; the training ends with the last phase."""
        phase = self.phase
        assert phase is not None
        optimizers: Any = self.optimizers()
        listed = optimizers if isinstance(optimizers, list) else [optimizers]
        result = phase.advance(listed[self.run.phases.index(phase)].step)
        self._log_step(phase.name, result)
        if self.phase is None:
            self.trainer.should_stop = True
        return {"loss": torch.tensor(result.loss)}

    def _log_step(self, name: str, result: PhaseStep) -> None:
        self.log("train/loss", result.loss, prog_bar=True, batch_size=1)
        values = {"loss": result.loss}
        if isinstance(result, DistillationStep):
            values = {"kl": result.loss, "bank_tokens": result.bank_tokens, "eviction": float(result.hard)}
        elif isinstance(result, DecoderStep):
            values |= {"accuracy": result.accuracy, "context": float(result.context)}
        self.log_dict({f"{name}/{key}": value for key, value in values.items()}, batch_size=1)

    # -- evaluation ----------------------------------------------------------------------------------------------------

    def validation_step(self, batch: int, batch_idx: int) -> None:
        """Log the metrics of one validation row; their means over the rows are the metrics of the epoch."""
        metrics = self.run.validate(batch)
        for index, (name, value) in enumerate(metrics.items()):
            self.log(f"val/{name}", value, prog_bar=index == 0, batch_size=1)

    def on_test_start(self) -> None:
        """Forget the results of an earlier test."""
        self.results = []

    def test_step(self, batch: int, batch_idx: int) -> None:
        """Do one evaluation and log its value."""
        result = measure_policy(self.decoder, *self.evaluations[batch], self.run.measure)
        self.results.append(result)
        self.log(f"test/{result.name}_{result.budget.size}", result.measurement.value, batch_size=1)

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the states of the phases, and whether all of them are finished."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["phases"] = {phase.name: phase.state_dict() for phase in self.run.phases}
        checkpoint["finished"] = self.phase is None

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the phases."""
        super().on_load_checkpoint(checkpoint)
        self.load_phases(checkpoint)

    def load_phases(self, checkpoint: Mapping[str, Any]) -> None:
        """Restore the phases from a checkpoint.

        Raises:
            CheckpointError: it is of a training with other phases.
        """
        states, names = checkpoint.get("phases") or {}, [phase.name for phase in self.run.phases]
        if sorted(states) != sorted(names):
            raise CheckpointError(
                f"the checkpoint is of a training with the phases {', '.join(states) or 'none'}, and this one has "
                f"{', '.join(names) or 'none'}; use the settings that it was made with, or start anew without ckpt"
            )
        for phase in self.run.phases:
            phase.load_state_dict(states[phase.name])
