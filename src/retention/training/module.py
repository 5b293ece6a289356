"""The LightningModule that every task shares: one backbone, one policy, one training loop."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from typing import Any, ClassVar, Self, cast

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from retention.engine import ForwardReport, Retainer
from retention.models.encoded import Batch, Encoded
from retention.policies.bases.retention_policy import RetentionPolicy
from retention.records.columns import as_rows
from retention.training.evaluation import Evaluation
from retention.training.freezing import frozen_parts
from retention.training.objective import Objective
from retention.training.optimization import restore_rng, rng_state
from retention.training.settings import TrainingSettings
from retention.training.teacher import Answer, Teacher


class RetentionModule(pl.LightningModule):
    """Encoder, retention policy and head, trained through the phases of ``Phases``.

    A subclass gives the head (``logits``), the task loss, and what to collect and to score in evaluation.

    Args:
        encoder: Hugging Face encoder.
        policy: retention policy, already built for the encoder.
        training: optimiser, phases, distillation, budgets, what is frozen.
        dropped, prune_at: see ``Retainer``.
        config: resolved plain configuration, stored in checkpoints.
    """

    # Whether the logits of a row are as many in every batch, or as many as the batch's longest row has.
    fixed_width: ClassVar[bool] = True
    writes: ClassVar[bool] = False  # whether the head is a decoder, which comes with its encoder

    def __init__(
        self,
        *,
        encoder: nn.Module,
        policy: RetentionPolicy,
        training: TrainingSettings,
        dropped: str,
        prune_at: str = "after_layer",
        config: dict[str, Any],
    ) -> None:
        super().__init__()
        self.save_hyperparameters({"config": config})
        self.encoder = encoder
        self.policy = policy
        self.settings = training
        self.retainer = Retainer(encoder, policy, layers=policy.layers, dropped=dropped, prune_at=prune_at)
        self.last_report: ForwardReport | None = None
        self.last_predictions: Tensor | None = None
        self.last_prediction_rows: list[dict[str, Any]] = []
        self.objective = Objective(self)
        self._evaluation = Evaluation()
        self._rng: dict[str, Any] | None = None

    # -- what a task defines -------------------------------------------------------------------------------------------

    @abstractmethod
    def logits(self, encoded: Encoded, batch: Batch) -> Tensor:
        """Output of the head."""

    def pooled(self, encoded: Encoded) -> Tensor | None:
        """The one state per row that the logits are read from, [B, D]; None where the head reads every token."""
        return None

    @property
    def pools(self) -> bool:
        """Whether this head has a ``pooled`` state."""
        return type(self).pooled is not RetentionModule.pooled

    def protected(self, batch: Batch) -> Tensor:
        """The tokens that are never removed, [B, T] bool: those that the benchmark marks, unless a head needs less."""
        marked: Tensor = batch["protected_mask"]
        return marked

    @abstractmethod
    def task_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Scalar loss of the task."""

    @abstractmethod
    def distillation_loss(self, logits: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        """Scalar loss against the teacher's logits."""

    @abstractmethod
    def confidence(self, logits: Tensor, batch: Batch) -> Tensor:
        """Scalar, confidence in the answer given, summed over the batch; its gradient is the saliency."""

    @abstractmethod
    def collect(self, logits: Tensor, batch: Batch) -> dict[str, list[Any]]:
        """What one evaluation batch contributes to the metrics, rows as plain values."""

    @abstractmethod
    def score(self, rows: dict[str, list[Any]]) -> dict[str, float]:
        """Metrics of all rows, the headline first."""

    def baselines(self, rows: dict[str, list[Any]]) -> dict[str, float]:
        """What simple rivals without a model reach on the same rows; logged with the test's metrics."""
        return {}

    def answers(self, rows: dict[str, list[Any]]) -> list[dict[str, Any]]:
        """What was said of each row of a test, as it is written down; values that JSON knows.

        Where there is a ``score`` in [0, 1], it says how right that was; runs are compared by it row by row.
        """
        return as_rows(rows)

    # -- what callbacks read -------------------------------------------------------------------------------------------

    @property
    def gated_layers(self) -> tuple[int, ...]:
        """0-based layers after which the policy may remove tokens."""
        return self.policy.layers

    @property
    def shape(self) -> Any:
        """Dimensions of the encoder."""
        return self.retainer.shape

    @property
    def phase(self) -> str:
        """The phase in force: ``warmup``, ``soft`` or ``hard``."""
        return self.policy.current_phase

    @property
    def target_keep_ratio(self) -> float:
        """The share of tokens asked for now, annealed while training."""
        return 1.0 - self.policy.current_anneal * (1.0 - self.policy.rho)

    # -- forward -------------------------------------------------------------------------------------------------------

    def encode(self, batch: Batch) -> Encoded:
        """Run the encoder with retention."""
        mask = batch["attention_mask"]
        with self.retainer, self.retainer.protect(self.protected(batch)):
            output = self.encoder(**self.retainer.adapter.inputs(batch))
        states = output.last_hidden_state
        state = self.retainer.state
        self.last_report = state.report
        if self.retainer.dropped == "cut":
            return Encoded(states, state.weights, state.positions)
        everything = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
        return Encoded(states, mask.float(), everything)

    def depth_weighted(self, encoded: Encoded) -> Encoded:
        """The last pass with each token weighed by how much of the encoder it went through as well.

        For heads that read a mean: at 10 % of the tokens nine in ten left after a layer or two, and would drown the few
        that were worked on. Of a dense model nothing changes.
        """
        share = self.retainer.depth_share().gather(1, encoded.positions)
        return replace(encoded, weights=encoded.weights * share)

    def forward(self, batch: Batch) -> Tensor:
        return self.answer(batch).logits

    def answer(self, batch: Batch) -> Answer:
        """Logits, and the pooled state they are read from."""
        encoded = self.encode(batch)
        return Answer(self.logits(encoded, batch), self.pooled(encoded))

    # -- training ------------------------------------------------------------------------------------------------------

    def set_teacher(self, teacher: Teacher) -> None:
        """Learn from this finished model as well; it is neither trained nor saved.

        Raises:
            ConfigError: pooled states are to be learned, and this head has none.
        """
        self.objective.learn_from(teacher)

    def setup(self, stage: str) -> None:
        if stage == "fit":  # before the optimiser is made and the model is wrapped for several ranks
            for part in frozen_parts(self, self.settings.freeze):
                part.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for part in frozen_parts(self, self.settings.freeze):
            part.eval()
        return self

    def on_fit_start(self) -> None:
        self.train()  # from_pretrained returns models in evaluation mode and Lightning leaves them so
        if (teacher := self.objective.teacher) is not None:
            teacher.to(self.device)

    def on_train_start(self) -> None:
        if self._rng is not None:
            restore_rng(self._rng)
            self._rng = None

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        progress = self.global_step / max(1, int(self.trainer.estimated_stepping_batches))
        self.policy.phase, self.policy.anneal = self.settings.phases.at(progress)
        losses = self.objective.losses(batch, self.global_step)
        loss = losses.total + self._idle_policy()
        size = len(batch["input_ids"])
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=size)
        self.log("retention/target_keep_ratio", self.target_keep_ratio, batch_size=size)
        return {"loss": loss, "task_loss": losses.task.detach()}

    def _idle_policy(self) -> Tensor | float:
        """0, with a zero gradient for what the policy learns: several ranks must agree on the parameters in use."""
        return 0.0 * sum(parameter.sum() for parameter in self.policy.parameters())

    def on_train_epoch_end(self) -> None:
        if (teacher := self.objective.teacher) is not None:
            teacher.save()

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if (slack := self.objective.take_slack()) is not None:  # once per step, over all micro-batches and ranks
            gathered = cast(Tensor, self.all_gather(slack)).reshape(-1, slack.shape[0])
            self.policy.step_dual(gathered.mean(0))

    def configure_optimizers(self) -> Any:
        model = chain(self.encoder.named_parameters(), self._head_parameters())
        steps = int(self.trainer.estimated_stepping_batches)
        return self.settings.optimizer.build(model, self.policy, steps)

    def _head_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        for name, parameter in self.named_parameters():
            if not name.startswith(("encoder.", "policy.")):
                yield name, parameter

    # -- evaluation ----------------------------------------------------------------------------------------------------

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch)

    def on_validation_epoch_end(self) -> None:
        self._finish("val")

    def on_test_epoch_end(self) -> None:
        self._finish("test")

    def _evaluate(self, batch: Batch) -> None:
        logits = self(batch)
        rows = self.collect(logits, batch)
        early = self.retainer.prune_at == "after_attention"
        dense, spent = self.retainer.report.flops(self.shape, self.policy.scorer_macs(), before_feed_forward=early)
        self._evaluation.add(rows, dense=dense, spent=spent)

    def _finish(self, stage: str) -> None:
        rows, flops_ratio = self._evaluation.finish(self.trainer, self.device)
        scores = self.score(rows) | (self.baselines(rows) if stage == "test" else {})
        self.last_prediction_rows = self.answers(rows) if stage == "test" else []
        for place, (name, value) in enumerate(scores.items()):
            # the same on every rank already; sync_dist only keeps Lightning from warning about it
            self.log(f"{stage}/{name}", value, prog_bar=stage == "val" and place == 0, sync_dist=True)
        self.log(f"{stage}/flops_ratio", flops_ratio, sync_dist=True)

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["rng"] = rng_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._rng = checkpoint.get("rng")
