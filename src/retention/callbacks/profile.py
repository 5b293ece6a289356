"""Log how many tokens each layer keeps, and write which tokens were kept in some test examples."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from retention.callbacks.example_sampling import ExampleSampler, SampledExample
from retention.callbacks.totals import RunningTotals, log_epoch
from retention.callbacks.watched_module import as_watched
from retention.engine.report import ForwardReport
from retention.errors import ConfigError, Problem, require
from retention.records import write_atomic

FILE_NAME = "retention_profile.json"


class RetentionProfile(Callback):
    """Log the achieved keep ratio after each gated layer, and write the depth of the tokens of some test examples.

    ``retention/keep_ratio/layer_k`` is the mean over the samples of kept / real tokens after layer k, and
    ``retention/keep_ratio`` its mean over the gated layers, in validation and testing. Only hard pruning is counted;
    forward passes with soft gates are left out. A gated layer that is missing from the report removed nothing. A policy
    without gated layers keeps everything: mean 1.0, no layers.

    After testing, ``retention_profile.json`` in ``dirpath`` holds the result of ``build_profile``. Its examples are
    sampled from the whole test split, the same in every run; each has its row number as ``index``.

    Nothing is restored when a run is resumed, because every validation and test run starts from zero.

    Args:
        dirpath: the run folder.
        examples: number of test samples to write, >= 0.

    Raises:
        ConfigError: ``examples`` is negative, or positive while the trainer has no data module with a tokenizer.
    """

    def __init__(self, *, dirpath: str, examples: int = 8) -> None:
        require(bool(dirpath), "dirpath", "is empty; give the run folder")
        require(examples >= 0, "examples", f"must be >= 0, got {examples}")
        self.dirpath = Path(dirpath)
        self.examples = examples
        self._totals: RunningTotals | None = None
        self._sampler = ExampleSampler(0)
        self._summary: dict[str, Any] = {"mean": None, "by_layer": {}}

    def summary(self) -> dict[str, Any]:
        """Return keep ratios of the last validation or test run: ``mean`` (None before any) and ``by_layer``."""
        return {"mean": self._summary["mean"], "by_layer": dict(self._summary["by_layer"])}

    @override
    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start(pl_module)

    @override
    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._add_report(pl_module)

    @override
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._finish(trainer, pl_module)

    @override
    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.examples:
            _tokenizer(trainer)
        self._start(pl_module)
        self._sampler = ExampleSampler(self.examples)

    @override
    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        report = self._add_report(pl_module)
        if report is not None and self.examples:
            self._add_examples(pl_module, batch, report)

    @override
    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._finish(trainer, pl_module)
        examples = self._sampler.collect(trainer) if self.examples else []
        if trainer.is_global_zero:
            self._write(trainer, pl_module, examples)

    def _start(self, module: LightningModule) -> None:
        self._totals = RunningTotals(keep_ratios=len(as_watched(module).gated_layers), samples=1)

    def _add_report(self, module: LightningModule) -> ForwardReport | None:
        """Count the latest forward pass and return its report; None if it did not use hard pruning."""
        watched = as_watched(module)
        report = watched.last_report
        if report is None or self._totals is None or (report.keep_mass and not report.kept):
            return None
        if watched.gated_layers:
            self._totals.add(keep_ratios=_keep_ratio_sums(report, watched.gated_layers))
        self._totals.add(samples=len(report.lengths))
        return report

    def _finish(self, trainer: Trainer, module: LightningModule) -> None:
        if self._totals is None or trainer.sanity_checking:
            return
        sums = self._totals.read(trainer)
        samples = sums["samples"][0]
        if not samples:
            return
        by_layer = {
            layer: total / samples
            for layer, total in zip(as_watched(module).gated_layers, sums["keep_ratios"], strict=True)
        }
        mean = sum(by_layer.values()) / len(by_layer) if by_layer else 1.0
        self._summary = {"mean": mean, "by_layer": by_layer}
        per_layer = {f"retention/keep_ratio/layer_{layer}": ratio for layer, ratio in by_layer.items()}
        log_epoch(module, {"retention/keep_ratio": mean, **per_layer})

    def _add_examples(self, module: LightningModule, batch: Mapping[str, Any], report: ForwardReport) -> None:
        token_ids = batch["input_ids"]
        self._sampler.add_batch(
            index=batch["index"],
            token_ids=token_ids,
            lengths=report.lengths,
            depth=report.depth(as_watched(module).gated_layers, token_ids.shape[1]),
            labels=_per_sample(batch.get("labels"), len(token_ids)),
            predictions=_per_sample(getattr(module, "last_predictions", None), len(token_ids)),
        )

    def _write(self, trainer: Trainer, module: LightningModule, examples: list[SampledExample]) -> None:
        watched = as_watched(module)
        names = getattr(getattr(trainer, "datamodule", None), "label_names", None)
        profile = build_profile(
            mean=self._summary["mean"],
            by_layer=self._summary["by_layer"],
            rho=watched.policy.rho,
            gated_layers=watched.gated_layers,
            label_names=names,
            examples=[_describe(example, trainer) for example in examples],
        )
        write_atomic(self.dirpath / FILE_NAME, json.dumps(profile, ensure_ascii=False) + "\n")


def build_profile(
    *,
    mean: float | None,
    by_layer: Mapping[int, float],
    rho: float,
    gated_layers: Sequence[int],
    label_names: Sequence[Any] | None,
    examples: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Build a retention profile, the content of ``retention_profile.json``, which the token heat map shows.

    Args:
        mean: achieved keep ratio, mean over samples and gated layers, in [0, 1]; None if nothing was counted.
        by_layer: layer_idx -> achieved keep ratio after that layer.
        rho: target keep ratio.
        gated_layers: layers after which tokens are removed, 0-based.
        label_names: names of the classes; None for tasks without classes.
        examples: each with ``tokens``, ``depth`` (number of gated layers that each token passed), and for tasks with
            classes ``prediction`` and ``label`` (a class, or a list of classes of a multi-label task).
    """
    return {
        "mean": mean,
        "by_layer": {str(layer): ratio for layer, ratio in by_layer.items()},
        "rho": rho,
        "gated_layers": list(gated_layers),
        "label_names": None if label_names is None else [str(name) for name in label_names],
        "examples": [dict(example) for example in examples],
    }


def _keep_ratio_sums(report: ForwardReport, layers: tuple[int, ...]) -> Tensor:
    """Sum kept / real tokens over the batch, [G]."""
    kept, rows = report.lengths, []
    for layer in layers:
        kept = report.kept.get(layer, kept)  # a layer that is missing from the report removed nothing
        rows.append(kept)
    return (torch.stack(rows) / report.lengths).sum(1)


def _per_sample(values: Any, rows: int) -> Tensor | None:
    """Return ``values`` if it holds one class per sample, otherwise None (tasks without classes)."""
    is_class = isinstance(values, Tensor) and values.shape == (rows,) and not values.is_floating_point()
    return values if is_class else None


def _tokenizer(trainer: Trainer) -> Any:
    tokenizer = getattr(getattr(trainer, "datamodule", None), "tokenizer", None)
    if tokenizer is None:
        message = (
            "the trainer has no data module with a tokenizer; pass datamodule= to Trainer.test, or set examples to 0"
        )
        raise ConfigError([Problem("examples", message)])
    return tokenizer


def _describe(example: SampledExample, trainer: Trainer) -> dict[str, Any]:
    return {
        "index": example.index,
        "tokens": _tokenizer(trainer).convert_ids_to_tokens(example.token_ids),
        "label": example.label,
        "prediction": example.prediction,
        "depth": example.depth,
    }
