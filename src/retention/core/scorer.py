"""Scorers: one number per token, from its state alone or with the running summary."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retention.core.summary import previous_summary
from retention.errors import Checks


class Scorer(nn.Module):
    """Base of all scorers: ``forward(hidden_states [B, N, D], weights [B, N] | None) -> scores [B, N]``.

    States are layer-normalised (without parameters) first, so that one learning rate fits post-norm encoders and the
    unnormalised residual streams of pre-norm ones. No scorer reads attention maps: those would force eager attention.
    """

    def macs_per_token(self) -> int:
        """Multiply-accumulates per token, for the FLOPs ledger."""
        return sum(module.weight.numel() for module in self.modules() if isinstance(module, nn.Linear))

    @staticmethod
    def _normalise(hidden_states: Tensor) -> Tensor:
        return F.layer_norm(hidden_states, hidden_states.shape[-1:])


class GatedScorer(Scorer):
    """s_t = v^T tanh(W h_t + U m_{t-1}) + b with the running summary m (paper, eq. 3).

    U is linear and commutes with the running mean, so states are projected to ``inner`` dimensions before the mean is
    taken: the cost is 2 D inner multiply-accumulates per token, under 2 % of a Transformer layer.

    Differs from the paper: W and U map to ``inner`` instead of d dimensions, and states are normalised first.

    Args:
        hidden_size: D.
        inner: width of the tanh layer.
        decay: g of eq. 3, in [0, 1].
        keep_bias: initial b; positive values start near "keep all".
        both_ways: add a summary of the tokens that follow, through a matrix of its own.

    Raises:
        ConfigError: ``inner`` or ``decay`` out of range.
    """

    def __init__(
        self,
        hidden_size: int,
        *,
        inner: int = 32,
        decay: float = 0.9,
        keep_bias: float = 0.0,
        bidirectional: bool = False,
    ) -> None:
        check_scorer(inner=inner, decay=decay)
        super().__init__()
        self.decay = decay
        self.state = nn.Linear(hidden_size, inner, bias=False)
        self.summary = nn.Linear(hidden_size, inner, bias=False)
        self.ahead = nn.Linear(hidden_size, inner, bias=False) if bidirectional else None
        self.out = nn.Linear(inner, 1)
        nn.init.normal_(self.out.weight, std=0.02)
        nn.init.constant_(self.out.bias, keep_bias)

    def forward(self, hidden_states: Tensor, weights: Tensor | None = None) -> Tensor:
        normed = self._normalise(hidden_states)
        context = previous_summary(self.summary(normed), self.decay, weights)
        if self.ahead is not None:
            reversed_weights = None if weights is None else weights.flip(1)
            context = context + previous_summary(self.ahead(normed).flip(1), self.decay, reversed_weights).flip(1)
        scores: Tensor = self.out(torch.tanh(self.state(normed) + context))
        return scores.squeeze(-1)


class MLPScorer(Scorer):
    """d -> d/2 -> 1 with ReLU (paper, Fig. 1); about 4 % of a layer's FLOPs, context-free.

    Args:
        hidden_size: D.
        keep_bias: initial output bias.
    """

    def __init__(self, hidden_size: int, *, keep_bias: float = 0.0) -> None:
        super().__init__()
        self.inner = nn.Linear(hidden_size, hidden_size // 2)
        self.out = nn.Linear(hidden_size // 2, 1)
        nn.init.normal_(self.out.weight, std=0.02)
        nn.init.constant_(self.out.bias, keep_bias)

    def forward(self, hidden_states: Tensor, weights: Tensor | None = None) -> Tensor:
        scores: Tensor = self.out(F.relu(self.inner(self._normalise(hidden_states))))
        return scores.squeeze(-1)


class LinearScorer(Scorer):
    """s_t = v^T h_t + b, the cheapest scorer.

    Args:
        hidden_size: D.
        keep_bias: initial b.
    """

    def __init__(self, hidden_size: int, *, keep_bias: float = 0.0) -> None:
        super().__init__()
        self.out = nn.Linear(hidden_size, 1)
        nn.init.normal_(self.out.weight, std=0.02)
        nn.init.constant_(self.out.bias, keep_bias)

    def forward(self, hidden_states: Tensor, weights: Tensor | None = None) -> Tensor:
        scores: Tensor = self.out(self._normalise(hidden_states))
        return scores.squeeze(-1)


SCORERS = ("gated", "mlp", "linear")


def check_scorer(*, kind: str = "gated", inner: int = 32, decay: float = 0.9, bidirectional: bool = False) -> None:
    """Raise ``ConfigError`` with every scorer setting that is out of range."""
    checks = Checks()
    checks.require(kind in SCORERS, "scorer_kind", f"must be one of {', '.join(SCORERS)}, got {kind!r}")
    checks.require(inner >= 1, "scorer_dim", f"the scorer width must be >= 1, got {inner}")
    checks.require(0.0 <= decay <= 1.0, "decay", f"the summary decay must be in [0, 1], got {decay}")
    message = f"only the gated scorer has a summary, this is {kind}; set it to false"
    checks.require(kind == "gated" or not bidirectional, "bidirectional", message)
    checks.finish()


def build_scorer(
    kind: str, hidden_size: int, *, inner: int, decay: float, keep_bias: float, bidirectional: bool = False
) -> Scorer:
    """A scorer by name.

    Raises:
        ConfigError: the name is unknown or a setting is out of range.
    """
    check_scorer(kind=kind, inner=inner, decay=decay, bidirectional=bidirectional)
    if kind == "gated":
        return GatedScorer(hidden_size, inner=inner, decay=decay, keep_bias=keep_bias, bidirectional=bidirectional)
    if kind == "mlp":
        return MLPScorer(hidden_size, keep_bias=keep_bias)
    return LinearScorer(hidden_size, keep_bias=keep_bias)
