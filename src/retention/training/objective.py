"""Compute the loss of one training step: task, teacher and budget, over one forward pass or several."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor

from retention.engine.report import ForwardReport
from retention.errors import require
from retention.models.encoded import Batch
from retention.models.retention_model import RetentionModel
from retention.training.budget_sampling import KEEP_ALL, BudgetSampling
from retention.training.distillation import Distillation, pooled_state_loss
from retention.training.teacher import Teacher, TeacherOutputs
from retention.training.token_states import record_token_states, token_state_loss


class Losses(NamedTuple):
    """Losses of a training step, scalars.

    Attributes:
        task: loss of the task and of distillation.
        total: ``task`` and the penalty of the budget.
    """

    task: Tensor
    total: Tensor


class Objective:
    """Training objective of a retention model.

    Args:
        model: encoder, policy and head.
        distill: weights of the distillation losses.
        budgets: budgets that are sampled in each step.
    """

    def __init__(self, model: RetentionModel, distill: Distillation, budgets: BudgetSampling) -> None:
        self._model = model
        self._policy = model.policy
        self._distill = distill
        self._budgets = budgets
        self._slacks: list[Tensor] = []
        self.reports: list[ForwardReport] = []  # of the forward passes of the last step
        self.teacher: Teacher | None = None
        self._teacher_layers: tuple[int, ...] | None = None

    def set_teacher(self, teacher: Teacher, layers: Sequence[int] | None = None) -> None:
        """Add distillation from a trained model.

        Args:
            teacher: the trained model.
            layers: the teacher's layer for each layer of the student; None = the same index.

        Raises:
            ConfigError: pooled states are distilled and the head has none; or token states are distilled and the
                teacher has other dimensions.
        """
        message = f"{type(self._model.head).__name__} reads every token and has no pooled state; set it to 0"
        require(self._distill.pooled_states == 0 or self._model.head.pools, "distill.pooled_states", message)
        ours, theirs = ((each.shape.num_layers, each.shape.hidden_size) for each in (self._model, teacher.model))
        message = (
            f"needs a teacher of {ours[0]} layers of width {ours[1]}, it has {theirs[0]} of {theirs[1]}; set it to 0"
        )
        require(self._distill.token_states == 0 or ours == theirs, "distill.token_states", message)
        self.teacher = teacher
        self._teacher_layers = None if layers is None else tuple(layers)

    def losses(self, batch: Batch, step: int) -> Losses:
        """Compute the losses of optimizer step ``step``, the mean over its forward passes."""
        self.reports.clear()
        task, total = zip(*self._passes(batch, self._teacher_outputs(batch), step), strict=True)
        return Losses(torch.stack(task).mean(), torch.stack(total).mean())

    def teacher_passes(self, *, first_epoch: bool) -> int:
        """Count the forward passes of the teacher in a step; its backward pass to the states counts as one.

        Args:
            first_epoch: True in the first epoch, after which outputs and saliency are looked up if the head has one
                vector of logits per row. Those that an earlier run has left in a file are counted.
        """
        if self.teacher is None:
            return 0
        again = self._distill.token_states > 0 or not self.teacher.keeps_outputs
        if not again and not first_epoch:
            return 0
        return 2 if self._distill.saliency > 0 and self._policy.scored else 1

    def take_slack(self) -> Tensor | None:
        """Return and clear the mean budget slack of each gated layer, [L]; None if no budget was constrained."""
        if not self._slacks:
            return None
        slack = torch.stack(self._slacks).mean(0)
        self._slacks.clear()
        return slack

    def _passes(self, batch: Batch, teacher: TeacherOutputs | None, step: int) -> Iterator[Losses]:
        """Yield the losses of each forward pass: a single one, or one for each sampled budget."""
        budgets, keep_all_logits = self._sampled_budgets(step), None
        if not budgets:
            yield self._pass(batch, teacher)[1]
        for rho in budgets:
            with self._policy.at_budget(rho):
                logits, losses = self._pass(batch, teacher, keep_all_logits)
            keep_all_logits = logits.detach() if rho == KEEP_ALL else keep_all_logits
            yield losses

    def _sampled_budgets(self, step: int) -> tuple[float, ...]:
        """Return the budgets of a step's passes; empty for a single pass: nothing is sampled, or no gate acts."""
        sampled = self._budgets.active and self._policy.current_phase != "warmup" and self._policy.layers
        return self._budgets.draw(step) if sampled else ()

    def _pass(
        self, batch: Batch, teacher: TeacherOutputs | None, keep_all_logits: Tensor | None = None
    ) -> tuple[Tensor, Losses]:
        """Compute logits and losses of one pass; ``keep_all_logits`` are its soft targets (in-place distillation)."""
        model = self._model
        with record_token_states(model.retainer, enabled=teacher is not None and len(teacher.states) > 0) as states:
            output = model.outputs(batch)
        self.reports.append(cast(ForwardReport, model.last_report))
        loss = model.head.task_loss(output.logits, batch)
        if teacher is not None:
            loss = self._with_teacher(loss, TeacherOutputs(output, states, {}), teacher, batch)
        if keep_all_logits is not None:
            loss = self._budgets.blend(loss, self._logit_loss(output.logits, keep_all_logits, batch))
        loss = self._with_exits(loss, teacher, batch)
        return output.logits, Losses(loss, loss + self._budget_loss(loss))

    def _with_exits(self, loss: Tensor, teacher: TeacherOutputs | None, batch: Batch) -> Tensor:
        """Average the loss with those of heads after inner layers, weighted by depth (PABEE, arXiv 2006.04152)."""
        exits = self._model.exit_logits()
        weight = float(self._model.shape.num_layers)
        total, weights = weight * loss, weight
        for layer, logits in exits.items():
            inner = self._model.head.task_loss(logits, batch)
            if teacher is not None:
                inner = self._distill.mix(inner, self._logit_loss(logits, teacher.output.logits, batch))
            total, weights = total + (layer + 1) * inner, weights + layer + 1
        return total / weights if exits else loss

    def _teacher_outputs(self, batch: Batch) -> TeacherOutputs | None:
        """Run the teacher, and give its saliency to the policy."""
        if self.teacher is None:
            return None
        layers = self._policy.scored if self._distill.saliency > 0 else ()
        source = {layer: self._teacher_layer(layer) for layer in layers}
        states = self._distill.token_states > 0
        outputs = self.teacher.outputs(batch, states=states, saliency_layers=source.values())
        if layers:
            self._policy.set_saliency({layer: outputs.saliency[source[layer]] for layer in layers})
        return outputs

    def _teacher_layer(self, layer: int) -> int:
        """Return the teacher's layer for a gated layer; before layer 0 both have the embeddings."""
        return self._teacher_layers[layer] if self._teacher_layers and layer >= 0 else layer

    def _with_teacher(
        self, task_loss: Tensor, student: TeacherOutputs, teacher: TeacherOutputs, batch: Batch
    ) -> Tensor:
        logit_loss = self._logit_loss(student.output.logits, teacher.output.logits, batch)
        loss = self._distill.mix(task_loss, logit_loss)
        if self._distill.pooled_states > 0:
            distance = pooled_state_loss(cast(Tensor, student.output.pooled), cast(Tensor, teacher.output.pooled))
            loss = loss + self._distill.pooled_states * distance
        if teacher.states:
            loss = loss + self._distill.token_states * token_state_loss(student.states, teacher.states)
        return loss + self._distill.saliency * self._policy.saliency_loss().to(loss)

    def _logit_loss(self, logits: Tensor, teacher_logits: Tensor, batch: Batch) -> Tensor:
        return self._model.head.distillation_loss(logits, teacher_logits, batch, self._distill.temperature)

    def _budget_loss(self, task_loss: Tensor) -> Tensor:
        if not self._policy.constrained or self._policy.current_phase == "warmup":
            return task_loss.new_zeros(())
        self._slacks.append(self._policy.budget_slack().detach())
        return self._policy.budget_loss()
