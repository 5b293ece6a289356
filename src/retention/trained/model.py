"""A trained model in evaluation mode, and what it can be asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, cast

from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from retention.callbacks.profile import profile_of
from retention.data.base import RetentionData
from retention.data.batching import Batch, pad_inputs
from retention.data.encoding import encode_texts
from retention.errors import ConfigError, DataError, Problem
from retention.policies.bases.retention_policy import RetentionPolicy
from retention.records import write_atomic
from retention.records.columns import as_columns, as_rows
from retention.report.token_heatmap import picture
from retention.tasks.classification.head import ClassificationModule
from retention.tasks.question_answering.head import QuestionAnsweringModule
from retention.tasks.question_answering.predict import answers_of, question_rows
from retention.tasks.summarization.abstractive_head import AbstractiveSummarizationModule
from retention.tasks.summarization.extractive_head import ExtractiveSummarizationModule
from retention.trained.batches import RowResult, run_rows
from retention.trained.results import Answer, Prediction, Summary
from retention.training.module import RetentionModule

_FOR: tuple[tuple[str, tuple[type[RetentionModule], ...]], ...] = (
    ("predict", (ClassificationModule,)),
    ("ask", (QuestionAnsweringModule,)),
    ("summarize", (ExtractiveSummarizationModule, AbstractiveSummarizationModule)),
)


@dataclass(frozen=True)
class Trained:
    """A trained model in evaluation mode. ``load`` makes it.

    A model can do what it was trained for: ``predict`` classes, answer what one may ``ask``, or ``summarize``.

    Attributes:
        module: encoder, policy and head.
        data: how its texts become rows; holds no documents.
    """

    module: RetentionModule
    data: RetentionData

    @property
    def encoder(self) -> nn.Module:
        """The Hugging Face encoder with its trained weights; as it is, it keeps every token (see ``retain``)."""
        return self.module.encoder

    @property
    def policy(self) -> RetentionPolicy:
        """The trained policy, for ``retain``."""
        return self.module.policy

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Of the encoder."""
        return self.data.tokenizer

    @property
    def max_length(self) -> int:
        """Tokens of a row: of a text, or of a window with its question."""
        return self.data.settings.max_length

    @property
    def label_names(self) -> tuple[str, ...]:
        """Classes in the order of the head's outputs; empty for tasks without classes."""
        return tuple(str(name) for name in getattr(self.data, "label_names", ()))

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
        self._check("predict")
        _check_texts(texts, "text")
        if passages is not None and len(passages) != len(texts):
            raise DataError(f"{len(passages)} passages for {len(texts)} texts; give one for each")
        if not texts:
            return []
        module = cast(ClassificationModule, self.module)

        def read(logits: Tensor, batch: Batch) -> list[tuple[list[float], list[bool]]]:
            return list(zip(module.probabilities(logits).tolist(), module.chosen(logits).tolist(), strict=True))

        rows = as_rows(encode_texts(self.tokenizer, texts, self.max_length, passages))
        collate = partial(pad_inputs, pad_token_id=cast(int, self.tokenizer.pad_token_id))
        results = run_rows(module, rows, collate, batch_size, read)
        return [self._prediction(row["input_ids"], result) for row, result in zip(rows, results, strict=True)]

    def ask(self, questions: Sequence[str], text: str, *, batch_size: int = 32) -> list[Answer]:
        """Answer questions about one text of any length, read in the windows that the model was trained with.

        Args:
            questions: any number of them.
            text: what they are about.
            batch_size: windows per forward pass, >= 1.

        Returns:
            One answer per question, in their order.

        Raises:
            ConfigError: the model answers no questions, or ``batch_size`` is below 1.
            DataError: the text or a question is empty.
        """
        self._check("ask")
        _check_texts([text], "text")
        _check_texts(questions, "question")
        if not questions:
            return []
        rows = question_rows(self.data, questions, text)
        return answers_of(self.data, text, rows, self._collected(rows, batch_size))

    def summarize(self, articles: Sequence[str], *, batch_size: int = 8) -> list[Summary]:
        """Summarize articles, by their best sentences or, where the model has a decoder, in new words.

        Args:
            articles: any number of them; a line break ends a sentence.
            batch_size: articles per forward pass, >= 1.

        Returns:
            One summary per article, in their order.

        Raises:
            ConfigError: the model does not summarize, or ``batch_size`` is below 1.
            DataError: an article is empty.
        """
        self._check("summarize")
        _check_texts(articles, "article")
        if not articles:
            return []
        documents = {"text": list(articles), "abstract": [""] * len(articles)}
        rows = as_rows(self.data.encode(documents, list(range(len(articles)))))
        results = self._collected(rows, batch_size)
        return [self._summary(row["truncated"], result) for row, result in zip(rows, results, strict=True)]

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
            layer: fmean(sum(depth > gate for depth in answer.depth) / len(answer.depth) for answer in answers)
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
        profile = profile_of(
            mean=fmean(answer.keep_ratio for answer in answers),
            by_layer=by_layer,
            rho=self.policy.rho,
            gated_layers=layers,
            label_names=self.label_names,
            examples=examples,
        )
        write_atomic(Path(path), picture(profile, title))
        return answers

    def _check(self, method: str) -> None:
        """Raise ``ConfigError`` where the model was trained for something else."""
        able = [name for name, kinds in _FOR if isinstance(self.module, kinds)]
        if method not in able:
            remedy = f"use {able[0]}" if able else "use module"
            message = f"this model was not trained for it, its head is a {type(self.module).__name__}; {remedy}"
            raise ConfigError([Problem(method, message)])

    def _collected(self, rows: list[dict[str, Any]], batch_size: int) -> list[RowResult]:
        """What the head notes of each row in an evaluation."""

        def read(logits: Tensor, batch: Batch) -> list[dict[str, Any]]:
            return as_rows(self.module.collect(logits, batch))

        return run_rows(self.module, rows, self.data.collator(), batch_size, read)

    def _prediction(self, token_ids: list[int], result: RowResult) -> Prediction:
        shares, answered = result.said
        by_name = dict(zip(self.label_names, shares, strict=True))
        labels = [name for name, answer in zip(self.label_names, answered, strict=True) if answer]
        return Prediction(
            labels=tuple(sorted(labels, key=by_name.__getitem__, reverse=True)),
            probabilities=by_name,
            tokens=tuple(self.tokenizer.convert_ids_to_tokens(token_ids)),
            depth=result.depth,
            gates=len(self.module.gated_layers),
        )

    def _summary(self, truncated: bool, result: RowResult) -> Summary:
        if not isinstance(self.module, ExtractiveSummarizationModule):
            written = tuple(result.said["summary"].splitlines())
            return Summary(
                sentences=written, chosen=None, scores=None, truncated=truncated, keep_ratio=result.keep_ratio
            )
        [chosen] = self.module.choices(as_columns([result.said]))
        return Summary(
            sentences=tuple(result.said["sentences"][place] for place in chosen),
            chosen=tuple(chosen),
            scores=tuple(result.said["scores"]),
            truncated=truncated,
            keep_ratio=result.keep_ratio,
        )


def _check_texts(texts: Sequence[str], what: str) -> None:
    for place, text in enumerate(texts):
        if not text.strip():
            raise DataError(f"{what} {place} is empty; leave it out")
