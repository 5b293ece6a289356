"""PoWER-BERT: progressive elimination by attention rank (Goyal et al., ICML 2020, arXiv 2001.08950)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from retention.core.flops import EncoderShape
from retention.policies.bases.rank_curve import RankCurvePolicy

_MIN_WEIGHT = 1e-3  # a weight of 0 would have no gradient


class PowerBert(RankCurvePolicy):
    """Keep the tokens that receive the most attention, as many per layer as learned rank weights determine.

    Training: the soft phase is the paper's configuration search, in which rank k of gate l has a weight r_lk in [0, 1]
    that starts at 1, under an L1 penalty that grows with depth. The hard phase is the retraining with extraction. Needs
    attention maps (eager attention).

    Source: PoWER-BERT (arXiv 2001.08950).

    Differs from the paper: the weight of the penalty comes from a dual on the mean keep ratio, and the configuration is
    scaled to the budget; ranks are relative to a sample's real tokens, in ``bins``, instead of positions of a padded
    sequence; weights are added to attention logits as logarithms instead of multiplying states; a token's attention to
    itself counts. ``prune_at=after_attention`` removes tokens at the paper's location.

    Args:
        rho: target keep ratio, see ``RetentionPolicy``.
        layers: see ``RetentionPolicy``.
        bins: see ``RankCurvePolicy``.
        frozen: see ``RankCurvePolicy``.
        eta: see ``LagrangianPolicy``.
        augmented: see ``LagrangianPolicy``.
        name: see ``RetentionPolicy``.

    Raises:
        ConfigError: a setting is out of range.
    """

    def __init__(
        self,
        *,
        rho: float,
        layers: Sequence[int] | None = None,
        bins: int = 32,
        frozen: bool = True,
        eta: float = 0.1,
        augmented: float = 10.0,
        name: str | None = None,
    ) -> None:
        super().__init__(rho=rho, layers=layers, bins=bins, frozen=frozen, eta=eta, augmented=augmented, name=name)

    def build(self, shape: EncoderShape, name: str = "the encoder") -> None:
        """Allocate the rank weights."""
        super().build(shape, name)
        self.weights = nn.Parameter(torch.ones(len(self.layers), self.bins))

    def curves(self) -> Tensor:
        """Return the rank weights, [G, bins] in [0, 1]."""
        return self.weights.clamp(_MIN_WEIGHT, 1.0)

    def sampled_curve(self, gate: int) -> Tensor:
        """Return the rank weights of one gate, [bins], without noise."""
        return self.curves()[gate]

    def budget_slack(self) -> Tensor:
        """Compute the mean keep ratio minus the current target, [1]; the gradient is that of the weighted L1 norm."""
        if not self._was_soft:
            return self.dual.multipliers.new_zeros(1)
        depth = torch.arange(1, len(self.layers) + 1, device=self.weights.device).float()
        norm = (depth / depth.mean() * self.curves().mean(1)).mean()
        target = 1.0 - self.current_anneal * (1.0 - self.rho)
        return (self.keep_ratios().mean().detach() - target + norm - norm.detach()).unsqueeze(0)

    def step_dual(self, slack: Tensor) -> None:
        """Update the multiplier and project the rank weights to [0, 1]."""
        super().step_dual(slack)
        with torch.no_grad():
            self.weights.clamp_(_MIN_WEIGHT, 1.0)
