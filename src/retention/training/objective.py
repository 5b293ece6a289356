"""The loss of one training step: the task, the teacher and the budget, over one pass or several."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import Tensor

from retention.errors import Checks
from retention.training.budget_sampling import KEEP_ALL
from retention.training.distillation import pooled_state_loss
from retention.training.teacher import Teacher, TeacherOutputs
from retention.training.token_states import recorded, token_state_loss

if TYPE_CHECKING:
    from retention.models.encoded import Batch
    from retention.training.module import RetentionModule


class Losses(NamedTuple):
    """Two scalars: ``task``, what the task and the teacher ask for; ``total``, with the budget's penalty."""

    task: Tensor
    total: Tensor


class Objective:
    """What a module learns from.

    Args:
        module: encoder, policy and head, with the settings of their training.
    """

    def __init__(self, module: RetentionModule) -> None:
        self._module = module
        self._policy = module.policy
        self._distill = module.settings.distill
        self._budgets = module.settings.budgets
        self._slacks: list[Tensor] = []
        self.teacher: Teacher | None = None

    def learn_from(self, teacher: Teacher) -> None:
        """Learn from this finished model as well.

        Raises:
            ConfigError: pooled states are to be learned, and the module's head has none; or states of tokens, and the
                teacher has other layers.
        """
        checks = Checks()
        message = f"{type(self._module).__name__} reads every token and has no pooled state to learn; set it to 0"
        checks.require(self._distill.pooled_states == 0 or self._module.pools, "distill.pooled_states", message)
        own, other = ((each.shape.num_layers, each.shape.hidden_size) for each in (self._module, teacher.module))
        message = f"needs a teacher of {own[0]} layers of width {own[1]}, it has {other[0]} of {other[1]}; set it to 0"
        checks.require(self._distill.token_states == 0 or own == other, "distill.token_states", message)
        checks.finish()
        self.teacher = teacher

    def losses(self, batch: Batch, step: int) -> Losses:
        """Losses of optimiser step ``step``, the mean over its passes."""
        task, total = zip(*self._passes(batch, self._ask_teacher(batch), step), strict=True)
        return Losses(torch.stack(task).mean(), torch.stack(total).mean())

    def take_slack(self) -> Tensor | None:
        """Mean budget slack of each gated layer since it was last taken, [L]; None where no budget was priced."""
        if not self._slacks:
            return None
        slack = torch.stack(self._slacks).mean(0)
        self._slacks.clear()
        return slack

    def _passes(self, batch: Batch, taught: TeacherOutputs | None, step: int) -> Iterator[Losses]:
        """Losses of each pass of a step: one pass, or one for each budget that is drawn."""
        budgets, answers = self._drawn_budgets(step), None
        if not budgets:
            yield self._pass(batch, taught)[1]
        for rho in budgets:
            with self._policy.at_budget(rho):
                logits, losses = self._pass(batch, taught, answers)
            answers = logits.detach() if rho == KEEP_ALL else answers
            yield losses

    def _drawn_budgets(self, step: int) -> tuple[float, ...]:
        """Budgets of a step's passes; empty for a single one: nothing is sampled, or no gate would act."""
        sampled = self._budgets.active and self._module.phase != "warmup" and self._policy.layers
        return self._budgets.draw(step) if sampled else ()

    def _pass(
        self, batch: Batch, taught: TeacherOutputs | None, in_place: Tensor | None = None
    ) -> tuple[Tensor, Losses]:
        """Logits and losses of one pass; ``in_place`` are the logits of the step's keep-all pass."""
        module = self._module
        wanted = taught is not None and len(taught.states) > 0
        with recorded(module.retainer, wanted=wanted) as states:
            answer = module.answer(batch)
        loss = module.task_loss(answer.logits, batch)
        if taught is not None:
            loss = self._with_teacher(loss, TeacherOutputs(answer, states, {}), taught, batch)
        if in_place is not None:
            loss = self._budgets.blend(loss, module.distillation_loss(answer.logits, in_place, batch))
        return answer.logits, Losses(loss, loss + self._budget_loss(loss))

    def _ask_teacher(self, batch: Batch) -> TeacherOutputs | None:
        """What the teacher says; guides the policy by the teacher's saliency on the way."""
        if self.teacher is None:
            return None
        explained = self._policy.scored if self._distill.saliency > 0 else ()
        outputs = self.teacher.outputs(batch, states=self._distill.token_states > 0, explained=explained)
        if explained:
            self._policy.set_saliency(outputs.saliency)
        return outputs

    def _with_teacher(self, task_loss: Tensor, own: TeacherOutputs, taught: TeacherOutputs, batch: Batch) -> Tensor:
        soft_loss = self._module.distillation_loss(own.answer.logits, taught.answer.logits, batch)
        loss = self._distill.mix(task_loss, soft_loss)
        if self._distill.pooled_states > 0:
            apart = pooled_state_loss(cast(Tensor, own.answer.pooled), cast(Tensor, taught.answer.pooled))
            loss = loss + self._distill.pooled_states * apart
        if taught.states:
            loss = loss + self._distill.token_states * token_state_loss(own.states, taught.states)
        return loss + self._distill.saliency * self._policy.saliency_loss().to(loss)

    def _budget_loss(self, task_loss: Tensor) -> Tensor:
        if not self._policy.constrained or self._module.phase == "warmup":
            return task_loss.new_zeros(())
        self._slacks.append(self._policy.budget_slack().detach())
        return self._policy.budget_loss()
