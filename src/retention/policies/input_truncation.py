"""Input truncation: the shorter max_length that a user would choose first."""

from __future__ import annotations

import torch
from torch import Tensor

from retention.core.flops import BEFORE_FIRST_LAYER
from retention.engine.gate import LayerView
from retention.errors import require
from retention.policies.bases.retention_policy import RetentionPolicy

PARTS = ("head", "head_tail")


class InputTruncation(RetentionPolicy):
    """Keep a part of the input and remove everything else before layer 0; nothing is learned.

    What remains goes through every layer, so ``rho`` is the share of the input tokens that is kept (special tokens
    included) and, but for the attention products, the FLOPs ratio. Policies with gates after layers spend more at the
    same rho: compare at equal FLOPs (``flops_ratio=``). Needs no attention maps.

    Truncated tokens return with their embeddings. Heads must not read them: use a head that reads [CLS], pools by
    ``depth`` (their weight is 0) or ``survivors``, or ``dropped=cut``.

    Source: ``head`` and ``head_tail`` are the truncations that Sun et al. (2019, arXiv 1905.05583) compare; their best
    one keeps the first quarter of the budget from the head of a text and the rest from its tail. Differs from a
    tokenizer's ``max_length``: the number of tokens is a share of the length of each sequence, and tokens keep their
    original positions.

    Args:
        rho: share of the tokens that is kept, in (0, 1].
        part: ``head`` = the first tokens, ``head_tail`` = some from both ends.
        head_share: share of the kept tokens that comes from the head with ``part=head_tail``, in (0, 1).

    Raises:
        ConfigError: a setting is out of range.
    """

    supports_spans = False  # positions within spans are what it ranks by

    def __init__(self, *, rho: float, part: str = "head", head_share: float = 0.25) -> None:
        require(part in PARTS, "part", f"must be one of {', '.join(PARTS)}, got {part!r}")
        require(0.0 < head_share < 1.0, "head_share", f"must be in (0, 1), got {head_share}")
        super().__init__(rho=rho, schedule="flat", layers=[BEFORE_FIRST_LAYER])
        self.part = part
        self.head_share = head_share

    def score(self, view: LayerView) -> Tensor:
        """Return scores that decrease with the distance from the kept ends, counted in tokens that compete."""
        free = view.valid & ~view.protected
        from_head = free.cumsum(1)
        if self.part == "head":
            return -from_head.float()
        from_tail = free.flip(1).cumsum(1).flip(1)
        # Of the k best, about head_share * k have their rank by the first term.
        return -torch.minimum(from_head / self.head_share, from_tail / (1.0 - self.head_share))
