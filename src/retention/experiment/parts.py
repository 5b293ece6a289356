"""Build the parts of a run from its configuration and check that they fit together."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from omegaconf import DictConfig, ListConfig
from pytorch_lightning.callbacks import Callback

from retention.core.flops import EncoderShape
from retention.data.base import RetentionData
from retention.engine.retainer import DROPPED, check_layers
from retention.errors import Checks, require
from retention.experiment.builder import Builder, Resolve
from retention.models.backbone import Backbone
from retention.policies.bases.retention_policy import RetentionPolicy
from retention.training.freezing import FREEZE
from retention.training.settings import TrainingSettings

log = logging.getLogger(__name__)


FEWER_LAYERS = "fewer_layers"  # dense encoder with some of its layers only


@dataclass
class Parts:
    """Objects that a run consists of, built before any data or weights are loaded.

    Attributes:
        backbone: loads the encoder.
        policy: retention policy, built for the encoder.
        data: data module of the task.
        training: optimizer, phases, distillation, budgets, frozen parts.
        head_type: constructor of the task head with its configured arguments.
        callbacks: Lightning callbacks.
        loggers: Lightning loggers.
    """

    backbone: Backbone
    policy: RetentionPolicy
    data: RetentionData
    training: TrainingSettings
    head_type: Callable[..., Any]
    callbacks: list[Callback]
    loggers: list[Any]

    @property
    def method(self) -> str:
        """Return the name of the method in result records: the policy, or ``fewer_layers`` for a shallower student."""
        shallow = self.backbone.layer_indices is not None and not self.policy.layers
        return FEWER_LAYERS if shallow else self.policy.name

    @property
    def writes(self) -> bool:
        """Return True if the task's head generates text and needs the decoder of the backbone."""
        return _writes(self.head_type)


def build_parts(config: DictConfig, resolve: Resolve | None = None) -> Parts:
    """Build everything that needs neither data nor weights.

    The policy draws its initial weights from a generator seeded with ``seed``; the global generators stay untouched.

    Args:
        config: the composed configuration.
        resolve: see ``Builder``.

    Raises:
        ConfigError: all problems of the configuration.
    """
    builder = Builder(config, resolve)
    checks = builder.checks
    policy, backbone = builder.make("retention"), builder.make("backbone")
    data = builder.make("task.data")
    training = TrainingSettings(
        optimizer=builder.make("optimizer"),
        phases=builder.make("phases"),
        distill=builder.make("distill"),
        budgets=builder.make("budgets"),
        freeze=config.freeze,
    )
    head_type = builder.make_later("task.head")
    callbacks = [builder.make(f"callbacks.{name}") for name in config.callbacks or {}]
    seed = config.seed
    valid = isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < 2**32
    checks.require(valid, "seed", f"must be a whole number in [0, 2^32), got {seed!r}")
    shape = None if backbone is None else checks.gather(backbone.shape)
    if backbone is not None and shape is not None:
        _build_policy(config, policy, shape, backbone.name, training, checks)
        if data is not None:
            checks.gather(lambda: backbone.check_length(data.settings.max_length))
        if _writes(head_type):
            checks.gather(backbone.check_decoder)
        checks.gather(lambda: backbone.check_prune_at(str(config.prune_at)))
        if policy is not None:
            checks.gather(partial(backbone.support_observation, policy.observes), "backbone")
    message = f"must be one of {', '.join(DROPPED)}, got {config.dropped!r}"
    checks.require(config.dropped in DROPPED, "dropped", message)
    builder.finish()
    loggers = [] if config.logger is None else [builder.make("logger")]
    builder.finish()
    return Parts(backbone, policy, data, training, head_type, callbacks, loggers)


def _build_policy(
    config: DictConfig,
    policy: RetentionPolicy | None,
    shape: EncoderShape,
    name: str,
    training: TrainingSettings,
    checks: Checks,
) -> None:
    """Build the policy for the encoder and check it against the training; without a policy, check its layers."""
    if policy is None:
        layers = config.retention.get("layers")
        if isinstance(layers, ListConfig):
            non_negative = [layer for layer in layers if layer >= 0]  # the policy reports negative ones itself
            checks.gather(lambda: check_layers(non_negative, shape.num_layers, name), "retention")
        return
    budgets = training.budgets
    sampled = budgets is not None and budgets.active
    if sampled:
        checks.gather(lambda: policy.support_budgets(budgets.low, budgets.high), "retention")
    with torch.random.fork_rng(devices=[]):
        if isinstance(config.seed, int):
            torch.manual_seed(config.seed)
        checks.gather(lambda: policy.build(shape, name), "retention")
    if sampled:
        _check_budgets(policy, training, str(config.mode), checks)
    checks.gather(lambda: _check_frozen(policy, training.freeze))
    _warn_without_scorers(policy, training)


def _writes(head_type: Any) -> bool:
    return bool(getattr(head_type.func, "writes", False))


def _check_budgets(policy: RetentionPolicy, training: TrainingSettings, mode: str, checks: Checks) -> None:
    """Check sampled budgets against distillation and rho; a test outside of the trained budgets is only warned of."""
    budgets = training.budgets
    saliency = 0.0 if training.distill is None else training.distill.saliency
    checks.gather(lambda: budgets.check_run(saliency=saliency), "budgets")
    covered = budgets.covers(policy.rho) or not policy.layers
    message = f"{policy.rho} is outside the sampled budgets [{budgets.low}, {budgets.high}]"
    if mode == "test" and not covered:
        log.warning("retention.rho: %s that the checkpoint was trained for", message)
    else:
        checks.require(covered, "retention.rho", f"{message}; widen budgets.low or budgets.high")


def _check_frozen(policy: RetentionPolicy, freeze: str | None) -> None:
    valid = freeze is None or freeze in FREEZE
    require(valid, "freeze", f"must be null or one of {', '.join(FREEZE)}, got {freeze!r}")
    trainable = freeze != "model" or any(True for _ in policy.parameters())
    message = f"nothing is left to train, {policy.name} has no parameters; use freeze=encoder (trains the head) or null"
    require(trainable, "freeze", message)


def _warn_without_scorers(policy: RetentionPolicy, training: TrainingSettings) -> None:
    """Warn if saliency distillation has no effect; not an error, since sweeps set it for all policies alike."""
    requested = training.distill is not None and training.distill.saliency > 0
    if requested and policy.layers and not policy.scored:
        log.warning("distill.saliency: %s has no scorers to distill into, it is trained without", policy.name)
