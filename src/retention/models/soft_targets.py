"""Provide distillation losses on logits (Hinton et al. 2015, arXiv 1503.02531)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def soft_target_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Compute temperature^2 KL(teacher || student) of class logits [..., C], averaged to a scalar."""
    return soft_target_losses(student, teacher, temperature).mean()


def soft_target_losses(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Compute temperature^2 KL(teacher || student) of class logits [..., C], one value per vector of logits."""
    student_log = F.log_softmax(student.float() / temperature, -1)
    teacher_log = F.log_softmax(teacher.float() / temperature, -1)
    return temperature**2 * F.kl_div(student_log, teacher_log, reduction="none", log_target=True).sum(-1)


def binary_soft_target_losses(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Compute temperature^2 KL(teacher || student) of binary logits of any shape, one value per logit."""
    teacher_scaled, student_scaled = teacher.float() / temperature, student.float() / temperature
    probabilities = teacher_scaled.sigmoid()
    positive = probabilities * (F.logsigmoid(teacher_scaled) - F.logsigmoid(student_scaled))
    negative = (1.0 - probabilities) * (F.logsigmoid(-teacher_scaled) - F.logsigmoid(-student_scaled))
    return temperature**2 * (positive + negative)
