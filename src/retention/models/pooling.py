"""Pool the token states of a sequence into one vector, and protect the tokens that it needs."""

from __future__ import annotations

import torch
from torch import Tensor

from retention.errors import require
from retention.models.encoded import Encoded

POOLINGS = ("cls", "mean", "depth", "survivors")
PROTECT = ("special", "nothing")


def check_pooling(pooling: str, poolings: tuple[str, ...] = POOLINGS) -> None:
    """Raise ``ConfigError`` if a pooling is not one of the supported ones.

    Args:
        pooling: to be checked.
        poolings: names of the supported ones.
    """
    require(pooling in poolings, "pooling", f"must be one of {', '.join(poolings)}, got {pooling!r}")


def check_protect(protect: str, pooling: str) -> None:
    """Raise ``ConfigError`` if the protected tokens are unknown, or the pooling reads a token that may be removed.

    Args:
        protect: ``special`` = special tokens are never removed and count in the budget; ``nothing`` = they compete with
            all other tokens, which a head that reads a mean permits.
        pooling: of the head.
    """
    require(protect in PROTECT, "protect", f"must be one of {', '.join(PROTECT)}, got {protect!r}")
    message = "must be special with pooling=cls: the head reads a special token; choose another pooling"
    require(protect == "special" or pooling != "cls", "protect", message)


def protected_tokens(special: Tensor, protect: str) -> Tensor:
    """Return the tokens that are never removed, [B, T] bool.

    Args:
        special: [B, T] bool, True on special tokens.
        protect: see ``check_protect``.
    """
    return special if protect == "special" else torch.zeros_like(special)


def pool(encoded: Encoded, pooling: str) -> Tensor:
    """Compute one vector per sequence, [B, D].

    A dense model gives the same for ``mean``, ``depth`` and ``survivors``.

    Args:
        encoded: output of the encoder.
        pooling: ``cls`` = state of the first token, which must be protected; ``mean`` = mean of the tokens, weighted by
            their gates; with ``dropped=forward`` removed tokens take part with their last state; ``depth`` = the same
            mean, also weighted by the share of layers that each token passed (``Encoded.depth_ratio``);
            ``survivors`` = mean of the tokens that passed every gate, weighted by their gates.

    Raises:
        ConfigError: the pooling is not supported.
    """
    check_pooling(pooling)
    if pooling == "cls":
        return encoded.hidden_states[:, 0]
    if pooling == "depth":
        encoded = encoded.depth_weighted()
    elif pooling == "survivors":
        encoded = encoded.survivor_weighted()
    return weighted_mean(encoded.hidden_states, encoded.weights)


def weighted_mean(states: Tensor, weights: Tensor) -> Tensor:
    """Compute the weighted mean of token states, [B, D]; zeros where all weights are 0.

    Args:
        states: [B, M, D].
        weights: [B, M] float >= 0.
    """
    wide = torch.promote_types(states.dtype, torch.float32)  # a sum over many tokens overflows in float16
    column = weights.unsqueeze(-1).to(wide)
    mean = (column * states).sum(1) / column.sum(1).clamp_min(1e-6)
    return mean.to(torch.promote_types(states.dtype, weights.dtype))
