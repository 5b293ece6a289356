"""A kept token that carries what its text has just dropped."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from retention.engine.gate import Decision, LayerView


def fuse_dropped(decision: Decision, scores: Tensor, view: LayerView) -> Decision:
    """The same decision, but in every text the kept token of lowest score stands for those that leave as well.

    Its state becomes the mean over itself and them, each weighed by exp(score) and by how many tokens it stands for
    already; in later layers it counts as many keys as it stands for (log of the number on its attention logit). The
    number of kept tokens stays. The weights are the only place where real removal tells a scorer, by a gradient,
    what dropped tokens are worth. Texts in which nothing leaves, or only protected tokens stay, are left alone.

    Source: the fused token of EViT (Liang et al., ICLR 2022, arXiv 2202.07800), with the proportional attention of
    ToMe (Bolya et al., ICLR 2023, arXiv 2210.09461). Differs: the budget pays for the carrier.

    Args:
        decision: with a ``keep_mask``.
        scores: [B, N].
        view: what the gate saw.
    """
    if decision.keep_mask is None:
        return decision
    leaving, free = view.valid & ~decision.keep_mask, decision.keep_mask & ~view.protected
    rows = torch.arange(scores.shape[1], device=scores.device).expand_as(scores)
    chosen = scores.detach().masked_fill(~free, torch.inf).argmin(1, keepdim=True)
    carrier = (rows == chosen) & free & leaving.any(1, keepdim=True)
    sizes, joined = view.weights.float(), carrier | (leaving & carrier.any(1, keepdim=True))
    shares = torch.softmax((scores + sizes.clamp_min(1e-12).log()).masked_fill(~joined, -1e4), dim=1)
    states = view.hidden_states if decision.hidden_states is None else decision.hidden_states
    mean = (shares.unsqueeze(1).to(states.dtype) @ states).expand_as(states)
    total = torch.where(joined, sizes, 0.0).sum(1, keepdim=True)
    growth = torch.where(carrier, total.clamp_min(1e-12).log() - sizes.clamp_min(1e-12).log(), 0.0)
    return replace(
        decision,
        hidden_states=torch.where(carrier.unsqueeze(-1), mean, states),
        log_gates=growth if decision.log_gates is None else decision.log_gates + growth,
    )
