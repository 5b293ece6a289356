"""Build the parts of a run from its configuration and check that they fit together."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, ListConfig, OmegaConf
from pytorch_lightning.callbacks import Callback, LearningRateMonitor
from pytorch_lightning.loggers import Logger

from retention.callbacks import DecodingCost, KeptPositions
from retention.core.flops import EncoderShape
from retention.data.base import RetentionData
from retention.engine.retainer import DROPPED, check_layers
from retention.errors import Checks, RetentionError, require
from retention.experiment.builder import Builder, Resolve
from retention.experiment.steps import RunParts
from retention.experiment.stored import EXPECTED_CLASSES
from retention.models.backbone import Backbone, PretrainedBackbone
from retention.models.head import Head
from retention.policies.bases.retention_policy import RetentionPolicy
from retention.policies.dense import Dense
from retention.pretrained.folder import check_replaceable
from retention.tasks.trained_model import trained_class_of
from retention.training.distillation import BACKBONE
from retention.training.freezing import FREEZE
from retention.training.settings import TrainingSettings

log = logging.getLogger(__name__)


FEWER_LAYERS = "fewer_layers"  # dense encoder with some of its layers only


@dataclass
class Parts(RunParts):
    """Objects that the run of an encoder consists of.

    Attributes:
        callbacks: Lightning callbacks.
        loggers: Lightning loggers.
        backbone: loads the encoder.
        policy: retention policy, built for the encoder.
        data: data module of the task.
        training: optimizer, phases, distillation, budgets, frozen parts.
        head_type: constructor of the task head with its configured arguments.
    """

    backbone: Backbone
    policy: RetentionPolicy
    data: RetentionData
    training: TrainingSettings
    head_type: Callable[..., Any]

    @property
    def method(self) -> str:
        """Return the name of the method in result records: the policy, or ``fewer_layers`` for a shallower student."""
        shallow = self.backbone.layer_indices is not None and isinstance(self.policy, Dense)
        return FEWER_LAYERS if shallow else self.policy.name

    @property
    def loads(self) -> str:
        """Return the part of the pretrained model that the task's head is built for, see ``Head.loads``."""
        return _loads(self.head_type)

    @property
    def compares_with_teacher(self) -> bool:
        """Return True if the task has no labels, so that its metrics need the teacher."""
        return bool(getattr(_class_of(self.head_type), "compares_with_teacher", False))

    def data_files(self) -> list[Path]:
        """Return the existing local files of the task's rows."""
        return self.data.data_files()

    def check_output(self, path: Path) -> None:
        """Check that the model folder may be written."""
        check_replaceable(path)

    @property
    def loss_settings(self) -> tuple[str, ...]:
        """Return the settings of the head that its outputs do not depend on."""
        return tuple(getattr(_class_of(self.head_type), "loss_settings", ()))


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
    policy, backbone = _make(builder, "retention"), _make(builder, "backbone")
    data = _make(builder, "task.data")
    training = TrainingSettings(
        optimizer=_make(builder, "optimizer"),
        phases=_make(builder, "phases"),
        distill=_make(builder, "distill"),
        budgets=_make(builder, "budgets"),
        freeze=config.freeze,
    )
    head_type = builder.make_later("task.head")
    _check_head(config, head_type, checks)
    if config.mode == "fit":
        checks.gather(lambda: _check_teacher(head_type, backbone, training))
    checks.gather(lambda: _check_output(config, head_type))
    callbacks = make_callbacks(builder, refused=(DecodingCost, KeptPositions))
    seed = config.seed
    valid = isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < 2**32
    checks.require(valid, "seed", f"must be a whole number in [0, 2^32), got {seed!r}")
    shape = None if backbone is None else _shape(backbone, checks)
    if backbone is not None and shape is not None:
        _build_policy(config, policy, shape, backbone.name, training, checks)
        if data is not None:
            checks.gather(lambda: backbone.check_length(data.settings.max_length))
        checks.gather(lambda: backbone.check_part(_loads(head_type)))
        checks.gather(lambda: backbone.check_prune_at(str(config.prune_at)))
        if policy is not None:
            checks.gather(partial(backbone.support_observation, policy.observes), "backbone")
    message = f"must be one of {', '.join(DROPPED)}, got {config.dropped!r}"
    checks.require(config.dropped in DROPPED, "dropped", message)
    builder.finish()
    loggers = make_loggers(builder)
    if not loggers:  # it refuses to run without one
        callbacks = [each for each in callbacks if not isinstance(each, LearningRateMonitor)]
    return Parts(callbacks, loggers, backbone, policy, data, training, head_type)


def make_callbacks(builder: Builder, refused: tuple[type, ...]) -> list[Any]:
    """Build the callbacks of a configuration; problems are recorded.

    Args:
        builder: of the configuration.
        refused: callbacks that read another kind of model.
    """
    nodes = builder.config.get("callbacks") or OmegaConf.create({})
    valid = builder.checks.require(isinstance(nodes, DictConfig), "callbacks", f"must be a node, got {nodes!r}")
    names = [str(name) for name in nodes] if valid else []
    callbacks = [builder.make(f"callbacks.{name}") for name in names]
    for name, callback in zip(names, callbacks, strict=True):
        is_callback = callback is None or isinstance(callback, Callback)
        builder.checks.require(is_callback, f"callbacks.{name}._target_", "must name a Lightning callback")
        message = f"{type(callback).__name__} reads another kind of model; leave it out with ~callbacks.{name}"
        builder.checks.require(not isinstance(callback, refused), f"callbacks.{name}", message)
    return callbacks


def make_loggers(builder: Builder) -> list[Any]:
    """Build the logger of a configuration.

    Raises:
        ConfigError: it cannot be built.
    """
    loggers = [] if builder.config.get("logger") is None else [builder.make("logger")]
    right = all(isinstance(each, Logger | None) for each in loggers)
    builder.checks.require(right, "logger._target_", "must name a logger")
    builder.finish()
    return loggers


def _make(builder: Builder, path: str) -> Any:
    """Build the object of a node and check that it is of the class that belongs there."""
    built, expected = builder.make(path), EXPECTED_CLASSES[path]
    if built is None or isinstance(built, expected):
        return built
    builder.checks.require(False, f"{path}._target_", f"must name a {expected.__name__}, got a {type(built).__name__}")
    return None


def _shape(backbone: Backbone, checks: Checks) -> EncoderShape | None:
    """Return the dimensions of the encoder; None if its configuration is refused."""
    try:
        return checks.gather(backbone.shape)
    except RetentionError:
        raise
    except Exception as error:  # the configuration classes of transformers raise errors of many types
        reason = " ".join(str(error).split())
        checks.require(False, "backbone", f"its configuration is not valid ({type(error).__name__}: {reason})")
        return None


def _check_head(config: DictConfig, head_type: Any, checks: Checks) -> None:
    """Check the class of the head, and the main metric if the class declares its metrics."""
    is_head = isinstance(head_type.func, type) and issubclass(head_type.func, Head)
    checks.require(is_head or head_type.func is dict, "task.head._target_", "must name a Head")
    names = vars(head_type.func).get("metric_names", ())  # of the class itself: a subclass may have other metrics
    monitor = OmegaConf.select(config, "task.monitor")
    message = f"must be one of {', '.join(names)}" if names else "must be the name of a metric"
    valid = monitor in names if names else isinstance(monitor, str)
    checks.require(valid, "task.monitor", f"{message}, got {monitor!r}")


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
            # the policy reports the others itself
            non_negative = [layer for layer in layers if isinstance(layer, int) and layer >= 0]
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


def _class_of(head_type: Any) -> Any:
    """Return the class of a head from its constructor."""
    return head_type.func


def _loads(head_type: Any) -> str:
    return str(getattr(_class_of(head_type), "loads", Head.loads))


def _check_output(config: DictConfig, head_type: Any) -> None:
    """Check that the trained model can be written as a folder, if one is configured."""
    if config.get("output") is not None and isinstance(_class_of(head_type), type):
        saves = hasattr(trained_class_of(_class_of(head_type)), "save_pretrained")
        require(saves, "output", f"models of task={config.task.name} are not written as a folder; leave it null")


def _check_teacher(head_type: Any, backbone: Backbone | None, training: TrainingSettings) -> None:
    """Check the teacher of distillation against the task and the encoder."""
    head, distill = _class_of(head_type), training.distill
    if distill is None:
        return
    if getattr(head, "compares_with_teacher", False):
        message = (
            f"must be 1, got {distill.weight}: this task has no labels and learns from a teacher; pass "
            f"distill.weight=1 distill.teacher={BACKBONE}, or use `retention distill`"
        )
        require(distill.weight == 1.0, "distill.weight", message)
    if distill.active and distill.teacher == BACKBONE:
        pretrained = backbone is None or isinstance(backbone, PretrainedBackbone)
        message = f"{BACKBONE} needs a pretrained encoder, {getattr(backbone, 'name', None)} is trained from scratch"
        require(pretrained, "distill.teacher", message)
        message = f"{BACKBONE} has no trained head for this task; pass the checkpoint of a dense run"
        require(getattr(head, "starts_trained", False), "distill.teacher", message)


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
