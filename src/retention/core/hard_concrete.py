"""Provide the Hard-Concrete distribution, a stretched and clamped relaxation of Bernoulli gates."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from retention.core.settings import FlatConfig
from retention.errors import require, require_number

GATE_TARGETS = ("attention", "states")
_QUADRATURE_NODES = 64


@dataclass(frozen=True, kw_only=True)
class HardConcrete(FlatConfig):
    """Hard-Concrete gates z in [0, 1] with logits s (paper, eq. 6; Louizos et al., ICLR 2018, arXiv 1712.01312).

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
        require_number("beta", self.beta, above=0, name="the temperature")
        require_number("gamma", self.gamma, below=0, name="the lower stretch limit")
        require_number("zeta", self.zeta, above=1, name="the upper stretch limit")

    @property
    def open_shift(self) -> float:
        """Return c with P(z > 0) = sigmoid(s + c); c = -beta log(-gamma / zeta)."""
        return -self.beta * math.log(-self.gamma / self.zeta)

    def sample(self, logits: Tensor, uniform: Tensor | None = None) -> Tensor:
        """Draw gates; differentiable in ``logits`` (pathwise gradient).

        Args:
            logits: s, any shape.
            uniform: u in (0, 1), same shape; drawn from the global generator by default.
        """
        if uniform is None:
            uniform = torch.rand_like(logits)
        noise = torch.logit(uniform, eps=1e-6)
        return self._stretch(torch.sigmoid((logits + noise) / self.beta))

    def deterministic(self, logits: Tensor) -> Tensor:
        """Return the gate without noise, clamp(sigmoid(s) (zeta - gamma) + gamma, 0, 1)."""
        return self._stretch(torch.sigmoid(logits))

    def prob_zero(self, logits: Tensor) -> Tensor:
        """Return P(z = 0)."""
        return torch.sigmoid(-logits - self.open_shift)

    def prob_nonzero(self, logits: Tensor) -> Tensor:
        """Return P(z > 0), the expected L0 norm of the gate."""
        return torch.sigmoid(logits + self.open_shift)

    def prob_one(self, logits: Tensor) -> Tensor:
        """Return P(z = 1)."""
        return self._exceedance(logits, 1.0)

    def expected(self, logits: Tensor) -> Tensor:
        """Compute E[z], the integral of P(z > t) over t in [0, 1].

        The integrand has a closed form and is analytic on the whole interval (the stretch keeps it away from the ends
        of the sigmoid), so Gauss-Legendre quadrature is exact to rounding for beta >= 0.1.
        """
        nodes, weights = np.polynomial.legendre.leggauss(_QUADRATURE_NODES)
        total = torch.zeros_like(logits)
        for node, weight in zip(nodes.tolist(), weights.tolist(), strict=True):
            total = total + 0.5 * weight * self._exceedance(logits, 0.5 * (node + 1.0))
        return total

    def _exceedance(self, logits: Tensor, level: float) -> Tensor:
        """Return P(z > level) for level in [0, 1), and P(z = 1) for level 1."""
        y = (level - self.gamma) / (self.zeta - self.gamma)
        return torch.sigmoid(logits - self.beta * math.log(y / (1.0 - y)))

    def _stretch(self, y: Tensor) -> Tensor:
        return torch.clamp(y * (self.zeta - self.gamma) + self.gamma, 0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class GateConfig(FlatConfig):
    """Settings of soft gates in training.

    Attributes:
        beta: temperature of the Hard-Concrete gates, > 0.
        gamma: lower stretch limit, < 0.
        zeta: upper stretch limit, > 1.
        beta_end: temperature at the full budget, > 0; beta moves there geometrically while the budget is annealed.
            None keeps ``beta`` throughout.
        relaxed: draw gates from the Hard-Concrete; False uses the keep probability itself as the gate, without noise or
            stretch, so that beta, gamma and zeta have no effect (Table 3, no variational relaxation).
        gate_target: ``attention`` adds log z to the attention logits of a token as a key; ``states`` multiplies its
            states, as the paper writes it (H * z).

    Raises:
        ConfigError: a setting is out of range.
    """

    beta: float = 0.66
    gamma: float = -0.1
    zeta: float = 1.1
    beta_end: float | None = None
    relaxed: bool = True
    gate_target: str = "attention"

    def __post_init__(self) -> None:
        HardConcrete(beta=self.beta, gamma=self.gamma, zeta=self.zeta)
        require_number("beta_end", self.beta_end, above=0, name="the last temperature (null = beta)")
        message = f"must be one of {', '.join(GATE_TARGETS)}, got {self.gate_target!r}"
        require(self.gate_target in GATE_TARGETS, "gate_target", message)

    def distribution(self, anneal: float) -> HardConcrete:
        """Return the distribution of the gates at ``anneal`` in [0, 1], 0 = start and 1 = full budget."""
        end = self.beta if self.beta_end is None else self.beta_end
        return HardConcrete(beta=self.beta * (end / self.beta) ** anneal, gamma=self.gamma, zeta=self.zeta)


def log_gate(gates: Tensor) -> Tensor:
    """Compute log z, with a large negative finite value for z = 0; safe to differentiate.

    Added to attention logits, z = 0 removes the token exactly and z = 1 keeps it exactly. Multiplying states by z is
    not the same: a token whose states are zero keeps its share of the attention.

    Args:
        gates: z in [0, 1], any shape.
    """
    open_gates = gates > 0
    safe = torch.where(open_gates, gates, torch.ones_like(gates))
    return torch.where(open_gates, safe.log(), torch.finfo(gates.dtype).min / 4)
