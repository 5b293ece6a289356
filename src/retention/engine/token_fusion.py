"""Fuse the tokens that a gate drops into one of the kept tokens."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from retention.engine.gate import Decision, LayerView


def fuse_dropped(decision: Decision, scores: Tensor, view: LayerView) -> Decision:
    """Fuse the dropped tokens of each sample into its unprotected kept token of lowest score.

    The state of the fused token becomes the mean over itself and the dropped tokens, each weighed by exp(score) and by
    the number of tokens it represents already. In later layers it counts as that many keys: the log of their number is
    added to its attention logit. The number of kept tokens is unchanged. These weights are the only path by which
    removal gives a scorer a gradient for dropped tokens. Samples without dropped tokens, or with protected kept tokens
    only, are unchanged.

    Source: the fused token of EViT (Liang et al., ICLR 2022, arXiv 2202.07800) with the proportional attention of ToMe
    (Bolya et al., ICLR 2023, arXiv 2210.09461). Differs from EViT: the fused token is one of the kept tokens, so it
    counts towards the budget.

    Args:
        decision: with a ``keep_mask``; returned as it is without one.
        scores: [B, N].
        view: input of the gate.
    """
    if decision.keep_mask is None:
        return decision
    dropped, free = view.valid & ~decision.keep_mask, decision.keep_mask & ~view.protected
    columns = torch.arange(scores.shape[1], device=scores.device).expand_as(scores)
    lowest = scores.detach().masked_fill(~free, torch.inf).argmin(1, keepdim=True)
    fused = (columns == lowest) & free & dropped.any(1, keepdim=True)
    sizes, members = view.weights.float(), fused | (dropped & fused.any(1, keepdim=True))
    mixture = torch.softmax((scores + sizes.clamp_min(1e-12).log()).masked_fill(~members, -1e4), dim=1)
    states = view.hidden_states if decision.hidden_states is None else decision.hidden_states
    mean = (mixture.unsqueeze(1).to(states.dtype) @ states).expand_as(states)
    total = torch.where(members, sizes, 0.0).sum(1, keepdim=True)
    growth = torch.where(fused, total.clamp_min(1e-12).log() - sizes.clamp_min(1e-12).log(), 0.0)
    return replace(
        decision,
        hidden_states=torch.where(fused.unsqueeze(-1), mean, states),
        log_gates=growth if decision.log_gates is None else decision.log_gates + growth,
    )
