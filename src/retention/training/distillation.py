"""Provide the settings of distillation from a dense model, and losses on its states."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from retention.errors import require, require_number

BACKBONE = "backbone"  # teacher: the pretrained encoder as it was loaded


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """Weights of the distillation losses.

    Attributes:
        weight: w in [0, 1]; loss = (1 - w) task + w soft targets (Hinton et al. 2015, arXiv 1503.02531). 0 = off.
        temperature: > 0; the soft-target loss is scaled by its square.
        pooled_states: weight >= 0 of the distance between the pooled states of student and teacher (hints, Romero et
            al. 2015, arXiv 1412.6550), see ``pooled_state_loss``; needs a head that pools. 0 = off.
        token_states: weight >= 0 of the distance between the states of each token in student and teacher, after each
            layer that the token reaches, see ``token_state_loss``. The teacher runs in every step. 0 = off.
        saliency: weight >= 0 of the saliency distillation of the scorers: a ranking loss towards the teacher's gradient
            norms; needs a trainable policy. 0 = off.
        teacher: checkpoint of a dense run of the same task, or ``backbone`` = the pretrained encoder as it was loaded,
            with all its layers, for heads without weights; required if any of the weights is > 0.

    Raises:
        ConfigError: a value is out of range, or the teacher is missing.
    """

    weight: float = 0.0
    temperature: float = 2.0
    pooled_states: float = 0.0
    token_states: float = 0.0
    saliency: float = 0.0
    teacher: str | None = None

    def __post_init__(self) -> None:
        require_number("weight", self.weight, low=0, high=1)
        require_number("temperature", self.temperature, above=0)
        for key in ("pooled_states", "token_states", "saliency"):
            value = getattr(self, key)
            require_number(key, value, low=0)
        message = "distillation needs a teacher; pass distill.teacher=<checkpoint of a dense run>"
        require(not self.active or self.teacher is not None, "teacher", message)

    @property
    def active(self) -> bool:
        """Return True if any loss needs a teacher."""
        return any(weight > 0 for weight in (self.weight, self.pooled_states, self.token_states, self.saliency))

    def mix(self, task_loss: Tensor, soft_target_loss: Tensor) -> Tensor:
        """Compute (1 - w) task + w soft targets."""
        return (1.0 - self.weight) * task_loss + self.weight * soft_target_loss


def pooled_state_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute |student - teacher|^2 / |teacher|^2 of states [B, D], mean over the batch, a scalar."""
    return relative_errors(student, teacher).mean()


def relative_errors(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute |student - teacher|^2 / |teacher|^2 of each of the states [..., D]."""
    target, ours = teacher.float(), student.float()
    return (ours - target).square().sum(-1) / target.square().sum(-1).clamp_min(1e-12)
