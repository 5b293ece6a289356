"""From what was typed to what will run: the configurations of all runs and the parts of each, checked together."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from pytorch_lightning.callbacks import Callback

from retention.core.flops import EncoderShape
from retention.data.base import RetentionData
from retention.engine.retainer import DROPPED, check_layers
from retention.errors import CheckpointError, Checks, ConfigError, Problem
from retention.experiment.builder import Builder
from retention.experiment.checkpoints import checkpoint_config, encoder_folder, read_checkpoint
from retention.models.backbone import Backbone
from retention.policies.bases.retention_policy import RetentionPolicy
from retention.training.freezing import FREEZE
from retention.training.settings import TrainingSettings

log = logging.getLogger(__name__)

MODES = ("fit", "test")
_FROM_COMMAND = ("mode", "ckpt", "trainer", "logger", "callbacks", "paths", "record", "compare")
_BUDGET = ("rho", "schedule", "slope", "layers")  # what rivals take over from the main policy
_KNOWN_KEYS = {
    *_FROM_COMMAND,
    *("task", "backbone", "dual", "retention", "data", "optimizer", "phases", "distill", "init", "seed"),
    *("dropped", "prune_at", "budgets", "freeze"),
}


@dataclass
class Parts:
    """Everything a run is made of, built before any data or weights are loaded."""

    backbone: Backbone
    policy: RetentionPolicy
    data: RetentionData
    training: TrainingSettings
    module_type: Any
    callbacks: list[Callback]
    loggers: list[Any]

    @property
    def writes(self) -> bool:
        """Whether the task's head writes text and so needs the decoder of the backbone."""
        return writes(self.module_type)


Compose = Callable[[list[str]], DictConfig]


def prepare(config: DictConfig, compose: Compose) -> list[tuple[DictConfig, Parts]]:
    """The training runs, rivals first, each with its parts; raises one ``ConfigError`` for all of them."""
    checks = Checks()
    checks.gather(lambda: check_run(config))
    checks.gather(lambda: check_start(config))
    prepared: list[tuple[DictConfig, Parts]] = []
    checks.gather(lambda: prepared.append((config, build_parts(config))))
    rivals = list(config.compare) if isinstance(config.compare, ListConfig) else []
    for place, name in enumerate(rivals):
        try:
            rival = baseline_config(config, compose([f"retention={name}"]), name)
            prepared.insert(place, (rival, build_parts(rival)))
        except ConfigError as error:
            checks.problems += error.problems
        except HydraException as error:
            checks.require(False, "compare", " ".join(str(error).split()))
    checks.problems = list(dict.fromkeys(checks.problems))  # what rivals take over shows once
    checks.finish()
    return prepared


def check_run(config: DictConfig) -> None:
    """Raise ``ConfigError`` for top-level settings that make no sense."""
    problems = [
        Problem(key, f"unknown key; known: {', '.join(sorted(_KNOWN_KEYS))}")
        for key in sorted(str(key) for key in config)
        if key not in _KNOWN_KEYS
    ]
    if config.mode not in MODES:
        problems.append(Problem("mode", f"must be one of {', '.join(MODES)}, got {config.mode!r}"))
    if config.compare is not None and not isinstance(config.compare, ListConfig):
        problems.append(Problem("compare", f"must be a list such as [dense,random], got {config.compare!r}"))
    if config.mode == "test" and config.ckpt is None:
        problems.append(Problem("ckpt", "mode=test needs a checkpoint; pass ckpt=<run folder>/checkpoints/last.ckpt"))
    if problems:
        raise ConfigError(problems)


def check_start(config: DictConfig) -> None:
    """Raise ``ConfigError`` where a training freezes what nothing has trained."""
    checks = Checks()
    trained = config.freeze is None or config.init is not None or config.ckpt is not None
    message = f"freeze={config.freeze} needs weights that are worth keeping; pass init=<checkpoint of a dense run>"
    checks.require(trained, "freeze", message)
    checks.finish()


def tested_config(config: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The checkpoint's configuration, with what was typed on this command line on top."""
    merged = checkpoint_config(read_checkpoint(config.ckpt))
    for key, value in OmegaConf.to_container(config, resolve=False).items():  # type: ignore[union-attr]
        if key in _FROM_COMMAND or key not in merged:  # settings that are younger than the checkpoint have defaults
            merged[key] = value
    refused = []
    for override in overrides:
        key, _, _ = override.partition("=")
        name = key.lstrip("+~")
        if name.split(".")[0] in _FROM_COMMAND or name.startswith("hydra"):
            continue
        fixed = "." not in name or (name.startswith("backbone.") and name != "backbone.attn_implementation")
        if fixed and name != "seed":
            refused.append(Problem(name, "the checkpoint decides; leave it out with mode=test"))
            continue
        OmegaConf.update(merged, name, OmegaConf.select(config, name))
    if refused:
        raise ConfigError(refused)
    merged.compare = []
    _use_saved_encoder(merged, config.ckpt)
    return merged


def loaded_config(content: dict[str, Any], ckpt: Path, rho: float | None = None) -> DictConfig:
    """The checkpoint's configuration for a use outside of any run: no data, no callbacks, no logger.

    Args:
        content: of ``read_checkpoint``.
        ckpt: where it lies.
        rho: another budget; None = the one it was trained for.

    Raises:
        CheckpointError: the checkpoint cannot be used.
    """
    config = checkpoint_config(content)
    if missing := sorted(_KNOWN_KEYS - {str(key) for key in config}):
        raise CheckpointError(f"{ckpt}: was made by an earlier version (its configuration lacks {', '.join(missing)})")
    folder = str(ckpt.resolve().parent.parent)
    config.mode, config.ckpt, config.compare = "test", str(ckpt), []
    config.callbacks, config.logger, config.paths = {}, None, {"run_dir": folder}
    is_local_only = (
        "hub" in config.task.data and config.task.data.hub is None
    )  # which then need a folder; it is not read
    config.data.dir = folder if is_local_only else None
    if rho is not None:
        config.retention.rho = rho
    _use_saved_encoder(config, str(ckpt))
    return config


def _use_saved_encoder(config: DictConfig, ckpt: str) -> None:
    """Take the encoder from beside the checkpoint, wherever it once came from."""
    config.trained_backbone = config.backbone  # for the record: what the model was trained with
    config.backbone = {
        "_target_": "retention.models.saved.Saved",
        "name": config.backbone.name,
        "path": encoder_folder(ckpt),
        "attn_implementation": config.backbone.get("attn_implementation"),
    }


def baseline_config(config: DictConfig, rival: DictConfig, name: str) -> DictConfig:
    """The same run with another retention policy, in a folder of its own.

    Args:
        config: of the main policy.
        rival: composed with ``retention=<name>``.
        name: of the policy's option.

    Returns:
        ``config`` with the rival's policy, as its own file has it, at the same budget.
    """
    merged = config.copy()
    OmegaConf.set_struct(merged, False)
    shared = {key: config.retention[key] for key in _BUDGET if key in config.retention and key in rival.retention}
    merged.retention = OmegaConf.merge(rival.retention, shared)
    merged.paths.run_dir = str(Path(config.paths.run_dir) / name)
    merged.compare = []
    merged.ckpt = None
    return merged


def build_parts(config: DictConfig) -> Parts:
    """Build everything that needs neither data nor weights; raises one ``ConfigError`` for all of it."""
    builder = Builder(config)
    seed = config.seed
    valid = isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < 2**32
    if builder.checks.require(valid, "seed", f"must be a whole number in [0, 2^32), got {seed!r}"):
        pl.seed_everything(seed, verbose=False)  # the policy draws its first weights here
    policy, backbone = builder.make("retention"), builder.make("backbone")
    data = builder.make("task.data")
    training = TrainingSettings(
        optimizer=builder.make("optimizer"),
        phases=builder.make("phases"),
        distill=builder.make("distill"),
        budgets=builder.make("budgets"),
        freeze=config.freeze,
    )
    module_type = builder.make_later("task.head")
    callbacks = [builder.make(f"callbacks.{name}") for name in config.callbacks]
    shapes: list[EncoderShape] = []
    if backbone is not None:
        builder.checks.gather(lambda: shapes.append(backbone.shape()))
    for shape in shapes:
        asked = config.retention.get("layers")
        sampled = policy is not None and training.budgets is not None and training.budgets.active
        if sampled:
            budgets = training.budgets
            builder.checks.gather(partial(policy.support_budgets, budgets.low, budgets.high), "retention")
        builder.checks.gather(partial(_fit_together, policy, shape, backbone.name, asked), "retention")
        if sampled:
            builder.checks.gather(partial(_check_budgets, policy, training, str(config.mode)))
        if policy is not None:
            builder.checks.gather(partial(_check_frozen, policy, training.freeze))
            _tell_unguided(policy, training)
    if shapes:
        if data is not None:
            builder.checks.gather(lambda: backbone.check_length(data.settings.max_length))
        if writes(module_type):
            builder.checks.gather(backbone.check_decoder)
        builder.checks.gather(lambda: backbone.check_prune_at(str(config.prune_at)))
        if policy is not None:
            builder.checks.gather(partial(backbone.show, policy.observes), "backbone")
    known = config.dropped in DROPPED
    builder.checks.require(known, "dropped", f"must be one of {', '.join(DROPPED)}, got {config.dropped!r}")
    builder.finish()
    loggers = [] if config.logger is None else [builder.make("logger")]
    builder.finish()
    return Parts(backbone, policy, data, training, module_type, callbacks, loggers)


def writes(module_type: Any) -> bool:
    """Whether a head, given as the partial call of its class, writes text."""
    return bool(module_type.func.writes)


def _check_budgets(policy: RetentionPolicy, training: TrainingSettings, mode: str) -> None:
    """Raise ``ConfigError`` where sampled budgets do not fit the rest; a test at another budget is only warned of."""
    budgets, checks = training.budgets, Checks()
    saliency = 0.0 if training.distill is None else training.distill.saliency
    checks.gather(partial(budgets.check_run, saliency=saliency), "budgets")
    covered = budgets.covers(policy.rho) or not policy.layers
    message = f"{policy.rho} is outside the sampled budgets [{budgets.low}, {budgets.high}]"
    if mode == "test" and not covered:
        log.warning("retention.rho: %s that the checkpoint was trained for", message)
    else:
        checks.require(covered, "retention.rho", f"{message}; widen budgets.low or budgets.high")
    checks.finish()


def _tell_unguided(policy: RetentionPolicy, training: TrainingSettings) -> None:
    """Warn where nothing would rank by the teacher's saliency; no error, since sweeps set it for all policies alike."""
    wanted = training.distill is not None and training.distill.saliency > 0
    if wanted and policy.layers and not policy.scored:
        log.warning("distill.saliency: %s has no scorers to guide, it is trained without", policy.name)


def _check_frozen(policy: RetentionPolicy, freeze: str | None) -> None:
    checks = Checks()
    known = freeze is None or freeze in FREEZE
    checks.require(known, "freeze", f"must be null or one of {', '.join(FREEZE)}, got {freeze!r}")
    idle = freeze == "model" and not any(True for _ in policy.parameters())
    message = f"nothing is left to train, {policy.name} learns nothing; use freeze=encoder (the head learns) or null"
    checks.require(not idle, "freeze", message)
    checks.finish()


def _fit_together(policy: RetentionPolicy | None, shape: EncoderShape, name: str, layers: Any) -> None:
    """Build the policy for the encoder; where the policy has other problems, check at least its layers."""
    if policy is not None:
        policy.build(shape, name)
    elif isinstance(layers, ListConfig):
        positive = [layer for layer in layers if layer >= 0]  # the policy names negative ones itself
        check_layers(positive, shape.num_layers, name)
