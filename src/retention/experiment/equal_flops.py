"""Solve for the keep ratio at which a policy spends a requested share of the dense encoder's FLOPs."""

from __future__ import annotations

import copy

import torch
from omegaconf import DictConfig

from retention.core.flops import EncoderShape, encoder_flops, scorer_flops
from retention.errors import require, require_number
from retention.experiment.builder import Builder
from retention.models.backbone import Backbone
from retention.policies.bases.retention_policy import RetentionPolicy
from retention.policies.early_exit import EarlyExit

_DIGITS = 4  # of the keep ratio
_LOWEST = 10.0**-_DIGITS


def set_rho_by_flops(config: DictConfig) -> None:
    """Replace ``flops_ratio`` by the keep ratio ``retention.rho`` that leads to it; does nothing while it is null.

    The ratio is that of a sequence of ``flops_length`` tokens (null = ``task.data.max_length``): scorers included,
    protected tokens and rounding to whole tokens left out, compared with the encoder with all its layers. A policy
    without gates stays as it is. What a run really spends is measured, and stands in its record.

    Args:
        config: the composed configuration; changed in place, so that records and checkpoints hold the keep ratio.

    Raises:
        ConfigError: no keep ratio leads to this ratio, or a setting is out of range.
    """
    ratio, length = config.get("flops_ratio"), config.get("flops_length")
    if ratio is None:
        return
    require_number("flops_ratio", ratio, above=0, high=1, name="the FLOPs ratio")
    length = config.task.data.max_length if length is None else length
    valid = isinstance(length, int) and not isinstance(length, bool) and length >= 1
    require(valid, "flops_length", f"must be a whole number of tokens >= 1, got {length!r}")
    builder = Builder(config)
    policy, backbone = builder.make("retention"), builder.make("backbone")
    if not isinstance(policy, RetentionPolicy) or not isinstance(backbone, Backbone):
        return  # the problems are reported when the parts of the run are built
    shape, early = backbone.shape(), str(config.prune_at) == "after_attention"
    if isinstance(policy, EarlyExit):
        config.retention.rho = float(ratio)  # its budget is the FLOPs ratio
    elif policy.resolve_layers(shape, backbone.name):
        message = "has a list of keep ratios, which rho only labels; name a schedule to set rho by FLOPs"
        require(isinstance(policy.schedule, str), "retention.schedule", message)
        dense = float(encoder_flops(backbone.full_shape(), torch.tensor([length]), {}).sum())
        config.retention.rho = solve_rho(policy, shape, length, ratio * dense, before_feed_forward=early)
    config.flops_ratio = config.flops_length = None


def solve_rho(
    policy: RetentionPolicy, shape: EncoderShape, length: int, flops: float, *, before_feed_forward: bool
) -> float:
    """Find the keep ratio at which a policy spends ``flops`` on a sequence, by bisection, to four digits.

    Args:
        policy: not built; it is not changed.
        shape: dimensions of the encoder.
        length: tokens of the sequence.
        flops: target, of encoder and scorers together.
        before_feed_forward: see ``retention.core.flops.flops_by_layer``.

    Raises:
        ConfigError: the target is below the FLOPs at the lowest keep ratio or above those of all tokens.
    """

    def spent(rho: float) -> float:
        return policy_flops(policy, rho, shape, length, before_feed_forward=before_feed_forward)

    low, high = _LOWEST, 1.0
    lowest, highest = spent(low), spent(high)
    dense = float(encoder_flops(shape, torch.tensor([length]), {}).sum())
    layers = list(policy.resolve_layers(shape, "the encoder"))
    message = (
        f"{flops / dense:.4f} of this encoder's FLOPs cannot be reached by retention.layers={layers}, "
        f"only {lowest / dense:.4f} to {highest / dense:.4f}; gate earlier layers (-1 = before layer 0) or change it"
    )
    require(lowest <= flops <= highest, "flops_ratio", message)
    while high - low > _LOWEST / 2:
        middle = (low + high) / 2
        low, high = (middle, high) if spent(middle) < flops else (low, middle)
    return round(high, _DIGITS)


def policy_flops(
    policy: RetentionPolicy, rho: float, shape: EncoderShape, length: int, *, before_feed_forward: bool
) -> float:
    """Compute the FLOPs of encoder and scorers for a sequence of ``length`` tokens at the keep ratio ``rho``.

    Args:
        policy: not built; it is not changed.
        rho: target keep ratio, in (0, 1].
        shape: dimensions of the encoder.
        length: tokens of the sequence.
        before_feed_forward: see ``retention.core.flops.flops_by_layer``.
    """
    built = copy.deepcopy(policy)
    built.set_rho(rho)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        built.build(shape)
    lengths = torch.tensor([length])
    kept = dict(zip(built.layers, built.budget.targets(lengths), strict=True))
    encoder = encoder_flops(shape, lengths, kept, before_feed_forward=before_feed_forward)
    scorers = scorer_flops(built.scorer_macs(), lengths, kept, num_layers=shape.num_layers)
    return float(encoder.sum() + scorers.sum())
