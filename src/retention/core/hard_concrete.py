"""The Hard-Concrete distribution: a stretched, clamped relaxation of Bernoulli gates."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from retention.errors import Checks

_QUADRATURE_NODES = 64


@dataclass(frozen=True, kw_only=True)
class HardConcrete:
    """Hard-Concrete gates z in [0, 1] with logits s (paper, eq. 6; Louizos et al. 2018).

    y = sigmoid((s + log u - log(1 - u)) / beta) with u uniform, then z = clamp(y (zeta - gamma) + gamma, 0, 1).
    Every method takes ``logits`` of any shape and returns the same shape.

    Attributes:
        beta: temperature, > 0.
        gamma: lower stretch limit, < 0.
        zeta: upper stretch limit, > 1.

    Raises:
        ConfigError: a parameter is out of its range.
    """

    beta: float = 0.66
    gamma: float = -0.1
    zeta: float = 1.1

    def __post_init__(self) -> None:
        checks = Checks()
        checks.require(self.beta > 0, "beta", f"the temperature must be > 0, got {self.beta}")
        checks.require(self.gamma < 0, "gamma", f"the lower stretch limit must be < 0, got {self.gamma}")
        checks.require(self.zeta > 1, "zeta", f"the upper stretch limit must be > 1, got {self.zeta}")
        checks.finish()

    @property
    def open_shift(self) -> float:
        """c with P(z > 0) = sigmoid(s + c); c = -beta log(-gamma / zeta)."""
        return -self.beta * math.log(-self.gamma / self.zeta)

    def sample(self, logits: Tensor, uniform: Tensor | None = None) -> Tensor:
        """Draw gates; differentiable in ``logits`` (pathwise).

        Args:
            logits: s, any shape.
            uniform: u in (0, 1), same shape; drawn from the global generator if not given.
        """
        if uniform is None:
            uniform = torch.rand_like(logits)
        noise = torch.logit(uniform, eps=1e-6)
        return self._stretch(torch.sigmoid((logits + noise) / self.beta))

    def deterministic(self, logits: Tensor) -> Tensor:
        """Test-time value without noise, clamp(sigmoid(s) (zeta - gamma) + gamma, 0, 1)."""
        return self._stretch(torch.sigmoid(logits))

    def prob_zero(self, logits: Tensor) -> Tensor:
        """P(z = 0)."""
        return torch.sigmoid(-logits - self.open_shift)

    def prob_nonzero(self, logits: Tensor) -> Tensor:
        """P(z > 0), the expected L0 norm of the gate."""
        return torch.sigmoid(logits + self.open_shift)

    def prob_one(self, logits: Tensor) -> Tensor:
        """P(z = 1)."""
        return self._survival(logits, 1.0)

    def expected(self, logits: Tensor) -> Tensor:
        """E[z], the integral of P(z > t) over t in [0, 1].

        The integrand is known in closed form and analytic on the whole interval (the stretch keeps it away from the
        ends of the sigmoid), so Gauss-Legendre quadrature is exact to rounding for beta >= 0.1.
        """
        nodes, weights = np.polynomial.legendre.leggauss(_QUADRATURE_NODES)
        total = torch.zeros_like(logits)
        for node, weight in zip(nodes.tolist(), weights.tolist(), strict=True):
            total = total + 0.5 * weight * self._survival(logits, 0.5 * (node + 1.0))
        return total

    def _survival(self, logits: Tensor, level: float) -> Tensor:
        """P(z > level) for level in [0, 1), and P(z = 1) at level 1."""
        y = (level - self.gamma) / (self.zeta - self.gamma)
        return torch.sigmoid(logits - self.beta * math.log(y / (1.0 - y)))

    def _stretch(self, y: Tensor) -> Tensor:
        return torch.clamp(y * (self.zeta - self.gamma) + self.gamma, 0.0, 1.0)


def log_gate(gates: Tensor) -> Tensor:
    """log z with z = 0 mapped to the dtype's most negative finite value; safe to differentiate.

    Added to attention logits, 0 is exactly "removed" and 1 exactly "kept" (paper.md, ruling 6: multiplying states by z
    would leave a zeroed token its attention mass).

    Args:
        gates: z in [0, 1], any shape.
    """
    open_gates = gates > 0
    safe = torch.where(open_gates, gates, torch.ones_like(gates))
    return torch.where(open_gates, safe.log(), torch.finfo(gates.dtype).min / 4)
