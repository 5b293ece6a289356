"""Run encoders with token retention: build, load, score and write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig

from retention.callbacks import TrainingCost
from retention.experiment.assembly import build_module, resolve_tokenizer, use_trained_label_order
from retention.experiment.checkpoints import load_weights, read_checkpoint
from retention.experiment.model_card import model_card
from retention.experiment.outputs import save_output
from retention.experiment.parts import Parts
from retention.experiment.results import evaluate, evaluates_validation
from retention.experiment.steps import RunSteps, find_callback
from retention.experiment.training_rows import TrainingRows, training_rows, with_training_rows
from retention.models.saved import save_backbone
from retention.records import Quality, Record, write_atomic
from retention.report.token_heatmap import write_token_heatmap
from retention.tasks.trained_model import trained_class_of
from retention.training.distillation import BACKBONE
from retention.training.module import RetentionModule

HEATMAP = "kept_tokens.html"


class EncoderSteps(RunSteps):
    """Steps of the run of an encoder.

    Args:
        config: the composed configuration.
        parts: of ``build_parts``; a callback that counts the cost of the training is added.
    """

    module: RetentionModule

    def __init__(self, config: DictConfig, parts: Parts) -> None:
        self.config, self.parts = config, parts
        self.data = parts.data
        parts.callbacks += [
            _training_cost(config, distills=parts.training.distill.active),
            TrainingRows(parts.data),
        ]
        self._trained: dict[str, Any] = {}  # numbers of rows that a model which is only tested was trained with

    def build(self) -> None:
        """Read the rows, and build encoder, policy and head."""
        tokenizer = resolve_tokenizer(self.parts)
        self.parts.data.attach(tokenizer)
        use_trained_label_order(self.config, self.parts)
        self.parts.data.setup("test" if self.config.mode == "test" else "fit")
        self.module = build_module(self.config, self.parts, len(tokenizer))

    def load(self, content: dict[str, Any], *, tested: bool) -> None:
        """Copy the weights; a tested model may have another keep ratio."""
        load_weights(self.module.model, content, self.config.ckpt, policy=True, other_budget=tested)
        if tested:
            self._trained = training_rows(content, self.config.ckpt)

    def restore(self, content: Mapping[str, Any]) -> None:
        """Take over the cost of the training."""
        if (cost := find_callback(self.parts, TrainingCost)) is not None:
            cost.restore(content)

    def write_start(self, folder: Path) -> None:
        """Write the encoder's configuration and its tokenizer."""
        save_backbone(folder / "encoder", self.module.encoder, self.parts.data.tokenizer)
        self.module.model.head.write_files(folder / "encoder")

    def evaluate(self, trainer: pl.Trainer, trained: Mapping[str, int]) -> Sequence[Quality]:
        """Score the model on its test rows, or on its validation rows."""
        result = evaluate(self.config, self.parts, self.module, trainer)
        data = with_training_rows(result.data, self._trained)
        return [replace(result, data=data, training={**trained, **result.training})]

    def write_results(self, folder: Path, records: Sequence[Record]) -> None:
        """Write the page of kept tokens, the model card and the model folder."""
        [record] = records
        if not evaluates_validation(self.config):
            if (folder / "retention_profile.json").exists() and self.parts.policy.layers:
                write_token_heatmap(folder / "retention_profile.json", folder / HEATMAP)
            example = trained_class_of(self.module.model.head).example
            write_atomic(folder / "README.md", model_card(record, example))
        if self.config.output is not None:
            save_output(self.config.output, self.module.model, self.parts.data, record)


def _training_cost(config: DictConfig, *, distills: bool) -> TrainingCost:
    """Build the callback that counts the cost of a training, with the runs that it starts from and is taught by."""
    cost = TrainingCost()
    if config.mode == "fit":
        taught = config.distill.get("teacher") if distills else None
        taught = None if taught == BACKBONE else taught  # no run of ours
        for path in dict.fromkeys(str(each) for each in (config.init, taught) if each is not None):
            cost.add_earlier_run(read_checkpoint(path))
    return cost
