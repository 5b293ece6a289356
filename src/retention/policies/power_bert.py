"""PoWER-BERT: progressive elimination by rank position (Goyal et al., ICML 2020, arXiv 2001.08950)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from retention.core.flops import EncoderShape
from retention.policies.bases.rank_curve import RankCurvePolicy

_LEAST = 1e-3  # a weight of 0 would have no gradient


class PowerBert(RankCurvePolicy):
    """Keeps the tokens that get most attention, as many in each layer as learned rank weights say.

    Training needs: the soft phase is the paper's configuration search: the token at rank k of gate l is gated by a
    weight r_lk in [0, 1] that starts at 1, under an L1 pressure that grows with depth. The removal phase is the
    retraining with strict extraction.

    Differs from the paper: the weight of the pressure comes from a dual on the mean kept share, and the configuration
    is scaled to the share asked for; ranks are relative to a sample's real tokens, in ``bins``, instead of positions
    of a padded length; weights enter as logarithms on attention logits instead of multiplying states; a token's
    attention to itself counts. ``prune_at=after_attention`` lets tokens leave where the paper does.

    Args:
        rho: mean share of a sample's real tokens that is kept, over the gated layers, in (0, 1].
        layers, bins, eta, augmented, name: see ``RankCurve``.

    Raises:
        ConfigError: a setting is out of range.
    """

    def __init__(
        self,
        *,
        rho: float,
        layers: Sequence[int] | None = None,
        bins: int = 32,
        eta: float = 0.1,
        augmented: float = 10.0,
        name: str | None = None,
    ) -> None:
        super().__init__(rho=rho, layers=layers, bins=bins, eta=eta, augmented=augmented, name=name)

    def build(self, shape: EncoderShape, name: str = "the encoder") -> None:
        super().build(shape, name)
        self.weights = nn.Parameter(torch.ones(len(self.layers), self.bins))

    def curves(self) -> Tensor:
        return self.weights.clamp(_LEAST, 1.0)

    def drawn_curve(self, gate: int) -> Tensor:
        return self.curves()[gate]

    def budget_slack(self) -> Tensor:
        """Mean kept share minus the share asked for now; its gradient is that of the L1 norm, weighed by depth."""
        if not self._asked:
            return self.pressure.multipliers.new_zeros(1)
        depth = torch.arange(1, len(self.layers) + 1, device=self.weights.device).float()
        norm = (depth / depth.mean() * self.curves().mean(1)).mean()
        asked = 1.0 - self.current_anneal * (1.0 - self.rho)
        return (self.shares().mean().detach() - asked + norm - norm.detach()).unsqueeze(0)

    def step_dual(self, slack: Tensor) -> None:
        """Also brings the weights back into [0, 1], once per optimiser step."""
        super().step_dual(slack)
        with torch.no_grad():
            self.weights.clamp_(_LEAST, 1.0)
