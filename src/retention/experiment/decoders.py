"""Run decoders with a bounded cache: their configuration, and the steps of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig, ListConfig, OmegaConf
from pytorch_lightning.callbacks import LearningRateMonitor

from retention.cache import CacheBudget
from retention.cache.policies.named import build_policies
from retention.callbacks import (
    DecodingCost,
    KeptPositions,
    Memory,
    Predictions,
    RetentionProfile,
    Slack,
    Throughput,
    TrainingCost,
)
from retention.errors import CheckpointError, Checks, require
from retention.experiment.builder import Builder
from retention.experiment.parts import make_callbacks, make_loggers
from retention.experiment.steps import RunParts, RunSteps, find_callback
from retention.experiment.stored import storable_config
from retention.experiment.trainer_settings import check_trainer
from retention.experiment.values import check_values
from retention.records import Decoding, Record
from retention.tasks.decoding.data import StepCounter
from retention.tasks.decoding.module import DecoderModule, Evaluation
from retention.tasks.decoding.pretrained import PretrainedDecoder
from retention.tasks.decoding.task import LEARNED, DecoderTask

SCORES = "scores.safetensors"
# Top-level keys of the configuration that runs of decoders have; the others are settings of encoders.
_KEYS = (
    *("mode", "evaluate", "ckpt", "seed", "output", "record", "compare", "paths", "task", "trainer", "callbacks"),
    *("logger", "cache"),
)
DECODER_DEFAULTS = "task=recall"  # composes the defaults of the settings that decoders do not have
_PRETRAINED = ("backbone", "texts", "init")  # of tasks that do not train a decoder of their own
_MISSING = object()
_REMEDIES = {  # key of encoders -> what to use instead
    "retention": " (policies of the cache are listed in compare=[...], its size is cache.size)",
    "data": " (use task.train_size, task.val_size, task.test_size)",
    "optimizer": " (each phase has its lr: task.future_attention.lr, task.distillation.lr)",
    "phases": " (the phases are task.future_attention and task.distillation)",
    "distill": " (use task.distillation)",
    "backbone": " (the decoder is trained from scratch, see task.decoder)",
    "texts": " (contexts are generated)",
}
_OF_ENCODERS = (Predictions, RetentionProfile, Slack, Throughput, TrainingCost)
_FIXED = {  # settings of the trainer that the phases of the training determine
    "devices": (1, "decoders are trained in one process"),
    "accelerator": ("cpu", "decoders are trained on the CPU"),
    "precision": ("32-true", "decoders are trained in float32"),
    "strategy": ("auto", "decoders are trained in one process"),
    "accumulate_grad_batches": (1, "each step has one text, or one batch of contexts"),
    "gradient_clip_val": (None, "set task.distillation.max_norm"),
}


@dataclass
class DecoderParts(RunParts):
    """Objects that the run of a decoder consists of.

    Attributes:
        callbacks: Lightning callbacks.
        loggers: Lightning loggers.
        task: settings of the task.
        budget: of the cache.
        decoder: loads the decoder; None if the task trains its own.
    """

    task: DecoderTask
    budget: CacheBudget
    decoder: PretrainedDecoder | None

    def data_files(self) -> list[Path]:
        """Return the existing local files of the task's texts."""
        return self.task.data_files()

    def check_output(self, path: Path) -> None:
        """Check that adapters, if there are any, would not be written into a folder that exists."""
        folder = _adapter_folder(path)
        message = f"the folder of the adapters, {folder}, exists; choose another path"
        require(getattr(self.task, "lora", None) is None or not folder.exists(), "output", message)


def is_decoder(config: DictConfig) -> bool:
    """Return True if the task of a configuration is one of decoders; those alone have a node ``cache``."""
    return "cache" in config


def decoder_config(config: DictConfig, default: DictConfig) -> DictConfig:
    """Return the part of a composed configuration that runs of decoders use.

    Args:
        config: the composed configuration.
        default: the same task without any other setting.

    Raises:
        ConfigError: a setting of encoders is not at its default, or a key is missing.
    """
    checks = Checks()
    given, usual = (dict[str, Any](_plain(each)) for each in (config, default))
    task = given.get("task")
    checks.require(isinstance(task, dict), "task", f"must be a node with keys, got {task!r}")
    trains_decoder = isinstance(task, dict) and "decoder" in task
    used = [*_KEYS, *(() if trains_decoder else _PRETRAINED)]
    for key in sorted({*given, *usual} - set(used)):
        same = given.get(key, _MISSING) == usual.get(key, _MISSING)
        checks.require(same, key, f"is not a setting of this task; leave it out{_REMEDIES.get(key, '')}")
    for key in used:
        checks.require(key in config, key, "is missing; every run of a decoder needs it")
    for key in ("paths", "trainer", "cache"):
        checks.require(isinstance(config.get(key, {}), DictConfig), key, "must be a node with keys")
    checks.finish()
    kept: DictConfig = OmegaConf.masked_copy(config, used)
    OmegaConf.set_struct(kept, False)
    return kept


def _plain(config: DictConfig) -> Any:
    return OmegaConf.to_container(config, resolve=False)


def build_decoder_parts(config: DictConfig) -> DecoderParts:
    """Check the configuration and build everything that needs neither texts nor weights.

    ``trainer.max_epochs`` is set from the phases of the task.

    Raises:
        ConfigError: all problems of the configuration.
    """
    builder = Builder(config)
    checks = builder.checks
    checks.gather(lambda: check_values(config, built=("task",)))
    checks.finish()
    task, budget = builder.make("task"), builder.make("cache")
    decoder = builder.make("backbone") if "backbone" in config else None
    for key, built, kind in (("task", task, DecoderTask), ("cache", budget, CacheBudget)):
        message = f"must name a {kind.__name__}, got a {type(built).__name__}"
        checks.require(built is None or isinstance(built, kind), f"{key}._target_", message)
    right = decoder is None or isinstance(decoder, PretrainedDecoder)
    message = "this task needs a decoder; leave it out and pass backbone.path=<folder>"
    checks.require(right, "backbone", message)
    _check_run(config, checks)
    builder.finish()
    names = [str(name) for name in config.compare or ()]
    checks.gather(lambda: task.check(budget, names))
    checks.gather(lambda: task.check_inputs(decoder, config.get("init")))
    checks.gather(lambda: _set_trainer(config, task), "trainer")
    callbacks = make_callbacks(builder, refused=_OF_ENCODERS)
    builder.finish()
    loggers = make_loggers(builder)
    callbacks = [each for each in callbacks if loggers or not isinstance(each, LearningRateMonitor)]
    return DecoderParts(callbacks, loggers, task, budget, decoder)


def _check_run(config: DictConfig, checks: Checks) -> None:
    """Check the settings outside of the nodes."""
    mode = "must be fit; to score saved scorers, pass init=<file> task.future_attention=null task.distillation=null"
    checks.require(config.mode == "fit", "mode", f"{mode}; got {config.mode!r}")
    message = "must be test; the validation metrics of a decoder are in metrics.csv"
    checks.require(config.evaluate == "test", "evaluate", message)
    names = config.compare
    listed = isinstance(names, ListConfig) and all(isinstance(name, str) for name in names)
    message = f"must be a list of cache policies such as [full,random], got {names!r}"
    checks.require(names is None or listed, "compare", message)
    for key in ("ckpt", "output", "record", *(("init",) if "init" in config else ())):
        value = config[key]
        valid = value is None or (isinstance(value, str) and bool(value.strip()))
        checks.require(valid, key, f"must be null or the path of a file, got {value!r}")
    seed = config.seed
    valid = isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < 2**32
    checks.require(valid, "seed", f"must be a whole number in [0, 2^32), got {seed!r}")
    folder = config.paths.get("run_dir")
    checks.require(isinstance(folder, str) and bool(folder), "paths.run_dir", f"must be a folder, got {folder!r}")
    output = config.output
    if isinstance(output, str) and output.strip():
        file = Path(output).expanduser()
        valid = file.suffix == ".safetensors" and not file.is_dir()
        checks.require(valid, "output", f"must be the path of a .safetensors file, got {output!r}")


def _set_trainer(config: DictConfig, task: DecoderTask) -> None:
    """Set the number of epochs, and check the other settings of the trainer."""
    trainer, checks = config.trainer, Checks()
    epochs = task.epochs()
    message = f"is {epochs} by the phases of the task, got {trainer.get('max_epochs')}; change those and leave it null"
    checks.require(trainer.get("max_epochs") in (None, epochs), "max_epochs", message)
    for key, (value, reason) in _FIXED.items():
        given = trainer.get(key, value)
        valid = given == value and not isinstance(given, bool)
        checks.require(valid, key, f"must be {'null' if value is None else value} here ({reason}), got {given!r}")
    checks.finish()
    trainer.max_epochs = max(1, epochs)
    check_trainer(OmegaConf.to_container(trainer, resolve=True))


class DecoderSteps(RunSteps):
    """Steps of the run of a decoder.

    Args:
        config: of ``decoder_config``.
        parts: of ``build_decoder_parts``.
    """

    module: DecoderModule

    def __init__(self, config: DictConfig, parts: DecoderParts) -> None:
        self.config, self.parts = config, parts
        self.trains = parts.task.epochs() > 0

    def build(self) -> None:
        """Read the texts, load the decoder, build scorers and phases."""
        parts, config = self.parts, self.config
        run = parts.task.prepare(parts.decoder, parts.budget, seed=int(config.seed), init=config.get("init"))
        policies = build_policies([str(name) for name in config.compare or ()], [], int(config.seed))
        evaluations = [
            Evaluation(name, policy, budget)
            for budget in parts.task.budgets(parts.budget)
            for name, policy in {**policies, LEARNED: run.scores}.items()
        ]
        self.module = DecoderModule(run, parts.budget, evaluations, storable_config(config))
        self.data = StepCounter(run.steps_per_epoch, run.validation_rows, len(evaluations))

    def load(self, content: dict[str, Any], *, tested: bool) -> None:
        """Copy the weights, and the states of the phases."""
        self.module.load_phases(content)
        try:
            self.module.load_state_dict(content["state_dict"])
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise CheckpointError(f"{self.config.ckpt}: is a checkpoint of another model ({reason})") from error

    def restore(self, content: Mapping[str, Any]) -> None:
        """Do nothing: the states of the phases were loaded with the weights."""

    def write_start(self, folder: Path) -> None:
        """Write nothing: the decoder is loaded, or built from the configuration."""

    def evaluate(self, trainer: pl.Trainer, trained: Mapping[str, int]) -> Sequence[Decoding]:
        """Compare the policies at each size; the learned one at the size of the training comes last."""
        self.module.scores.eval()
        self.module.decoder.eval()
        trainer.test(self.module, datamodule=self.data, verbose=False)
        task, results = self.parts.task, self.module.results
        baselines = {each.budget.size: each for each in results if each.name == task.baseline}
        compared = [replace(each, baseline=baselines.get(each.budget.size)) for each in results]
        fields = {"task": task.record_task, **self.module.run.describe()}
        *others, learned = [each.record(task.metric, **fields) for each in compared]
        return [*others, replace(learned, training={**trained, **self._summaries()})]

    def write_results(self, folder: Path, records: Sequence[Record]) -> None:
        """Write the scorers, and the decoder or its adapters where they were trained."""
        run, scores = self.module.run, [folder / SCORES]
        if self.config.output is not None:
            scores.append(Path(self.config.output).expanduser())
        for file in scores:
            run.scores.save(file)
        if run.trains_model:
            run.model.save_pretrained(folder / "decoder")
        if run.adapters is not None:
            for target in map(_adapter_folder, scores):
                if not target.exists():
                    run.adapters.save(target, run.tokenizer)

    def _summaries(self) -> dict[str, Any]:
        """Return the steps of the phases, and the summaries of the callbacks."""
        phases = {phase.name: phase.done for phase in self.module.run.phases}
        callbacks: dict[str, Any] = {
            "memory": find_callback(self.parts, Memory),
            "cost": find_callback(self.parts, DecodingCost),
            "kept": find_callback(self.parts, KeptPositions),
        }
        return {"phases": phases} | {name: each.summary() for name, each in callbacks.items() if each is not None}


def _adapter_folder(scores: Path) -> Path:
    return scores.with_name(f"{scores.stem}_lora")
