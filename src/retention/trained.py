"""A finished run as a model to use: texts in; classes, and what was remembered of each text, out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedTokenizerFast

from retention.analysis.picture import picture
from retention.checkpoints import load_weights, read_checkpoint
from retention.data.batching import SortedBatches, pad_inputs
from retention.data.encoding import encode_texts
from retention.engine import ForwardReport
from retention.errors import CheckpointError, ConfigError, DataError, Problem
from retention.experiment import build_module, own_tokenizer
from retention.modules import RetentionModule
from retention.modules.classification import ClassificationModule
from retention.plan import build_parts, loaded_config
from retention.policies.base import RetentionPolicy
from retention.records import write_atomic

_CHECKPOINT = Path("checkpoints") / "last.ckpt"


@dataclass(frozen=True)
class Prediction:
    """What a model says about one text.

    Attributes:
        labels: the classes answered, most probable first: one, or of a multi-label task one or more.
        probabilities: class -> probability in [0, 1]; they add up to 1 but in a multi-label task.
        tokens: the text as the encoder read it, special tokens included, cut to the model's limit.
        depth: for each token the number of gates that let it pass, 0 .. ``gates``.
        gates: how many gated layers there are.
    """

    labels: tuple[str, ...]
    probabilities: dict[str, float]
    tokens: tuple[str, ...]
    depth: tuple[int, ...]
    gates: int

    @property
    def kept_share(self) -> float:
        """Kept tokens / tokens of the text, mean over the gated layers, in (0, 1]; 1 without gates."""
        return sum(self.depth) / (self.gates * len(self.depth)) if self.gates else 1.0


@dataclass(frozen=True)
class Trained:
    """A trained model in evaluation mode. ``load`` makes it.

    Attributes:
        module: encoder, policy and head.
        tokenizer: of the encoder.
        max_length: tokens that are read of a text.
        label_names: classes in the order of the head's outputs; empty for tasks without classes.
    """

    module: RetentionModule
    tokenizer: PreTrainedTokenizerFast
    max_length: int
    label_names: tuple[str, ...]

    @property
    def encoder(self) -> nn.Module:
        """The Hugging Face encoder with its trained weights; as it is, it keeps every token (see ``retain``)."""
        return self.module.encoder

    @property
    def policy(self) -> RetentionPolicy:
        """The trained policy, for ``retain``."""
        return self.module.policy

    def predict(
        self, texts: Sequence[str], *, passages: Sequence[str] | None = None, batch_size: int = 32
    ) -> list[Prediction]:
        """Classify texts, with real removal.

        Args:
            texts: any number of them.
            passages: a second text for each, where the model was trained on pairs (a clause and what surrounds it).
            batch_size: texts per forward pass, >= 1; those of similar length go together.

        Returns:
            One prediction per text, in the order of ``texts``.

        Raises:
            ConfigError: the task has no classes, or ``batch_size`` is below 1.
            DataError: a text is empty, or has no passage.
        """
        if not isinstance(self.module, ClassificationModule):
            message = f"only models with classes do, this is a {type(self.module).__name__}; use module"
            raise ConfigError([Problem("predict", message)])
        if batch_size < 1:
            raise ConfigError([Problem("batch_size", f"must be >= 1, got {batch_size}")])
        for place, text in enumerate(texts):
            if not text.strip():
                raise DataError(f"text {place} is empty; leave it out")
        if passages is not None and len(passages) != len(texts):
            raise DataError(f"{len(passages)} passages for {len(texts)} texts; give one for each")
        if not texts:
            return []
        columns = encode_texts(self.tokenizer, texts, self.max_length, passages)
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        found: dict[int, Prediction] = {}
        for places in SortedBatches([row["length"] for row in rows], batch_size):
            answers = self._batch(self.module, [rows[place] for place in places])
            found.update(zip(places, answers, strict=True))
        return [found[place] for place in range(len(rows))]

    def show(self, texts: Sequence[str], path: str | Path, *, title: str = "What was remembered") -> list[Prediction]:
        """Classify texts and write a page that shows, for each, which tokens came how far.

        Args:
            texts: at least one.
            path: the HTML file, as in a run folder.
            title: its heading.

        Raises:
            ConfigError, DataError: see ``predict``; there is no text.
        """
        answers = self.predict(texts)
        if not answers:
            raise DataError("there is no text to show; pass at least one")
        layers = self.module.gated_layers
        by_layer = {
            str(layer): fmean(sum(depth > gate for depth in answer.depth) / len(answer.depth) for answer in answers)
            for gate, layer in enumerate(layers)
        }
        examples = [
            {
                "tokens": answer.tokens,
                "depth": answer.depth,
                "prediction": [self.label_names.index(label) for label in answer.labels],
            }
            for answer in answers
        ]
        profile = {
            "mean": fmean(answer.kept_share for answer in answers),
            "by_layer": by_layer,
            "rho": self.policy.rho,
            "gated_layers": list(layers),
            "label_names": list(self.label_names),
            "examples": examples,
        }
        write_atomic(Path(path), picture(profile, title))
        return answers

    def _batch(self, module: ClassificationModule, rows: list[dict[str, Any]]) -> Iterator[Prediction]:
        batch = pad_inputs(rows, cast(int, self.tokenizer.pad_token_id))
        with torch.inference_mode():
            logits = module({name: values.to(module.device) for name, values in batch.items()})
            probabilities, chosen = module.probabilities(logits).tolist(), module.chosen(logits).tolist()
            report = cast(ForwardReport, module.last_report)
            depths = report.depth(module.gated_layers, batch["input_ids"].shape[1]).tolist()
        for row, shares, answered, depth in zip(rows, probabilities, chosen, depths, strict=True):
            by_name = dict(zip(self.label_names, shares, strict=True))
            labels = [name for name, answer in zip(self.label_names, answered, strict=True) if answer]
            yield Prediction(
                labels=tuple(sorted(labels, key=by_name.__getitem__, reverse=True)),
                probabilities=by_name,
                tokens=tuple(self.tokenizer.convert_ids_to_tokens(row["input_ids"])),
                depth=tuple(depth[: row["length"]]),
                gates=len(module.gated_layers),
            )


def load(path: str | Path, *, rho: float | None = None, device: str | torch.device = "cpu") -> Trained:
    """Load a finished run; needs its folder alone, neither data nor the hub.

    Args:
        path: the run folder, or a checkpoint in it.
        rho: share of tokens to keep, in (0, 1]; None = as trained. Models trained for any budget
            (``experiment=sst2_any_budget``) serve every share they were trained for; others lose more than they must.
        device: where the model goes.

    Raises:
        CheckpointError: there is no checkpoint, or it cannot be used.
        ConfigError: ``rho`` is out of range.

    >>> model = load("outputs/sst2/2026-01-31_12-00-00", rho=0.3)   # doctest: +SKIP
    >>> model.predict(["a gripping film"])[0].labels                # doctest: +SKIP
    ('positive',)
    """
    given = Path(path)
    checkpoint = given / _CHECKPOINT if given.is_dir() else given
    if given.is_dir() and not checkpoint.is_file():
        raise CheckpointError(f"{given}: holds no {_CHECKPOINT}; pass the folder of a finished run, or a checkpoint")
    content = read_checkpoint(checkpoint)
    config = loaded_config(content, checkpoint, rho)
    parts = build_parts(config)
    tokenizer = own_tokenizer(parts)
    parts.data.attach(tokenizer)
    module = build_module(config, parts, len(tokenizer))
    load_weights(module, content, checkpoint, policy=True, other_budget=rho is not None)
    names = tuple(str(name) for name in getattr(parts.data, "label_names", ()))
    return Trained(module.to(device).eval(), tokenizer, parts.data.settings.max_length, names)
