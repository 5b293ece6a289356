"""Provide the LightningModule that trains and evaluates a retention model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Self, cast

from torch import Tensor, nn

from retention.engine import ForwardReport
from retention.models.early_exit import EarlyExitModel
from retention.models.encoded import Batch
from retention.models.retention_model import RetentionModel
from retention.models.state_dict import PREFIX, model_state
from retention.policies.bases.retention_policy import RetentionPolicy
from retention.training.evaluation import Evaluation, check_output
from retention.training.freezing import frozen_parts
from retention.training.objective import Objective
from retention.training.progress import TrainingProgress
from retention.training.resumable import ResumableModule
from retention.training.settings import TrainingSettings
from retention.training.step_flops import step_flops
from retention.training.teacher import Teacher


class RetentionModule(ResumableModule):
    """Training and evaluation loop of a retention model, the same for all tasks.

    Args:
        model: encoder, policy and head.
        training: optimizer, phases, distillation, sampled budgets, frozen parts.
        config: plain configuration of the run, stored in checkpoints.
    """

    def __init__(self, model: RetentionModel, training: TrainingSettings, config: dict[str, Any]) -> None:
        super().__init__(config)
        self.model = model
        self.settings = training
        self.objective = Objective(model, training.distill, training.budgets)
        self.last_predictions: Tensor | None = None
        self.last_prediction_rows: list[dict[str, Any]] = []
        self._evaluation = Evaluation()
        self._references: dict[str, Teacher] = {}
        self._progress = TrainingProgress()

    # -- what callbacks read -------------------------------------------------------------------------------------------

    @property
    def encoder(self) -> nn.Module:
        """Return the encoder."""
        return self.model.encoder

    @property
    def policy(self) -> RetentionPolicy:
        """Return the retention policy."""
        return self.model.policy

    @property
    def gated_layers(self) -> tuple[int, ...]:
        """Return the 0-based layers after which the policy may remove tokens."""
        return self.model.gated_layers

    @property
    def last_report(self) -> ForwardReport | None:
        """Return the account of the last forward pass."""
        return self.model.last_report

    @property
    def phase(self) -> str:
        """Return the current phase: ``warmup``, ``soft`` or ``hard``."""
        return self.policy.current_phase

    @property
    def target_keep_ratio(self) -> float:
        """Return the current target keep ratio, which is annealed from 1 to rho during training."""
        return 1.0 - self.policy.current_anneal * (1.0 - self.policy.rho)

    def step_flops(self) -> Tensor:
        """Return the FLOPs of the last training step, [3]: student, teacher, dense reference."""
        objective = self.objective
        passes = objective.teacher_passes(first_epoch=self.current_epoch == 0)
        return step_flops(self.model, objective.reports, objective.teacher, passes)

    # -- training ------------------------------------------------------------------------------------------------------

    def forward(self, batch: Batch) -> Tensor:
        """Compute the logits."""
        return cast(Tensor, self.model(batch))

    def set_teacher(self, teacher: Teacher, layers: Sequence[int] | None = None) -> None:
        """Add distillation from a trained model, which is neither trained nor saved.

        Args:
            teacher: the trained model.
            layers: the teacher's layer for each layer of the student; None = the same index.

        Raises:
            ConfigError: the teacher does not fit the distillation settings, see ``Objective.set_teacher``.
        """
        self.objective.set_teacher(teacher, layers)

    def set_reference(self, model: RetentionModel) -> None:
        """Set the dense model whose outputs evaluation batches hold, for heads that compare with it.

        Args:
            model: neither trained nor saved; may be that of the teacher.
        """
        self._references = {stage: Teacher(model) for stage in ("val", "test")}  # row numbers of one split each

    def configure_model(self) -> None:
        """Shard the model if the strategy asks for it (``trainer.strategy=fsdp``)."""
        if self.device_mesh is not None:
            from retention.training.sharding import shard  # not every build of torch has torch.distributed

            shard(self.model, self.device_mesh["data_parallel"])

    def setup(self, stage: str) -> None:
        """Freeze parts before the optimizer is built and the model is wrapped for several ranks."""
        if stage == "fit":
            for part in frozen_parts(self.model, self.settings.freeze):
                part.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Set training mode, except for frozen parts."""
        super().train(mode)
        for part in frozen_parts(self.model, self.settings.freeze):
            part.eval()
        return self

    def on_fit_start(self) -> None:
        """Set training mode and move the teacher to the device."""
        self.train()  # from_pretrained returns models in evaluation mode and Lightning leaves them so
        if (teacher := self.objective.teacher) is not None:
            teacher.to(self.device)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Set the phase of the policy and compute the losses of the step."""
        self._progress.update(self.trainer)
        steps = self._progress.steps(self.trainer)
        progress = self._progress.position(self.global_step, steps) / max(1, steps)
        self.policy.phase, self.policy.anneal = self.settings.phases.at(progress)
        losses = self.objective.losses(batch, self.global_step)
        loss = losses.total + self._zero_gradient()
        size = len(batch["input_ids"])
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=size)
        self.log("retention/target_keep_ratio", self.target_keep_ratio, batch_size=size)
        return {"loss": loss, "task_loss": losses.task.detach()}

    def _zero_gradient(self) -> Tensor | float:
        """Return 0 with a zero gradient for all policy parameters: all ranks must use the same parameters."""
        return 0.0 * sum(parameter.sum() for parameter in self.policy.parameters())

    def on_train_epoch_end(self) -> None:
        """Save the cached outputs of the teacher."""
        if (teacher := self.objective.teacher) is not None:
            teacher.save()

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step the optimizer, then the dual variables with the mean slack over all micro-batches and ranks."""
        super().optimizer_step(*args, **kwargs)
        if (slack := self.objective.take_slack()) is not None:
            gathered = cast(Tensor, self.all_gather(slack)).reshape(-1, slack.shape[0])
            self.policy.step_dual(gathered.mean(0))

    def configure_optimizers(self) -> Any:
        """Build the optimizer and the learning-rate schedule."""
        # named_parameters() of the whole model lists weights that encoder and head share (tied embeddings) once
        parameters = (
            (name, value)
            for name, value in self.model.named_parameters()
            if not name.startswith("policy.") or name.startswith("policy.exit_heads.")
        )
        steps = self._progress.steps(self.trainer)
        position = partial(self._progress.position, steps=steps)
        return self.settings.optimizer.build(parameters, self.policy, steps, position)

    # -- evaluation ----------------------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Set the threshold of an early-exit model on the validation rows; the mean over all ranks."""
        if isinstance(self.model, EarlyExitModel):
            loader = cast(Iterable[Batch], self.trainer.val_dataloaders)
            self.model.calibrate(self.transfer_batch_to_device(batch, self.device, 0) for batch in loader)
            threshold = self.trainer.strategy.reduce(self.model.policy.threshold, reduce_op="mean")
            self.model.policy.set_threshold(float(threshold))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Evaluate one batch."""
        self._evaluate(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Evaluate one batch."""
        self._evaluate(batch, "test")

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics."""
        self._finish("val")

    def on_test_epoch_end(self) -> None:
        """Log the test metrics and those of constant baselines, and keep the prediction rows."""
        self._finish("test")

    def _evaluate(self, batch: Batch, stage: str) -> None:
        head = self.model.head
        if (reference := self._references.get(stage)) is not None:
            reference.to(self.device)
            batch = {**batch, "teacher_logits": reference.output(batch).logits}
        encoded = self.model.encode(batch)
        logits = self.model.logits(encoded, batch)
        check_output(logits)
        self.last_predictions = head.predictions(logits)
        rows = head.eval_rows(logits, encoded, batch)
        dense, spent = self.model.flops()
        self._evaluation.add(rows, dense=dense, spent=spent)

    def _finish(self, stage: str) -> None:
        head = self.model.head
        rows, flops_ratio = self._evaluation.finish(self.trainer, self.device)
        metrics = head.compute_metrics(rows, stage)
        if stage == "test":
            metrics |= head.constant_baselines(rows)
        self.last_prediction_rows = head.prediction_rows(rows) if stage == "test" else []
        for index, (name, value) in enumerate(metrics.items()):
            # the same on every rank already; sync_dist only keeps Lightning from warning about it
            self.log(f"{stage}/{name}", value, prog_bar=stage == "val" and index == 0, sync_dist=True)
        self.log(f"{stage}/flops_ratio", flops_ratio, sync_dist=True)

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the states of the random generators of all ranks, and whether the model is sharded."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["sharded"] = self.device_mesh is not None

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the states of the random generators until training starts, and read weights of earlier versions."""
        super().on_load_checkpoint(checkpoint)
        if "state_dict" in checkpoint:  # a sharded model has loaded its weights already
            weights = model_state(checkpoint["state_dict"])
            checkpoint["state_dict"] = {f"{PREFIX}{name}": value for name, value in weights.items()}
