"""How many tokens each gate let through, and which."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from retention.callbacks.contract import Batch, watched
from retention.callbacks.survivors import Example, ExampleBank
from retention.callbacks.totals import Totals, log_epoch
from retention.engine.report import ForwardReport
from retention.errors import Checks, ConfigError, Problem
from retention.records import write_atomic

FILE_NAME = "retention_profile.json"


class RetentionProfile(Callback):
    """Logs the kept share of real tokens after each gated layer, and writes the fate of some test tokens to a file.

    ``retention/keep_ratio/layer_k`` is the mean over the samples of kept / real tokens after layer k,
    ``retention/keep_ratio`` its mean over the gated layers, for validation and for testing. Only real removal is
    counted: a forward pass with soft gates is left out. A gate that the report does not mention removed nothing. A
    policy without gates keeps everything: mean 1.0, no layers.

    After testing, ``retention_profile.json`` in ``dirpath`` holds what ``profile_of`` says; its examples are test
    samples from all over the split, the same in every run, each with its ``index`` as well.

    Holds no state for a resumed run: every validation and test run starts anew.

    Args:
        dirpath: the run folder.
        examples: number of test samples to write, >= 0.

    Raises:
        ConfigError: ``examples`` is negative, or positive while the trainer has no data module with a tokenizer.
    """

    def __init__(self, *, dirpath: str, examples: int = 8) -> None:
        checks = Checks()
        checks.require(bool(dirpath), "dirpath", "is empty; give the run folder")
        checks.require(examples >= 0, "examples", f"must be >= 0, got {examples}")
        checks.finish()
        self.dirpath = Path(dirpath)
        self.examples = examples
        self._totals: Totals | None = None
        self._bank = ExampleBank(0)
        self._summary: dict[str, Any] = {"mean": None, "by_layer": {}}

    def summary(self) -> dict[str, Any]:
        """``mean`` and ``by_layer`` (layer_idx -> share) of the last validation or test run; mean None before any."""
        return {"mean": self._summary["mean"], "by_layer": dict(self._summary["by_layer"])}

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start(pl_module)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._count(pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._finish(trainer, pl_module)

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.examples:
            _tokenizer(trainer)
        self._start(pl_module)
        self._bank = ExampleBank(self.examples)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        report = self._count(pl_module)
        if report is not None and self.examples:
            self._offer(pl_module, batch, report)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._finish(trainer, pl_module)
        examples = self._bank.collect(trainer) if self.examples else []
        if trainer.is_global_zero:
            self._write(trainer, pl_module, examples)

    def _start(self, module: LightningModule) -> None:
        self._totals = Totals(shares=len(watched(module).gated_layers), samples=1)

    def _count(self, module: LightningModule) -> ForwardReport | None:
        """Add the batch just seen; returns its report, None where nothing was removed for real."""
        watch = watched(module)
        report = watch.last_report
        if report is None or self._totals is None or (report.keep_mass and not report.kept):
            return None
        if watch.gated_layers:
            self._totals.add(shares=_share_sums(report, watch.gated_layers))
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
            layer: total / samples for layer, total in zip(watched(module).gated_layers, sums["shares"], strict=True)
        }
        mean = sum(by_layer.values()) / len(by_layer) if by_layer else 1.0
        self._summary = {"mean": mean, "by_layer": by_layer}
        named = {f"retention/keep_ratio/layer_{layer}": share for layer, share in by_layer.items()}
        log_epoch(module, {"retention/keep_ratio": mean, **named})

    def _offer(self, module: LightningModule, batch: Batch, report: ForwardReport) -> None:
        token_ids = batch["input_ids"]
        self._bank.offer(
            index=batch["index"],
            token_ids=token_ids,
            lengths=report.lengths,
            depth=report.depth(watched(module).gated_layers, token_ids.shape[1]),
            labels=_per_sample(batch.get("labels"), len(token_ids)),
            predictions=_per_sample(getattr(module, "last_predictions", None), len(token_ids)),
        )

    def _write(self, trainer: Trainer, module: LightningModule, examples: list[Example]) -> None:
        watch = watched(module)
        names = getattr(getattr(trainer, "datamodule", None), "label_names", None)
        profile = profile_of(
            mean=self._summary["mean"],
            by_layer=self._summary["by_layer"],
            rho=watch.policy.rho,
            gated_layers=watch.gated_layers,
            label_names=names,
            examples=[_described(example, trainer) for example in examples],
        )
        write_atomic(self.dirpath / FILE_NAME, json.dumps(profile, ensure_ascii=False) + "\n")


def profile_of(
    *,
    mean: float | None,
    by_layer: Mapping[int, float],
    rho: float,
    gated_layers: Sequence[int],
    label_names: Sequence[Any] | None,
    examples: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """A retention profile, as it is written down and as ``retention.report.token_heatmap`` draws it.

    Args:
        mean: kept share, mean over samples and gated layers, in [0, 1]; None if nothing was counted.
        by_layer: layer_idx -> kept share after that layer.
        rho: the share asked for.
        gated_layers: 0-based.
        label_names: classes by number; None for tasks without classes.
        examples: each with ``tokens``, ``depth`` (gated layers that each token passed), and where there are classes
            ``prediction`` and ``label`` (a number, or several of a multi-label task).
    """
    return {
        "mean": mean,
        "by_layer": {str(layer): share for layer, share in by_layer.items()},
        "rho": rho,
        "gated_layers": list(gated_layers),
        "label_names": None if label_names is None else [str(name) for name in label_names],
        "examples": [dict(example) for example in examples],
    }


def _share_sums(report: ForwardReport, layers: tuple[int, ...]) -> Tensor:
    """Sum over the batch of kept / real tokens, [G]."""
    kept, rows = report.lengths, []
    for layer in layers:
        kept = report.kept.get(layer, kept)  # a gate left out of the report passed on what it got
        rows.append(kept)
    return (torch.stack(rows) / report.lengths).sum(1)


def _per_sample(values: Any, rows: int) -> Tensor | None:
    """``values`` if it is one whole number per sample; tasks without classes have none."""
    fits = isinstance(values, Tensor) and values.shape == (rows,) and not values.is_floating_point()
    return values if fits else None


def _tokenizer(trainer: Trainer) -> Any:
    tokenizer = getattr(getattr(trainer, "datamodule", None), "tokenizer", None)
    if tokenizer is None:
        remedy = "pass datamodule= to Trainer.test, or set examples to 0"
        raise ConfigError([Problem("examples", f"the trainer has no data module with a tokenizer; {remedy}")])
    return tokenizer


def _described(example: Example, trainer: Trainer) -> dict[str, Any]:
    return {
        "index": example.index,
        "tokens": _tokenizer(trainer).convert_ids_to_tokens(example.token_ids),
        "label": example.label,
        "prediction": example.prediction,
        "depth": example.depth,
    }
