"""Learning from the dense model: soft targets and pooled states of a finished run."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from retention.errors import Checks


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """How much of the loss comes from a teacher (Hinton et al. 2015).

    Attributes:
        weight: w in [0, 1]; loss = (1 - w) task + w distillation. 0 = off.
        temperature: > 0; the loss is scaled by its square.
        pooled_states: weight >= 0 of the distance between the pooled state that the answer is read from and the teacher's
            (hints, Romero et al. 2015), see ``pooled_state_loss``. A state says more about a text than its few logits;
            needs a head that pools. 0 = off.
        token_states: weight >= 0 of the distance between the states of each token and the teacher's, after each layer that
            the token reaches, see ``token_state_loss``. The teacher runs in every step. 0 = off.
        saliency: weight >= 0 of a ranking loss that teaches scorers which token states the teacher's answer rests on
            (its gradient norms); needs a trainable policy. 0 = off.
        teacher: checkpoint of a dense run of the same task; needed where any of the weights is > 0.

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
        checks = Checks()
        checks.require(0.0 <= self.weight <= 1.0, "weight", f"must be in [0, 1], got {self.weight}")
        checks.require(self.temperature > 0, "temperature", f"must be > 0, got {self.temperature}")
        checks.require(self.pooled_states >= 0, "pooled_states", f"must be >= 0, got {self.pooled_states}")
        checks.require(self.token_states >= 0, "token_states", f"must be >= 0, got {self.token_states}")
        checks.require(self.saliency >= 0, "saliency", f"must be >= 0, got {self.saliency}")
        message = "there is no teacher to learn from; pass distill.teacher=<checkpoint of a dense run>"
        checks.require(not self.active or self.teacher is not None, "teacher", message)
        checks.finish()

    @property
    def active(self) -> bool:
        """Whether a teacher is asked at all."""
        return any(weight > 0 for weight in (self.weight, self.pooled_states, self.token_states, self.saliency))

    def mix(self, task_loss: Tensor, soft_loss: Tensor) -> Tensor:
        """(1 - w) task + w distillation."""
        return (1.0 - self.weight) * task_loss + self.weight * soft_loss


def soft_target_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """temperature^2 KL(teacher || student) of class logits [..., C], mean over the leading axes, scalar."""
    return soft_target_losses(student, teacher, temperature).mean()


def soft_target_losses(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """temperature^2 KL(teacher || student) of class logits [..., C], one for each place of the leading axes."""
    student_log = F.log_softmax(student.float() / temperature, -1)
    teacher_log = F.log_softmax(teacher.float() / temperature, -1)
    return temperature**2 * F.kl_div(student_log, teacher_log, reduction="none", log_target=True).sum(-1)


def soft_decision_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """temperature^2 KL(teacher || student) of yes-or-no logits of any shape, per decision."""
    wanted, found = teacher.float() / temperature, student.float() / temperature
    shares = wanted.sigmoid()
    yes = shares * (F.logsigmoid(wanted) - F.logsigmoid(found))
    no = (1.0 - shares) * (F.logsigmoid(-wanted) - F.logsigmoid(-found))
    return temperature**2 * (yes + no)


def pooled_state_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """|student - teacher|^2 / |teacher|^2 of states [B, D], mean over the batch, scalar."""
    return relative_errors(student, teacher).mean()


def relative_errors(student: Tensor, teacher: Tensor) -> Tensor:
    """|student - teacher|^2 / |teacher|^2 of each of the states [..., D]."""
    wanted, found = teacher.float(), student.float()
    return (found - wanted).square().sum(-1) / wanted.square().sum(-1).clamp_min(1e-12)
