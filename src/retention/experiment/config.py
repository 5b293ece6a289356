"""Derive the configurations of all runs of a command: trainings, baselines, and tests of checkpoints."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from retention.errors import Checks, ConfigError, Problem, first_line, require
from retention.experiment.checkpoints import encoder_folder, read_checkpoint
from retention.experiment.decoders import (
    DECODER_DEFAULTS,
    DecoderParts,
    build_decoder_parts,
    decoder_config,
    is_decoder,
)
from retention.experiment.equal_flops import set_rho_by_flops
from retention.experiment.keys import check_keys, require_keys
from retention.experiment.listed_ratios import set_rho_of_list, types_rho
from retention.experiment.parts import Parts, build_parts
from retention.experiment.results import EVALUATE
from retention.experiment.resume import LOCAL_CHECKPOINT, use_local_checkpoint
from retention.experiment.stored import FROM_COMMAND, StoredTargets, stored_config
from retention.experiment.tested_settings import TEACHER, check_tested_settings
from retention.experiment.trainer_settings import check_trainer
from retention.experiment.values import check_values
from retention.training.distillation import BACKBONE

MODES = ("fit", "test")
_FILES = ("ckpt", "init", "texts", "output", "record")
_BUDGET = ("rho", "schedule", "slope", "layers", "min_tokens")  # what baselines take over from the main policy
_DATA_LABELS = ("data.source", "data.provenance")  # they describe the files of data.dir

Compose = Callable[[list[str]], DictConfig]

log = logging.getLogger(__name__)


def build_runs(
    config: DictConfig, compose: Compose, overrides: Sequence[str]
) -> list[tuple[DictConfig, Parts | DecoderParts]]:
    """Return the configuration and the parts of every run of a command, baselines first.

    Args:
        config: the composed configuration.
        compose: composes a configuration from overrides, for the baselines named in ``compare``.
        overrides: what was typed, ``key=value``; with ``mode=test`` it is applied to the checkpoint's configuration.

    Raises:
        ConfigError: all problems of all configurations.
        CheckpointError: ``mode=test`` and the checkpoint cannot be used.
    """
    try:
        if is_decoder(config):
            return [_decoder_run(config, compose)]
        require_keys(config)
        return _build_runs(config, compose, overrides)
    except OmegaConfBaseException as error:  # such as a reference to a key that does not exist
        raise ConfigError([Problem(error.full_key or "", first_line(error))]) from error


def _build_runs(
    config: DictConfig, compose: Compose, overrides: Sequence[str]
) -> list[tuple[DictConfig, Parts | DecoderParts]]:
    if config.mode == "test":
        return [_tested_run(config, overrides)]
    checks = Checks()
    checks.gather(lambda: check_run(config))
    requested_ckpt = config.ckpt
    use_local_checkpoint(config)
    checks.gather(lambda: _check_start(config))
    checks.gather(lambda: set_rho_of_list(config, given=types_rho(overrides)))
    configs = [config]
    names = config.compare if isinstance(config.compare, ListConfig) else []
    for name in reversed([name for name in names if isinstance(name, str)]):
        try:
            baseline = baseline_config(config, compose([f"retention={name}"]), name)
        except HydraException as error:
            checks.require(False, "compare", " ".join(str(error).split()))
            continue
        baseline.ckpt = requested_ckpt if requested_ckpt == LOCAL_CHECKPOINT else None
        use_local_checkpoint(baseline)
        configs.insert(0, baseline)
    for each in configs:
        checks.gather(partial(set_rho_by_flops, each))
    parts = [checks.gather(lambda each=each: build_parts(each)) for each in configs]  # type: ignore[misc]
    checks.problems = list(dict.fromkeys(checks.problems))  # a setting that the baselines take over is reported once
    checks.finish()
    return [(each, built) for each, built in zip(configs, parts, strict=True) if built is not None]


def _tested_run(config: DictConfig, overrides: Sequence[str]) -> tuple[DictConfig, Parts]:
    check_run(config)
    tested = tested_config(config, overrides)
    set_rho_of_list(tested, given=types_rho(overrides))
    parts = build_parts(tested, StoredTargets(typed=typed_targets(overrides)))
    message = "only a task without labels is tested with a teacher; leave it out with mode=test"
    require(TEACHER not in typed_keys(overrides) or parts.compares_with_teacher, TEACHER, message)
    return tested, parts


def _decoder_run(config: DictConfig, compose: Compose) -> tuple[DictConfig, DecoderParts]:
    kept = decoder_config(config, compose([DECODER_DEFAULTS]))
    parts = build_decoder_parts(kept)
    use_local_checkpoint(kept)
    return kept, parts


def check_run(config: DictConfig) -> None:
    """Raise ``ConfigError`` if top-level settings are unknown or out of range."""
    checks = Checks()
    checks.gather(lambda: check_keys(config))
    checks.gather(lambda: check_values(config))
    checks.require(config.mode in MODES, "mode", f"must be one of {', '.join(MODES)}, got {config.mode!r}")
    names = config.compare if isinstance(config.compare, ListConfig) else [config.compare]
    is_list = config.compare is None or (names is config.compare and all(isinstance(name, str) for name in names))
    checks.require(is_list, "compare", f"must be a list such as [dense,random], got {config.compare!r}")
    for key in _FILES:
        value = config[key]
        is_path = value is None or (isinstance(value, str) and bool(value.strip()))
        checks.require(is_path, key, f"must be null or the path of a file, got {value!r}")
    checks.gather(lambda: check_trainer(OmegaConf.to_container(config.trainer, resolve=True)), "trainer")
    evaluate = config.get("evaluate")
    checks.require(evaluate in EVALUATE, "evaluate", f"must be one of {', '.join(EVALUATE)}, got {evaluate!r}")
    message = "must be test with mode=test, which scores test rows; validation needs mode=fit"
    checks.require(evaluate != "validation" or config.mode == "fit", "evaluate", message)
    complete = config.mode != "test" or config.ckpt is not None
    message = "mode=test needs a checkpoint; pass ckpt=<run folder>/checkpoints/last.ckpt"
    checks.require(complete, "ckpt", message)
    checks.finish()


def tested_config(config: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """Return the checkpoint's configuration with the settings of this command line on top.

    Another ``data.dir`` without ``data.source`` and ``data.provenance`` is not described by those of the training.

    Args:
        config: the composed configuration, with ``ckpt``.
        overrides: what was typed, ``key=value``.

    Raises:
        ConfigError: an override changes what the checkpoint determines.
        CheckpointError: the checkpoint cannot be used.
    """
    merged = stored_config(read_checkpoint(config.ckpt), config.ckpt)
    for key in FROM_COMMAND:
        merged[key] = OmegaConf.to_container(config, resolve=False).get(key)  # type: ignore[union-attr]
    names = typed_keys(overrides)
    message = "no baseline is trained with mode=test; leave it out, or test the checkpoint of each baseline"
    require("compare" not in names or not config.compare, "compare", message)
    names = [name for name in names if name.split(".")[0] not in FROM_COMMAND and not name.startswith("hydra")]
    check_tested_settings(merged, config, names)
    for name in names:
        OmegaConf.update(merged, name, OmegaConf.select(config, name))
    if "data.dir" in names:
        for key in _DATA_LABELS:
            if key not in names:
                OmegaConf.update(merged, key, None)
    merged.compare = []
    _use_saved_encoder(merged, config.ckpt)
    return merged


def typed_keys(overrides: Sequence[str]) -> list[str]:
    """Return the dotted keys of overrides, as they were typed."""
    return [override.partition("=")[0].lstrip("+~") for override in overrides]


def typed_targets(overrides: Sequence[str]) -> dict[str, str]:
    """Return dotted path of a node -> class that was typed for it (``retention._target_=package.Policy``)."""
    pairs = [override.lstrip("+").partition("=") for override in overrides]
    return {key.removesuffix("._target_"): value for key, _, value in pairs if key.endswith("._target_")}


def loaded_config(content: Mapping[str, Any], ckpt: Path, rho: float | None = None) -> DictConfig:
    """Return the checkpoint's configuration for use outside of a run: without data, callbacks and logger.

    Args:
        content: of ``read_checkpoint``.
        ckpt: path of the checkpoint.
        rho: another target keep ratio; None = as trained.

    Raises:
        CheckpointError: the checkpoint cannot be used.
        ConfigError: the checkpoint lists its keep ratios, whose mean is not ``rho``.
    """
    config = stored_config(content, ckpt)
    folder = str(ckpt.resolve().parent.parent)
    config.mode, config.ckpt, config.compare, config.record, config.output = "test", str(ckpt), [], None, None
    config.callbacks, config.logger, config.paths = {}, None, {"run_dir": folder}
    # data modules without a hub data set require a folder; it is not read here
    needs_folder = "hub" in config.task.data and config.task.data.hub is None
    config.data.dir = folder if needs_folder else None
    config.data.source = config.data.provenance = None  # they describe local files
    if rho is not None:
        config.retention.rho = rho
    set_rho_of_list(config, given=rho is not None)
    _use_saved_encoder(config, str(ckpt))
    return config


def load_parts(
    content: Mapping[str, Any], ckpt: Path, rho: float | None = None, classes: Iterable[type] = ()
) -> tuple[DictConfig, Parts]:
    """Return configuration and parts of a checkpoint; see ``loaded_config`` and ``StoredTargets``."""
    config = loaded_config(content, ckpt, rho)
    return config, build_parts(config, StoredTargets(classes))


def baseline_config(config: DictConfig, baseline: DictConfig, name: str) -> DictConfig:
    """Return the configuration of the same run with another retention policy, in a folder of its own.

    Args:
        config: of the main policy.
        baseline: composed with ``retention=<name>``.
        name: option of the config group ``retention``.

    Returns:
        ``config`` with the baseline's policy, as its own file configures it, at the same budget. A baseline that
        removes tokens but has no ``min_tokens`` is named in a warning if the main policy has a floor above 1.
    """
    merged = config.copy()
    OmegaConf.set_struct(merged, False)
    shared = {key: config.retention[key] for key in _BUDGET if key in config.retention and key in baseline.retention}
    floor = config.retention.get("min_tokens", 1)
    if floor != 1 and "layers" in baseline.retention and "min_tokens" not in baseline.retention:
        log.warning(
            "compare=[%s]: this baseline has no min_tokens, so it can remove more tokens of short texts than the main "
            "policy with retention.min_tokens=%s; compare them at the keep ratios that they achieve",
            *(name, floor),
        )
    merged.retention = OmegaConf.merge(baseline.retention, shared)
    merged.paths.run_dir = str(Path(config.paths.run_dir) / name)
    merged.compare = []
    merged.ckpt = merged.output = None
    return merged


def _check_start(config: DictConfig) -> None:
    starts = (config.init, config.ckpt)  # or a head without weights, whose teacher can be the backbone
    trained = config.freeze is None or any(starts) or config.distill.get("teacher") == BACKBONE
    message = f"freeze={config.freeze} needs trained weights; pass init=<checkpoint of a dense run>"
    require(trained, "freeze", message)


def _use_saved_encoder(config: DictConfig, ckpt: str) -> None:
    """Take the encoder from beside the checkpoint, whatever it was trained from."""
    config.trained_backbone = config.backbone  # for the record: settings that the model was trained with
    config.backbone = {
        "_target_": "retention.models.saved.SavedBackbone",
        "name": config.backbone.get("name"),
        "path": encoder_folder(ckpt),
        "attn_implementation": config.backbone.get("attn_implementation"),
    }
