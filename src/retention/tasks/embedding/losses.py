"""Provide losses between the embeddings of a pruned model and those of the dense one."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def cosine_loss(embeddings: Tensor, targets: Tensor) -> Tensor:
    """Compute 1 - cosine similarity of each embedding to its target, mean over the batch, a scalar in [0, 2].

    Half of the squared distance of the normalized vectors (SimReg, Navaneet et al. 2021, arXiv 2201.05131).

    Args:
        embeddings: [B, D].
        targets: [B, D].
    """
    return (1.0 - F.cosine_similarity(embeddings.float(), targets.float(), dim=-1)).mean()


def relational_loss(embeddings: Tensor, targets: Tensor) -> Tensor:
    """Compute the mean squared difference of the cosine similarities of all pairs in the batch, a scalar in [0, 4].

    It does not change if all embeddings are rotated alike. 0 for a single row. (Relational knowledge distillation, Park
    et al. 2019, arXiv 1904.05068, with cosine similarities as the relation.)

    Args:
        embeddings: [B, D].
        targets: [B, D'].
    """
    pairs = _pairs(len(embeddings), embeddings.device)
    if len(pairs[0]) == 0:
        return embeddings.float().sum() * 0.0
    return (cosine_matrix(embeddings)[pairs] - cosine_matrix(targets)[pairs]).square().mean()


def neighbor_loss(embeddings: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Compute KL(target || embedding) of each row's softmax over its similarities to the others, mean over rows.

    A row's nearest neighbors in the batch count most. 0 for a single row. (SEED, Fang et al. 2021, arXiv 2101.04731,
    with the batch instead of a queue.)

    Args:
        embeddings: [B, D].
        targets: [B, D'].
        temperature: > 0; of cosine similarities. The loss is not scaled by its square.
    """
    if len(embeddings) < 3:
        return embeddings.float().sum() * 0.0
    student, teacher = (_other_similarities(each) / temperature for each in (embeddings, targets))
    log_student, log_teacher = F.log_softmax(student, -1), F.log_softmax(teacher, -1)
    return F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)


def cosine_matrix(embeddings: Tensor) -> Tensor:
    """Compute the cosine similarities of all pairs of embeddings [B, D]: [B, B]."""
    normalized = F.normalize(embeddings.float(), dim=-1)
    return normalized @ normalized.T


def _other_similarities(embeddings: Tensor) -> Tensor:
    """Compute the similarities of each row to all others, [B, B - 1]."""
    similarities, count = cosine_matrix(embeddings), len(embeddings)
    others = ~torch.eye(count, dtype=torch.bool, device=embeddings.device)
    return similarities[others].reshape(count, count - 1)


def _pairs(count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    rows, columns = torch.triu_indices(count, count, offset=1, device=device)
    return rows, columns
