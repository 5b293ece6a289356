"""Random selection baseline."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from retention.engine.gate import LayerView
from retention.engine.pass_values import PassValue
from retention.policies.bases.retention_policy import RetentionPolicy


class Random(RetentionPolicy):
    """Keep a random subset of the budget's size; the baseline that a learned policy has to beat.

    In training every pass samples anew. At test time the scores are a hash of seed, layer, sequence and position, so
    that the result of a sample depends neither on its batch and padding nor on the order of the data. Needs no
    attention maps.

    Args:
        rho: target keep ratio, see ``RetentionPolicy``.
        schedule: see ``RetentionPolicy``.
        slope: see ``RetentionPolicy``.
        layers: see ``RetentionPolicy``.
        min_tokens: see ``RetentionPolicy``.
        seed: of the selection at test time.
    """

    _starts = PassValue["Tensor | None"](lambda: None)  # [B, 1], position of the first real token

    def __init__(
        self,
        *,
        rho: float,
        schedule: str | Sequence[float] = "linear",
        slope: float = 1.0,
        layers: Sequence[int] | None = None,
        min_tokens: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(rho=rho, schedule=schedule, slope=slope, layers=layers, min_tokens=min_tokens)
        self.seed = seed

    def score(self, view: LayerView) -> Tensor:
        """Sample uniform scores."""
        if self.training and view.spans is None:
            return torch.rand(view.valid.shape, device=view.valid.device)
        if self._starts is None:  # at the first gate that removes tokens, so all of them are still there
            self._starts = view.valid.int().argmax(1, keepdim=True)
        # One number per span: the mean of many would favor short spans.
        seed = int(torch.randint(2**31, ())) if self.training else self.seed
        return hashed_uniform(view, seed, self._starts)


def hashed_uniform(view: LayerView, seed: int, starts: Tensor | int = 0) -> Tensor:
    """Compute numbers in [0, 1), [B, N], from a hash of seed, layer, the sample's tokens and the position or span.

    Args:
        view: tokens after the gated layer.
        seed: of the hash.
        starts: [B, 1] long, position of the first real token, from which positions count.
    """
    positions = (view.positions if view.spans is None else view.spans) - starts
    content = torch.zeros_like(view.lengths)
    if view.input_ids is not None:
        tokens = view.input_ids.gather(1, view.positions) * view.valid
        content = (tokens * _mix(view.positions - starts + 1)).sum(1)
    return (_mix(positions + _mix(content + seed * 1_000_003 + view.layer_idx).unsqueeze(1)) & 0xFFFFFF) / 2.0**24


def _mix(value: Tensor) -> Tensor:
    """Hash 64-bit integers; multiplication wraps around."""
    value = (value ^ (value >> 31)) * 0x5851F42D4C957F2D
    value = (value ^ (value >> 29)) * 0x14057B7EF767814F
    return value ^ (value >> 32)
