"""Count the FLOPs of training steps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from retention.core.flops import encoder_flops, scorer_flops
from retention.engine.report import ForwardReport
from retention.models.retention_model import RetentionModel
from retention.training.teacher import Teacher

FORWARD_AND_BACKWARD = 3  # FLOPs of both passes, in forward passes


def step_flops(
    model: RetentionModel, reports: Sequence[ForwardReport], teacher: Teacher | None, teacher_passes: int
) -> Tensor:
    """Count the encoder FLOPs of one training step on real tokens.

    A backward pass counts as two forward passes, as is usual, whatever is frozen. Heads, embeddings and the optimizer
    are left out, as in ``layer_flops``.

    Args:
        model: the student.
        reports: of its forward passes in this step, at least one.
        teacher: teacher of distillation; None = there is none.
        teacher_passes: forward passes of the teacher in this step; its backward pass to the states counts as one.

    Returns:
        [3] float64: FLOPs of the student, of the teacher, and of one step of the dense reference on the same rows.
    """
    before_feed_forward, macs = model.retainer.prune_at == "after_attention", model.policy.scorer_macs()
    student = torch.stack(
        [
            encoder_flops(
                model.shape, each.lengths, each.kept, each.global_tokens, before_feed_forward=before_feed_forward
            ).sum()
            + scorer_flops(macs, each.lengths, each.kept, num_layers=model.shape.num_layers).sum()
            for each in reports
        ]
    ).sum()
    lengths, num_global = reports[0].lengths, reports[0].global_tokens
    dense = encoder_flops(model.reference_shape, lengths, {}, num_global).sum()
    taught = torch.zeros_like(dense)
    if teacher is not None and teacher_passes:
        taught = teacher_passes * encoder_flops(teacher.model.shape, lengths, {}, num_global).sum()
    return torch.stack([FORWARD_AND_BACKWARD * student, taught, FORWARD_AND_BACKWARD * dense])
