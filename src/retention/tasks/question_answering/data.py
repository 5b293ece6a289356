"""Base class of question answering data: rows, batches, and metrics from the outputs of the head."""

from __future__ import annotations

import logging
import zlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from datasets import Dataset

from retention.data.benchmark import BenchmarkData
from retention.data.encoded_split import EncodedSplit
from retention.data.loading import Collate
from retention.data.splits import SPLITS, Split
from retention.errors import DataError, require
from retention.records.columns import as_columns
from retention.tasks.question_answering.answer_candidates import AnswerCandidates, merge_windows
from retention.tasks.question_answering.collate import QuestionCollate
from retention.tasks.question_answering.passages import (
    ANSWER_TYPES,
    NONE,
    SPAN,
    Passage,
    PassageQuestion,
    passage_rows,
    passages_of,
)
from retention.tasks.question_answering.windows import (
    TokenizedText,
    Windowing,
    question_template,
    tokenize_text,
    window_row,
)

_log = logging.getLogger(__name__)

UNKNOWN_TYPE = -100  # ignored by the cross-entropy


class QuestionAnsweringData(BenchmarkData):
    """Base class: a subclass loads passages (``load``) and scores answers (``score``).

    ``load`` returns rows made by ``passage_rows``. A passage gives one row per question and window. The question comes
    first and is protected, as are all special tokens. A window that does not contain the answer has the type ``none``.
    """

    encoding_version: ClassVar[int] = 3  # rows have the positions of the evidence
    encoding_batch: ClassVar[int] = 4

    def __init__(
        self,
        *,
        max_length: int,
        max_question_length: int,
        stride: int | None,
        max_document_length: int | None = None,
        negatives: float | None = None,
        **settings: Any,
    ) -> None:
        """Check the configuration; nothing is read before ``setup``.

        Args:
            max_length: tokens per row, question and special tokens included.
            max_question_length: tokens of a question; longer ones are truncated and counted.
            stride: tokens between the starts of neighboring windows; None = whole documents, truncated at
                ``max_length``.
            max_document_length: tokens of a document that windows cover; the rest is cut off and counted, and answers
                in it count as not found. None = whole documents. Only with a stride.
            negatives: training windows without an answer per window with one, drawn per document; None = all. Only
                with a stride.
            settings: see ``BenchmarkData``.

        Raises:
            ConfigError: an argument is out of range.
        """
        super().__init__(max_length=max_length, **settings)
        self.windowing = Windowing(
            max_length=max_length,
            max_question_length=max_question_length,
            stride=stride,
            max_document_length=max_document_length,
        )
        require(negatives is None or negatives >= 0, "negatives", f"must be >= 0 or null, got {negatives}")
        message = f"needs windows, got {negatives} without a stride; set stride or leave it null"
        require(negatives is None or stride is not None, "negatives", message)
        self._negatives = negatives
        self.label_names = ANSWER_TYPES
        self._passages: dict[Split, list[Passage]] = {}
        self._tokens: dict[str, TokenizedText] = {}  # of evaluated texts, which every evaluation needs again

    def remarks(self) -> list[str]:
        """Return the changes made to the documents, for records."""
        most = self.windowing.max_document_length
        return [] if most is None else [f"the first {most} tokens of each"]

    def read(self, splits: Sequence[Split]) -> dict[Split, Dataset]:
        """Read the files or hub splits that the requested splits need, and check every question."""
        rows = super().read(splits)
        if "train" in rows:
            rows["train"] = passage_rows([replace(p, negatives=self._negatives) for p in passages_of(rows["train"])])
        return rows

    def answer_type(self, candidates: AnswerCandidates, no_answer_threshold: float | None = None) -> int:
        """Choose the type of an answer, an index into ``ANSWER_TYPES``; by default the most likely one.

        Args:
            candidates: of all windows of a question.
            no_answer_threshold: in place of that of the data set; None = that one.

        Raises:
            ConfigError: a threshold is given, but this data set has none.
        """
        message = "must be None: only SQuAD's format, with allow_no_answer, has such a threshold"
        require(no_answer_threshold is None, "no_answer_threshold", message)
        return candidates.answer_type

    @abstractmethod
    def format_answer(
        self, passage: Passage, tokens: TokenizedText, question: PassageQuestion, candidates: AnswerCandidates | None
    ) -> dict[str, Any]:
        """Convert the answer to a question into the format of the benchmark's evaluator (JSON values).

        Args:
            passage: passage of the question.
            tokens: tokens of the passage.
            question: the question.
            candidates: outputs of the head; None = there are none, no row has this question.
        """

    @abstractmethod
    def score(
        self, passages: Sequence[Passage], candidates: Mapping[tuple[int, int], AnswerCandidates]
    ) -> dict[str, float]:
        """Compute the benchmark's metrics.

        Args:
            passages: passages of the split.
            candidates: (index of the passage, index of its question) -> outputs of the head; a question may be missing.
        """

    def head(self) -> dict[str, Any]:
        """Return the arguments of the head: number of answer types, metrics and output format."""
        return {
            "num_types": len(ANSWER_TYPES),
            "metrics_fn": self.compute_metrics,
            "format_fn": self.format_predictions,
        }

    def count_truncated(self, encoded: EncodedSplit) -> tuple[int, int]:
        """Count the truncated passages of a split, and all of its passages."""
        by_passage: dict[int, bool] = {}
        for (passage, _), truncated in zip(encoded.rows["question"], encoded.rows["truncated"], strict=True):
            by_passage[passage] = by_passage.get(passage, False) or truncated
        return sum(by_passage.values()), len(by_passage)

    def length_limit(self) -> str:
        """Return the setting that limits the length of documents, for warnings."""
        is_whole = self.windowing.stride is None
        return super().length_limit() if is_whole else f"max_document_length={self.windowing.max_document_length}"

    def encoding_settings(self) -> tuple[object, ...]:
        """Return the windowing settings."""
        return (self.windowing,)

    def collator(self) -> Collate:
        """Return a collator that pads with the tokenizer's padding token."""
        return QuestionCollate(int(self.tokenizer.pad_token_id))

    def attach(self, tokenizer: Any) -> None:
        """Set the tokenizer; splits encoded with another one are discarded."""
        super().attach(tokenizer)
        self._passages, self._tokens = {}, {}

    def setup(self, stage: str) -> None:
        """Read and encode the splits of ``stage``, see ``RetentionData.setup``; warn where questions were truncated."""
        before = set(self._splits)
        super().setup(stage)
        for split in self._splits.keys() - before:
            count = self._counts(split)["questions_cut"]
            if count and self._rank_and_world_size()[0] == 0:
                limit = self.windowing.max_question_length
                message = "%s %s: %d questions are longer than max_question_length=%d tokens and were truncated"
                _log.warning(message, self.name, split, count, limit)

    def encode(self, documents: dict[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        """Return rows of all questions about some passages."""
        rows: list[dict[str, Any]] = []
        for text, fields, number in zip(documents["text"], documents["passage"], indices, strict=True):
            passage = Passage.from_row(text, fields)
            tokens = tokenize_text(self.tokenizer, text)
            new = [row for index in range(len(passage.questions)) for row in self._rows(passage, tokens, number, index)]
            rows += new if passage.negatives is None else _balanced(new, passage)
        return as_columns(rows)

    def compute_metrics(self, stage: Split, rows: Mapping[str, Sequence[Any]]) -> dict[str, float]:
        """Compute the metrics of the evaluated rows of a split.

        Args:
            stage: ``val`` or ``test``.
            rows: for each row ``question`` (two indices, see the batch), ``types`` (log-probabilities of the answer
                types) and ``spans`` (lists of first token, last token, log-probability given the type).
        """
        return self.score(self._passages_of(stage), merge_windows(rows))

    def format_predictions(self, stage: Split, rows: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
        """Convert the answer to each question of a split, see ``format_answer``, and add the ``document`` it is in.

        Arguments as ``compute_metrics``.
        """
        candidates, answers = merge_windows(rows), []
        for number, passage in enumerate(self._passages_of(stage)):
            tokens = self.tokens_of(passage)
            for index, question in enumerate(passage.questions):
                answer = self.format_answer(passage, tokens, question, candidates.get((number, index)))
                answers.append({**answer, "document": passage.id})
        return answers

    def example(self, index: int) -> str:
        """Return question and text of the test row with this number."""
        rows = self._split("test").rows
        if not 0 <= index < len(rows):
            raise DataError(f"{self.name}: test row {index} does not exist, there are {len(rows)} (0..{len(rows) - 1})")
        number, question = rows[index]["question"]
        document = self._documents["test"][number]
        passage = Passage.from_row(document["text"], document["passage"])
        return f"{passage.questions[question].text}\n\n{passage.text}"

    def describe(self) -> dict[str, Any]:
        """Describe the rows, see ``RetentionData.describe``; ``train``, ``val`` and ``test`` count passages.

        ``questions``, ``questions_cut`` and ``windows`` are counted separately.
        """
        described = super().describe()
        counts = {role: self._counts(role) if role in self._splits else None for role in SPLITS}
        described |= {role: count and count["passages"] for role, count in counts.items()}
        for name in ("questions", "questions_cut", "windows"):
            described[name] = {role: count and count[name] for role, count in counts.items()}
        return described

    def tokens_of(self, passage: Passage) -> TokenizedText:
        """Return the tokens of a passage; spans of the head are indices into them."""
        if passage.text not in self._tokens:
            self._tokens[passage.text] = tokenize_text(self.tokenizer, passage.text)
        return self._tokens[passage.text]

    def _passages_of(self, split: Split) -> list[Passage]:
        if split not in self._passages:
            self._passages[split] = passages_of(self._documents[split])
        return self._passages[split]

    def _rows(self, passage: Passage, tokens: TokenizedText, number: int, index: int) -> list[dict[str, Any]]:
        question = passage.questions[index]
        template = question_template(self.tokenizer, question.text, self.windowing.max_question_length)
        windows = self.windowing.cut(len(tokens.ids), template)
        spans = [span for characters in question.spans if (span := tokens.tokens(characters)) is not None]
        evidence = [span for characters in question.evidence_spans if (span := tokens.tokens(characters)) is not None]
        rows = []
        for start, end in windows.ranges:
            row = window_row(template, tokens, (start, end))
            inside = [[a - row["shift"], b - 1 - row["shift"]] for a, b in spans if start <= a and b <= end]
            has_evidence = any(a < end and start < b for a, b in evidence)
            row["answer_type"] = self._type(question, bool(spans), bool(inside), has_evidence or not evidence)
            row["spans"] = inside if inside and row["answer_type"] == SPAN else [[-1, -1]]
            row["evidence"] = [
                [max(a, start) - row["shift"], min(b, end) - 1 - row["shift"]]
                for a, b in evidence
                if a < end and start < b
            ] or [[-1, -1]]
            row["question"] = [number, index]
            row["truncated"] = windows.truncated
            rows.append(row)
        return rows

    def _type(self, question: PassageQuestion, located: bool, inside: bool, has_evidence: bool) -> int:
        """Return the answer type of one row: that of the question, but ``none`` where the answer is not in the window.

        Args:
            question: the question.
            located: True if a span of its answer was located in the text.
            inside: True if one of them is in the row.
            has_evidence: True if the row contains a part of the evidence, or the evidence is unknown.
        """
        if self.windowing.stride is None or question.answer_type == NONE:
            return question.answer_type
        if question.answer_type == SPAN and located:
            return SPAN if inside else NONE
        if question.answer_type == SPAN and not question.evidence_spans:
            return UNKNOWN_TYPE
        return question.answer_type if has_evidence else NONE

    def _counts(self, role: Split) -> dict[str, int]:
        rows = self._split(role).rows
        truncated: dict[tuple[int, int], bool] = {}
        for (passage, index), is_truncated in zip(rows["question"], rows["question_cut"], strict=True):
            truncated[passage, index] = is_truncated
        passages = len({passage for passage, _ in truncated})
        counts = {"questions": len(truncated), "questions_cut": sum(truncated.values()), "windows": len(rows)}
        return {"passages": passages, **counts}


def _balanced(rows: list[dict[str, Any]], passage: Passage) -> list[dict[str, Any]]:
    """Keep all rows with an answer and ``negatives`` times as many without, drawn by the passage's id; at least one."""
    empty = [index for index, row in enumerate(rows) if row["answer_type"] == NONE]
    count = round((passage.negatives or 0.0) * (len(rows) - len(empty)))
    count = min(len(empty), max(count, 0 if len(empty) < len(rows) else 1))
    drawn = set(np.random.default_rng(zlib.crc32(passage.id.encode())).permutation(empty)[:count].tolist())
    return [row for index, row in enumerate(rows) if row["answer_type"] != NONE or index in drawn]
