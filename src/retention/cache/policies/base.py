"""Provide the interface of policies that score the tokens of a decoder when they arrive."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from retention.errors import require


@dataclass
class Arrivals:
    """New tokens of one layer: Q columns of B sequences.

    Attributes:
        layer_idx: index of the layer, from 0.
        hidden_states: [B, Q, D], input of the attention module (after its norm).
        keys: [B, H, Q, d], after rotary embedding, for H key-value heads.
        values: [B, H, Q, d].
        valid: [B, Q] bool, True = real token, False = padding.
        ranks: [B, Q] long, index among the real tokens of the sequence, from 0; -1 for padding.
        groups: G, number of groups of key-value heads that hold their own tokens: 1, or H.
        state: what the policy stored for this layer in the last pass, [B, ...]; None at the start. A recurrent policy
            assigns the new state. The cache reorders it with the sequences.
    """

    layer_idx: int
    hidden_states: Tensor
    keys: Tensor
    values: Tensor
    valid: Tensor
    ranks: Tensor
    groups: int = 1
    state: Tensor | None = None


# one token in each of L layers, and what the policy stored [L, B, ...] (None if nothing) -> scores [L, B, G, 1], where
# G = 1 if heads share them, and what is stored now
TokenScorer = Callable[[Sequence[Arrivals], Tensor | None], tuple[Tensor, Tensor | None]]


class CachePolicy(nn.Module):
    """Base class: give each new token a score that never changes, from itself and earlier tokens alone.

    Scores of one sequence and layer are compared with each other; the cache keeps the highest. A score may depend on
    earlier tokens through ``Arrivals.state``, but neither on the chunk in which the token came nor on other sequences.
    """

    @abstractmethod
    def score(self, arrivals: Arrivals) -> Tensor:
        """Return scores, higher = kept longer; values at padding are ignored.

        [B, Q] for scores that all heads share, [B, G, Q] for scores of each group of key-value heads.
        """

    def token_scorer(self) -> TokenScorer:
        """Return a function that scores a single token in all layers at once, for decoding in fixed slots.

        It is asked for when a cache is made, and may copy weights. This one calls ``score`` for each layer; a policy
        that computes the scores of all layers together overrides it.
        """
        return self._layer_by_layer

    def _layer_by_layer(self, arrivals: Sequence[Arrivals], states: Tensor | None) -> tuple[Tensor, Tensor | None]:
        scores = [self.score(each) for each in arrivals]
        joined = torch.stack([score if score.ndim == 3 else score.unsqueeze(1) for score in scores])
        if states is None:
            return joined, None
        return joined, torch.stack([each.state for each in arrivals if each.state is not None])

    def check(self, config: Any) -> None:
        """Check that the policy fits the model with this ``config``.

        Raises:
            ConfigError: it was built for another model.
        """


@dataclass
class Observation:
    """One layer after the attention of a pass: Q queries of B sequences, and the N tokens they could attend to.

    Attributes:
        module: attention module of the layer.
        rotary: rotary embedding of the decoder; None if it has none.
        hidden_states: [B, Q, D], input of the attention module (after its norm).
        attention: [B, heads, Q, N] probabilities; None unless the model uses eager attention.
        keys: [B, H, N, d], after rotary embedding, for H key-value heads.
        values: [B, H, N, d].
        valid: [B, Q] bool, True = real token, False = padding.
        held: [B, G, N] bool, True = token, False = empty slot or padding.
        counts: [B] long, real tokens of each sequence so far; the position of the next token.
        groups: G, number of groups of heads that hold their own tokens: 1, or H.
        state: what the policy stored for this layer in the last pass, [B, ...]; None at the start. A policy assigns the
            new state. The cache reorders it with the sequences.
    """

    module: nn.Module
    rotary: nn.Module | None
    hidden_states: Tensor
    attention: Tensor | None
    keys: Tensor
    values: Tensor
    valid: Tensor
    held: Tensor
    counts: Tensor
    groups: int = 1
    state: Tensor | None = None


class RescoringPolicy(CachePolicy):
    """Base class of policies whose scores change with later queries: every pass renews the scores of all held tokens.

    A single new token first evicts by the scores of the queries before it, and then attends to at most M tokens. The
    tokens of a longer pass attend to everything held before and to each other; the layer shrinks to M after the pass.
    The bank therefore depends on the chunks in which a sequence is fed; one token at a time never reads more than M.

    Attributes:
        statistics: S, numbers stored for each held token.
        needs_attention: True if ``Observation.attention`` is read, which needs eager attention.
    """

    statistics: int = 1
    needs_attention: bool = True

    def score(self, arrivals: Arrivals) -> Tensor:
        """Return zeros: a new token is in the window, and gets its first score after the pass."""
        return torch.zeros(arrivals.valid.shape, device=arrivals.valid.device)

    def check_layer(self, module: nn.Module, rotary: nn.Module | None) -> None:
        """Check that the policy can read the attention modules of the model; ``rotary`` as in ``Observation``.

        Raises:
            ConfigError: it cannot.
        """

    @abstractmethod
    def rescore(self, observation: Observation, statistics: Tensor) -> tuple[Tensor, Tensor]:
        """Update the statistics with the queries of a pass and score all held tokens.

        Args:
            observation: queries, keys and attention of the pass.
            statistics: [B, G, N, S] of the held tokens; zeros for new ones.

        Returns:
            New statistics [B, G, N, S], and scores [B, G, N], higher = kept longer. Values at empty slots are ignored.
        """

    def check(self, config: Any) -> None:
        """Check that the model computes attention maps, if the policy reads them.

        Raises:
            ConfigError: it does not.
        """
        implementation = getattr(config, "_attn_implementation", None)
        name = type(self).__name__
        message = (
            f"{name} reads attention maps; load the model with attn_implementation='eager', got {implementation!r}"
        )
        require(not self.needs_attention or implementation == "eager", "attn_implementation", message)


def group_mean(values: Tensor, groups: int) -> Tensor:
    """Return the mean over the heads of each group, [B, heads, ...] to [B, G, ...]; heads of a group are neighbors."""
    return values.reshape(len(values), groups, -1, *values.shape[2:]).mean(2)
