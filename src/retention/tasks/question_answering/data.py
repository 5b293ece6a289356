"""What the data modules of question answering share: rows, batches, and grading what the head found."""

from __future__ import annotations

import logging
import zlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset

from retention.data.base import ROLES
from retention.data.batching import Batch, Row, pad_inputs, whole_numbers
from retention.data.benchmark import BenchmarkData
from retention.data.encoded_split import EncodedSplit
from retention.data.loading import Collate
from retention.data.splits import Split
from retention.errors import Checks, DataError
from retention.records.columns import as_columns
from retention.tasks.question_answering.answer_candidates import AnswerCandidates, merge_windows
from retention.tasks.question_answering.passages import (
    ANSWER_TYPES,
    NONE,
    SPAN,
    Passage,
    Question,
    passage_rows,
    passages_of,
)
from retention.tasks.question_answering.windows import (
    TokenizedText,
    Windowing,
    frame_row,
    question_frame,
    tokenize_text,
)

_log = logging.getLogger(__name__)

UNKNOWN_TYPE = -100  # what the cross-entropy leaves out


@dataclass(frozen=True)
class QuestionCollate:
    """Pads rows of questions.

    Adds, all long but the mask: ``labels`` [B] answer type, -100 = unknown; ``spans`` [B, K, 2] places of the answers
    in the row (first, last), -1 = none; ``context`` [B, 2] places of the text (first, behind the last); ``shift`` [B]
    place + shift = token of the text; ``question`` [B, 2] numbers of the passage in its split and of the question in
    the passage; ``index`` [B]; ``global_mask`` [B, T] bool, True on the first token and the question, for encoders
    with global attention.
    """

    pad_token_id: int

    def __call__(self, rows: Sequence[Row]) -> Batch:
        """Make one batch."""
        batch = pad_inputs(rows, self.pad_token_id)
        for name, column in (("labels", "answer_type"), ("shift", "shift"), ("index", "index")):
            batch[name] = whole_numbers(rows, column)
        for name in ("context", "question"):
            batch[name] = torch.tensor([row[name] for row in rows], dtype=torch.long)
        most = max(len(row["spans"]) for row in rows)
        spans = [[*row["spans"], *[[-1, -1]] * (most - len(row["spans"]))] for row in rows]
        batch["spans"] = torch.tensor(spans, dtype=torch.long)
        places = torch.arange(batch["input_ids"].shape[1])
        batch["global_mask"] = places < batch["context"][:, :1]
        return batch


class QuestionAnsweringData(BenchmarkData):
    """Base: a benchmark says how passages are read (``load``) and graded (``grade``).

    ``load`` gives rows made by ``passage_rows``. A passage gives one row per question and window. The question comes
    first and is protected, as are all special tokens. A window that does not hold the answer has the type ``none``.
    """

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
            max_length: tokens per row, question and special ones included.
            max_question_length: tokens of a question; longer ones are cut and counted.
            stride: tokens between the starts of neighbouring windows; None = documents whole, cut at ``max_length``.
            max_document_length: tokens of a document that windows cover; the rest is cut and counted, and what was to
                be found there counts as not found. None = whole documents. Only with a stride.
            negatives: training windows without an answer per window with one, drawn per document; None = all. Only
                with a stride.
            settings: see ``BenchmarkData``.

        Raises:
            ConfigError: everything wrong with the arguments.
        """
        self.windowing = Windowing(
            max_length=max_length,
            max_question_length=max_question_length,
            stride=stride,
            max_document_length=max_document_length,
        )
        self._negatives = negatives
        super().__init__(max_length=max_length, **settings)
        self.label_names = ANSWER_TYPES
        self._passages: dict[Split, list[Passage]] = {}
        self._tokens: dict[str, TokenizedText] = {}  # of the texts that were judged, which each evaluation asks for

    def check(self, checks: Checks) -> None:
        super().check(checks)
        negatives = self._negatives
        if checks.require(negatives is None or negatives >= 0, "negatives", f"must be >= 0 or null, got {negatives}"):
            message = f"goes with windows, got {negatives} without a stride; set stride or leave it null"
            checks.require(negatives is None or self.windowing.stride is not None, "negatives", message)
        self.windowing.check(checks)

    def remarks(self) -> list[str]:
        most = self.windowing.max_document_length
        return [] if most is None else [f"the first {most} tokens of each"]

    def read(self, wanted: Sequence[Split]) -> dict[Split, Dataset]:
        """Read the files or hub splits that ``wanted`` needs and check every question of them."""
        found = super().read(wanted)
        if "train" in found:
            found["train"] = passage_rows([replace(p, negatives=self._negatives) for p in passages_of(found["train"])])
        return found

    @abstractmethod
    def answer(
        self, passage: Passage, tokens: TokenizedText, question: Question, found: AnswerCandidates | None
    ) -> dict[str, Any]:
        """What the head says to a question, in words, as the benchmark's evaluator reads it (values that JSON knows).

        Args:
            passage: what the question is about.
            tokens: of the passage.
            question: the question.
            found: what the head says; None = nothing, no row asked this question.
        """

    @abstractmethod
    def grade(self, passages: Sequence[Passage], found: Mapping[tuple[int, int], AnswerCandidates]) -> dict[str, float]:
        """The benchmark's metrics.

        Args:
            passages: of the split.
            found: (number of the passage, number of its question) -> what the head says; a question may be missing.
        """

    def head(self) -> dict[str, Any]:
        return {"num_types": len(ANSWER_TYPES), "judge": self.judge, "speller": self.spell}

    def count_cut(self, encoded: EncodedSplit) -> tuple[int, int]:
        cut: dict[int, bool] = {}
        for (passage, _), truncated in zip(encoded.rows["question"], encoded.rows["truncated"], strict=True):
            cut[passage] = cut.get(passage, False) or truncated
        return sum(cut.values()), len(cut)

    def length_limit(self) -> str:
        whole = self.windowing.stride is None
        return super().length_limit() if whole else f"max_document_length={self.windowing.max_document_length}"

    def encoding_settings(self) -> tuple[object, ...]:
        return (self.windowing,)

    def collator(self) -> Collate:
        """Pad with the tokenizer's padding token."""
        return QuestionCollate(int(self.tokenizer.pad_token_id))

    def attach(self, tokenizer: Any) -> None:
        super().attach(tokenizer)
        self._passages, self._tokens = {}, {}

    def setup(self, stage: str) -> None:
        """See ``RetentionData.setup``; warns where questions were cut."""
        before = set(self._splits)
        super().setup(stage)
        for split in self._splits.keys() - before:
            cut = self._counts(split)["questions_cut"]
            if cut and self._place()[0] == 0:
                limit = self.windowing.max_question_length
                message = "%s %s: %d questions are longer than max_question_length=%d tokens and were cut"
                _log.warning(message, self.name, split, cut, limit)

    def encode(self, documents: dict[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        """Rows of all questions about some passages."""
        rows: list[dict[str, Any]] = []
        for text, fields, number in zip(documents["text"], documents["passage"], indices, strict=True):
            passage = Passage.from_row(text, fields)
            tokens = tokenize_text(self.tokenizer, text)
            own = [row for place in range(len(passage.questions)) for row in self._rows(passage, tokens, number, place)]
            rows += own if passage.negatives is None else _balanced(own, passage)
        return as_columns(rows)

    def judge(self, stage: Split, rows: Mapping[str, Sequence[Any]]) -> dict[str, float]:
        """Metrics of the evaluated rows of a split.

        Args:
            stage: ``val`` or ``test``.
            rows: ``question`` (two numbers, see the batch), ``types`` (log-probabilities of the answer types) and
                ``spans`` (lists of first token, last token, log-probability given the type) of each row.
        """
        return self.grade(self._passages_of(stage), merge_windows(rows))

    def spell(self, stage: Split, rows: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
        """What is said to each question of a split, see ``answer``; arguments as for ``judge``."""
        found, said = merge_windows(rows), []
        for number, passage in enumerate(self._passages_of(stage)):
            tokens = self.tokens_of(passage)
            for place, question in enumerate(passage.questions):
                said.append(self.answer(passage, tokens, question, found.get((number, place))))
        return said

    def example(self, index: int) -> str:
        """Question and text of the test row with this number."""
        rows = self._split("test").rows
        if not 0 <= index < len(rows):
            raise DataError(f"{self.name}: test row {index} does not exist, there are {len(rows)} (0..{len(rows) - 1})")
        passage, place = rows[index]["question"]
        document = self._documents["test"][passage]
        found = Passage.from_row(document["text"], document["passage"])
        return f"{found.questions[place].text}\n\n{found.text}"

    def describe(self) -> dict[str, Any]:
        """See ``RetentionData.describe``; ``train``, ``val`` and ``test`` count passages.

        ``questions``, ``questions_cut`` and ``windows`` count apart.
        """
        described = super().describe()
        counts = {role: self._counts(role) if role in self._splits else None for role in ROLES}
        described |= {role: count and count["passages"] for role, count in counts.items()}
        for name in ("questions", "questions_cut", "windows"):
            described[name] = {role: count and count[name] for role, count in counts.items()}
        return described

    def tokens_of(self, passage: Passage) -> TokenizedText:
        """The tokens that the places of found spans count."""
        if passage.text not in self._tokens:
            self._tokens[passage.text] = tokenize_text(self.tokenizer, passage.text)
        return self._tokens[passage.text]

    def _passages_of(self, split: Split) -> list[Passage]:
        if split not in self._passages:
            self._passages[split] = passages_of(self._documents[split])
        return self._passages[split]

    def _rows(self, passage: Passage, tokens: TokenizedText, number: int, place: int) -> list[dict[str, Any]]:
        question = passage.questions[place]
        frame = question_frame(self.tokenizer, question.text, self.windowing.max_question_length)
        windows = self.windowing.cut(len(tokens.ids), frame)
        spans = [found for characters in question.spans if (found := tokens.tokens(characters)) is not None]
        places = [found for characters in question.places if (found := tokens.tokens(characters)) is not None]
        rows = []
        for first, behind in windows.ranges:
            row = frame_row(frame, tokens, (first, behind))
            inside = [[a - row["shift"], b - 1 - row["shift"]] for a, b in spans if first <= a and b <= behind]
            near = any(a < behind and first < b for a, b in places)
            row["answer_type"] = self._type(question, bool(spans), bool(inside), near or not places)
            row["spans"] = inside if inside and row["answer_type"] == SPAN else [[-1, -1]]
            row["question"] = [number, place]
            row["truncated"] = windows.truncated
            rows.append(row)
        return rows

    def _type(self, question: Question, located: bool, inside: bool, near: bool) -> int:
        """The answer type of one row: that of the question, but ``none`` where a window does not hold the answer.

        Args:
            question: the question.
            located: whether any place of its answer in the text is known.
            inside: whether one of them is in the row.
            near: whether the row has a part of the evidence, or nobody knows the evidence.
        """
        if self.windowing.stride is None or question.answer_type == NONE:
            return question.answer_type
        if question.answer_type == SPAN and located:
            return SPAN if inside else NONE
        if question.answer_type == SPAN and not question.places:
            return UNKNOWN_TYPE
        return question.answer_type if near else NONE

    def _counts(self, role: Split) -> dict[str, int]:
        rows = self._split(role).rows
        cut: dict[tuple[int, int], bool] = {}
        for (passage, place), longer in zip(rows["question"], rows["question_cut"], strict=True):
            cut[passage, place] = longer
        passages = len({passage for passage, _ in cut})
        counts = {"questions": len(cut), "questions_cut": sum(cut.values()), "windows": len(rows)}
        return {"passages": passages, **counts}


def _balanced(rows: list[dict[str, Any]], passage: Passage) -> list[dict[str, Any]]:
    """All rows with an answer and, drawn by the passage's id, ``negatives`` times as many without; at least one."""
    empty = [place for place, row in enumerate(rows) if row["answer_type"] == NONE]
    wanted = round((passage.negatives or 0.0) * (len(rows) - len(empty)))
    wanted = min(len(empty), max(wanted, 0 if len(empty) < len(rows) else 1))
    drawn = np.random.default_rng(zlib.crc32(passage.id.encode())).permutation(empty)[:wanted]
    return [row for place, row in enumerate(rows) if row["answer_type"] != NONE or place in set(drawn.tolist())]
