"""Train the scorers of a bounded cache to rank tokens by the attention that they will receive."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor
from torch.nn import functional as F

from retention.cache.phase import EpochPhase
from retention.cache.policies.base import Arrivals
from retention.cache.policies.learned import LearnedScores
from retention.cache.targets import Example
from retention.errors import require

LOSSES = ("regression", "ranking")


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Settings of the training of scorers.

    Attributes:
        loss: ``regression`` = 1 - correlation of scores and targets; ``ranking`` = logistic loss on pairs of tokens.
        epochs: passes over the examples, >= 1.
        lr: learning rate of AdamW, > 0.
        weight_decay: of AdamW, >= 0.
        seed: of the order of the examples and of the pairs.

    Raises:
        ConfigError: a setting is out of range.
    """

    loss: str = "ranking"
    epochs: int = 5
    lr: float = 1e-3
    weight_decay: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.loss in LOSSES, "loss", f"must be one of {', '.join(LOSSES)}, got {self.loss!r}")
        require(self.epochs >= 1, "epochs", f"must be >= 1, got {self.epochs}")
        require(self.lr > 0, "lr", f"must be > 0, got {self.lr}")
        require(self.weight_decay >= 0, "weight_decay", f"must be >= 0, got {self.weight_decay}")


class RankingPhase(EpochPhase[Example]):
    """Training of the scorers of all layers on future attention, one text per step.

    Examples that were used are in memory: L x T x D x 2 bytes each (35 kB per token for 30 layers of width 576).

    Args:
        policy: the scorers, changed in place; on their own device.
        examples: from ``collect_example``, or ``TargetExamples``.
        settings: loss, optimizer and seed.

    Raises:
        ConfigError: there are no examples.
    """

    name = "future_attention"

    def __init__(self, policy: LearnedScores, examples: Sequence[Example], settings: TrainingSettings) -> None:
        optimizer = torch.optim.AdamW(policy.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
        super().__init__(optimizer, examples, settings.epochs, torch.Generator().manual_seed(settings.seed))
        self.policy, self.settings = policy, settings

    def _loss(self) -> Tensor:
        example, device = self._next_example(), next(self.policy.parameters()).device
        scores = layer_scores(self.policy, example.hidden_states.to(device))[..., example.counted]
        targets = example.targets[..., example.counted].to(device)
        return score_loss(scores, targets, self.settings.loss, self.generator)


def train_scores(policy: LearnedScores, examples: Sequence[Example], settings: TrainingSettings) -> list[float]:
    """Train the scorers of all layers on collected examples, see ``RankingPhase``.

    Args:
        policy: the scorers, changed in place.
        examples: from ``collect_example``.
        settings: loss, optimizer and seed.

    Returns:
        Mean loss of each epoch.

    Raises:
        ConfigError: there are no examples.
        TrainingError: the loss is not finite.
    """
    phase = RankingPhase(policy, examples, settings)
    policy.train()
    losses = [result.loss for result in phase.run()]
    policy.eval()
    return [fmean(losses[start : start + len(examples)]) for start in range(0, len(losses), len(examples))]


def layer_scores(policy: LearnedScores, hidden_states: Tensor) -> Tensor:
    """Compute the scores of a whole text from the hidden states [L, T, D] of all layers.

    Returns:
        [L, T], or [L, H, T] for a policy with a score per key-value head.
    """
    rows = [text_scores(policy, index, states.unsqueeze(0)) for index, states in enumerate(hidden_states)]
    return torch.cat(rows)


def text_scores(policy: LearnedScores, layer_idx: int, hidden_states: Tensor) -> Tensor:
    """Compute the scores of whole sequences from the inputs [B, T, D] of one attention module.

    They are float32 under autocast too: bfloat16 would round many scores to the same number.

    Returns:
        [B, T], or [B, H, T] for a policy with a score per key-value head.
    """
    batch, length = hidden_states.shape[:2]
    ranks = torch.arange(length, device=hidden_states.device).expand(batch, -1)
    valid = torch.ones_like(ranks, dtype=torch.bool)
    empty = hidden_states.new_zeros((batch, 0, length, 0))
    with torch.autocast(hidden_states.device.type, enabled=False):
        return policy.score(Arrivals(layer_idx, hidden_states.float(), empty, empty, valid, ranks, policy.heads))


def score_loss(scores: Tensor, targets: Tensor, loss: str, generator: torch.Generator | None = None) -> Tensor:
    """Compute the loss of the order or of the values of scores; a shift or scale of a row's targets has no effect.

    Args:
        scores: [L, N], one row per layer, or [L, H, N].
        targets: shape of ``scores``.
        loss: ``regression`` or ``ranking``.
        generator: draws the pairs of ``ranking``; the global one by default.

    Returns:
        Scalar, mean over rows: in [0, 2] for ``regression``, >= 0 for ``ranking``.
    """
    require_same_heads(scores, targets)
    scores, targets = scores.flatten(0, -2), targets.flatten(0, -2)
    if loss == "regression":
        return 1.0 - F.cosine_similarity(_centered(scores), _centered(targets), dim=1).mean()
    partner = torch.randperm(scores.shape[1], generator=generator).to(scores.device)
    order = torch.sign(targets - targets[:, partner])
    return F.softplus(-order * (scores - scores[:, partner])).mean()


def pairwise_accuracy(policy: LearnedScores, examples: Iterable[Example]) -> float:
    """Return the share of pairs of tokens that scores order as future attention does; 0.5 is chance.

    Mean over texts, layers and heads with a score, in [0, 1]; equal scores count as half.
    """
    shares = []
    for example in examples:
        with torch.no_grad():
            scores = layer_scores(policy, example.hidden_states)[..., example.counted]
        targets = example.targets[..., example.counted]
        require_same_heads(scores, targets)
        for row, target_row in zip(scores.flatten(0, -2), targets.flatten(0, -2), strict=True):
            agreement = torch.sign(_differences(row)) * torch.sign(_differences(target_row))
            shares.append(float((agreement.mean() + 1) / 2))
    return sum(shares) / len(shares)


def require_same_heads(scores: Tensor, targets: Tensor) -> None:
    """Check that targets have been collected for the heads that have a score.

    Raises:
        ConfigError: they have not.
    """
    message = (
        f"must be {list(scores.shape)} as the scores are, got {list(targets.shape)}; collect them with the same "
        "per_head as the scorers have"
    )
    require(scores.shape == targets.shape, "targets", message)


def _centered(values: Tensor) -> Tensor:
    return values - values.mean(1, keepdim=True)


def _differences(values: Tensor) -> Tensor:
    """Return the differences of all pairs, each once."""
    first, second = torch.triu_indices(len(values), len(values), offset=1)
    return values[first] - values[second]
