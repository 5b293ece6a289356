"""Provide scorers: learned functions that give each token a score, the higher the more worth keeping."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retention.core.settings import FlatConfig
from retention.core.summary import previous_summary
from retention.errors import require, require_number

SCORERS = ("gated", "mlp", "linear")


@dataclass(frozen=True, kw_only=True)
class ScorerConfig(FlatConfig):
    """Settings of a scorer.

    Attributes:
        scorer_kind: ``gated`` (eq. 3), ``mlp`` (Fig. 1) or ``linear``.
        scorer_dim: width of the gated scorer's hidden layer, >= 1.
        decay: of the running summary (eq. 3), in [0, 1]; 1 disables the summary.
        bidirectional: let the gated scorer summarize the following tokens as well.
        keep_bias: initial score; a positive value starts near keep-all.

    Raises:
        ConfigError: a setting is out of range.
    """

    scorer_kind: str = "gated"
    scorer_dim: int = 32
    decay: float = 0.9
    bidirectional: bool = False
    keep_bias: float = 3.0

    def __post_init__(self) -> None:
        message = f"must be one of {', '.join(SCORERS)}, got {self.scorer_kind!r}"
        require(self.scorer_kind in SCORERS, "scorer_kind", message)
        require_number("scorer_dim", self.scorer_dim, low=1, high=2**16, name="the scorer width")
        require_number("keep_bias", self.keep_bias, low=-100, high=100, name="the initial score")
        require_number("decay", self.decay, low=0, high=1, name="the summary decay")
        message = f"only the gated scorer has a summary, got scorer_kind={self.scorer_kind}; set bidirectional to false"
        require(self.scorer_kind == "gated" or not self.bidirectional, "bidirectional", message)


class Scorer(nn.Module):
    """Base class of scorers: ``forward(hidden_states [B, N, D], weights [B, N] | None) -> scores [B, N]``.

    A scorer with several ``outputs`` per token, such as one for each key-value head of a decoder, returns
    [B, N, outputs].

    States are layer-normalized first (without parameters), so that one learning rate fits post-norm encoders and the
    unnormalized residual streams of pre-norm encoders. No scorer reads attention maps, which need eager attention.
    """

    def macs_per_token(self) -> int:
        """Return the multiply-accumulates per token, for counting FLOPs."""
        return sum(module.weight.numel() for module in self.modules() if isinstance(module, nn.Linear))

    @staticmethod
    def _normalize(hidden_states: Tensor) -> Tensor:
        return F.layer_norm(hidden_states, hidden_states.shape[-1:])


class GatedScorer(Scorer):
    """Scorer s_t = v^T tanh(W h_t + U m_{t-1}) + b with the running summary m (paper, eq. 3).

    U is linear and commutes with the running mean, so states are projected to ``scorer_dim`` dimensions before the mean
    is taken: 2 D scorer_dim multiply-accumulates per token, under 2 % of a Transformer layer.

    Differs from the paper: W and U map to ``scorer_dim`` instead of d dimensions, and states are normalized first.

    Args:
        hidden_size: D.
        config: width, decay, direction and initial bias.
        outputs: scores per token, >= 1.
    """

    def __init__(self, hidden_size: int, config: ScorerConfig, *, outputs: int = 1) -> None:
        super().__init__()
        self.decay = config.decay
        self.state = nn.Linear(hidden_size, config.scorer_dim, bias=False)
        self.summary = nn.Linear(hidden_size, config.scorer_dim, bias=False)
        self.ahead = nn.Linear(hidden_size, config.scorer_dim, bias=False) if config.bidirectional else None
        self.out = nn.Linear(config.scorer_dim, outputs)
        nn.init.normal_(self.out.weight, std=0.02)
        nn.init.constant_(self.out.bias, config.keep_bias)

    def forward(self, hidden_states: Tensor, weights: Tensor | None = None) -> Tensor:
        """Compute scores [B, N]; tokens of weight 0 leave no trace in the summary."""
        normed = self._normalize(hidden_states)
        context = previous_summary(self.summary(normed), self.decay, weights)
        if self.ahead is not None:
            reversed_weights = None if weights is None else weights.flip(1)
            context = context + previous_summary(self.ahead(normed).flip(1), self.decay, reversed_weights).flip(1)
        scores: Tensor = self.out(torch.tanh(self.state(normed) + context))
        return scores.squeeze(-1)


class MLPScorer(Scorer):
    """Context-free MLP d -> d/2 -> 1 with ReLU (paper, Fig. 1); about 4 % of a layer's FLOPs.

    Args:
        hidden_size: D.
        keep_bias: initial output bias.
        outputs: scores per token, >= 1.
    """

    def __init__(self, hidden_size: int, *, keep_bias: float = 0.0, outputs: int = 1) -> None:
        super().__init__()
        self.inner = nn.Linear(hidden_size, hidden_size // 2)
        self.out = nn.Linear(hidden_size // 2, outputs)
        nn.init.normal_(self.out.weight, std=0.02)
        nn.init.constant_(self.out.bias, keep_bias)

    def forward(self, hidden_states: Tensor, weights: Tensor | None = None) -> Tensor:
        """Compute scores [B, N]; ``weights`` is not used."""
        scores: Tensor = self.out(F.relu(self.inner(self._normalize(hidden_states))))
        return scores.squeeze(-1)


class LinearScorer(Scorer):
    """Linear scorer s_t = v^T h_t + b, the cheapest one.

    Args:
        hidden_size: D.
        keep_bias: initial b.
        outputs: scores per token, >= 1.
    """

    def __init__(self, hidden_size: int, *, keep_bias: float = 0.0, outputs: int = 1) -> None:
        super().__init__()
        self.out = nn.Linear(hidden_size, outputs)
        nn.init.normal_(self.out.weight, std=0.02)
        nn.init.constant_(self.out.bias, keep_bias)

    def forward(self, hidden_states: Tensor, weights: Tensor | None = None) -> Tensor:
        """Compute scores [B, N]; ``weights`` is not used."""
        scores: Tensor = self.out(self._normalize(hidden_states))
        return scores.squeeze(-1)


def build_scorer(config: ScorerConfig, hidden_size: int, *, outputs: int = 1) -> Scorer:
    """Build the scorer that ``config`` names for states of width ``hidden_size``, with ``outputs`` scores per token."""
    if config.scorer_kind == "gated":
        return GatedScorer(hidden_size, config, outputs=outputs)
    if config.scorer_kind == "mlp":
        return MLPScorer(hidden_size, keep_bias=config.keep_bias, outputs=outputs)
    return LinearScorer(hidden_size, keep_bias=config.keep_bias, outputs=outputs)
