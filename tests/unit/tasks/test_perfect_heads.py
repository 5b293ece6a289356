"""Tests that perfect logits reach the ceiling of each benchmark: files, rows, Lightning's test loop, metrics."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from retention.data.answer_text import SpanMatcher
from retention.data.base import RetentionData
from retention.models.encoded import Encoded
from retention.models.head import Head
from retention.policies import Dense
from retention.tasks.classification.cuad_clauses import CuadClauseData
from retention.tasks.classification.multilabel_head import MultiLabelHead
from retention.tasks.question_answering.cuad_spans import CuadSpanData
from retention.tasks.question_answering.head import QuestionAnsweringHead
from retention.tasks.question_answering.passages import SPAN, Passage, PassageQuestion
from retention.tasks.question_answering.qasper import QasperData
from retention.tasks.summarization.data import SummarizationData
from retention.tasks.summarization.extractive_head import ExtractiveSummarizationHead

LogitsFn = Callable[[dict[str, Any]], Tensor]
Evaluate = Callable[..., dict[str, float]]
HIGH = 60.0  # a logit whose probability is 1
WORDS = (
    *("the", "of", "in", "and", "to", "at", "by", "from", "horse", "ship", "music", "food", "sky", "rain", "stone"),
    *("wood", "paper", "glass", "river", "road", "king", "star"),
)
SETTINGS: dict[str, Any] = {
    "name": "made_up",
    "source_note": "made up",
    "hub": None,
    "splits": {"train": "train", "val": None, "test": "test"},
    "train_size": None,
    "val_size": 1,
    "test_size": None,
    "batch_size": 4,
    "eval_batch_size": 3,
    "seed": 0,
}


@pytest.fixture
def evaluate(make_module: Any, tiny_bert: Any, tokenizer: PreTrainedTokenizerFast, trainer_with: Any) -> Evaluate:
    """``evaluate(head_type, data, logits_fn)``: the test metrics of a model whose logits are ``logits_fn(batch)``."""

    def run(head_type: type[Head], data: RetentionData, logits_fn: LogitsFn, **settings: Any) -> dict[str, float]:
        class PerfectHead(head_type):  # type: ignore[valid-type, misc]
            def logits(self, encoded: Encoded, batch: dict[str, Any]) -> Tensor:
                super().logits(encoded, batch)
                return logits_fn(batch)

        data.attach(tokenizer)
        data.setup("test")
        loaded = tiny_bert(vocab_size=len(tokenizer), max_position_embeddings=128)
        settings = {**data.head(), **settings}
        module = make_module(Dense(), head_type=PerfectHead, loaded=loaded, dropped="forward", **settings)
        [metrics] = trainer_with().test(module, datamodule=data, verbose=False)
        return {name.removeprefix("test/"): value for name, value in metrics.items()}

    return run


def span_logits(batch: dict[str, Any], row: int, spans: list[list[int]], answer_type: int) -> Tensor:
    """Return the logits [T, 4 + 2] of one row that predict an answer type and spans (first and last token)."""
    logits = torch.full((batch["input_ids"].shape[1], 6), -HIGH)
    logits[:, answer_type] = HIGH
    for first, last in spans:
        logits[first, 4] = logits[last, 5] = HIGH
    start, end = batch["context"][row].tolist()
    logits[:start, 4:] = logits[end:, 4:] = -1e4  # as the head closes positions outside the text
    return logits


def target_logits(batch: dict[str, Any]) -> Tensor:
    """Return logits that predict the training targets."""
    spans = [[span for span in row if span[0] >= 0] for row in batch["spans"].tolist()]
    types = batch["labels"].tolist()
    return torch.stack([span_logits(batch, row, spans[row], types[row]) for row in range(len(types))])


def first_token_logits(batch: dict[str, Any]) -> Tensor:
    """Return logits that predict the first token of every text."""
    starts = batch["context"][:, 0].tolist()
    return torch.stack([span_logits(batch, row, [[start, start]], SPAN) for row, start in enumerate(starts)])


def write_contracts(folder: Path, contracts: dict[str, tuple[str, dict[str, list[str]]]]) -> None:
    data = [
        {
            "title": title,
            "paragraphs": [
                {
                    "context": text,
                    "qas": [
                        {
                            "id": f"{title}__{kind}",
                            "question": f"which {kind}",
                            "answers": [{"text": clause, "answer_start": text.index(clause)} for clause in clauses],
                        }
                        for kind, clauses in kinds.items()
                    ],
                }
            ],
        }
        for title, (text, kinds) in contracts.items()
    ]
    (folder / "test.json").write_text(json.dumps({"data": data}))


CONTRACTS: dict[str, tuple[str, dict[str, list[str]]]] = {
    "one": (
        "the horse of the king and " + "the rain in the sky and " * 8 + "the music at the river road",
        {"Parties": ["horse of the king", "music at the river"], "Fee": ["river road"], "Term": []},
    ),
    "none": ("paper and glass", {"Parties": [], "Fee": []}),
    "odd": ("horse \u0000 \u2028 \U0001f40e star king", {"Parties": ["star king"]}),
}


def test_cuad_spans(evaluate: Evaluate, tmp_path: Path) -> None:
    write_contracts(tmp_path, {**CONTRACTS, "empty": ("", {"Parties": [], "Fee": []})})
    lengths = {"max_length": 24, "max_question_length": 6, "stride": 8}
    data = CuadSpanData(**SETTINGS, **lengths, dir=str(tmp_path))
    metrics = evaluate(QuestionAnsweringHead, data, target_logits)
    assert metrics["aupr"] == pytest.approx(1.0) and metrics["recall_ceiling"] == 1.0
    assert metrics["precision_at_80_recall"] == metrics["precision_at_90_recall"] == 1.0
    assert metrics["count_clauses"] == 4
    wrong = evaluate(QuestionAnsweringHead, data, first_token_logits)
    assert wrong["aupr"] < 0.5


def test_cuad_clauses(evaluate: Evaluate, tmp_path: Path) -> None:
    write_contracts(tmp_path, CONTRACTS)
    names = ["Parties", "Fee", "Term"]
    data = CuadClauseData(**SETTINGS, max_length=16, label_names=names, dir=str(tmp_path))
    metrics = evaluate(MultiLabelHead, data, lambda batch: (2.0 * batch["labels"] - 1.0) * HIGH)
    assert (metrics["micro_f1"], metrics["macro_f1"]) == (1.0, 1.0)


def qasper_answer(**changes: Any) -> dict[str, Any]:
    empty = {"unanswerable": False, "extractive_spans": [], "yes_no": None, "free_form_answer": "", "evidence": []}
    return {"answer": empty | changes, "annotation_id": "a"}


EVIDENCE = "the king of the ship and the music from the river"
PARAGRAPHS = ["the horse in the rain " * 4, EVIDENCE, "", "stone and wood by the road " * 3]


def write_papers(folder: Path, *answers: list[dict[str, Any]]) -> None:
    """Write a paper with one question per list of answers, and a paper without text."""
    questions = [
        {"question": "which " * 30 if n == 0 else "which of", "question_id": f"{n}", "answers": each}
        for n, each in enumerate(answers)
    ]
    sections = [{"section_name": "Horse", "paragraphs": PARAGRAPHS}, {"section_name": None, "paragraphs": []}]
    paper = {"title": "", "abstract": "sky", "full_text": sections, "qas": questions}
    unanswered = [{**questions[0], "answers": [qasper_answer(yes_no=False)]}]
    empty = {"title": "", "abstract": "", "full_text": [], "qas": unanswered}
    (folder / "test.json").write_text(json.dumps({"p": paper, "without text": empty}))


class BestSpanLogits:
    """Logits that predict the spans of the text that are closest to the reference answers."""

    def __init__(self, data: QasperData) -> None:
        self.data = data

    def __call__(self, batch: dict[str, Any]) -> Tensor:
        passages = [Passage.from_row(row["text"], row["passage"]) for row in self.data._documents["test"]]
        rows = []
        for row, (passage, question) in enumerate(batch["question"].tolist()):
            rows.append(self._row(batch, row, passages[passage], passages[passage].questions[question]))
        return torch.stack(rows)

    def _row(self, batch: dict[str, Any], row: int, passage: Passage, question: PassageQuestion) -> Tensor:
        kinds = [reference["kind"] for reference in question.references]
        if "boolean" in kinds or "unanswerable" in kinds:
            return span_logits(batch, row, [], question.answer_type)
        matcher = SpanMatcher(passage.text)
        matches = filter(None, (matcher.best(reference["text"]) for reference in question.references))
        best = max(matches, key=lambda match: match.f1)
        tokens = self.data.tokens_of(passage).tokens((best.start, best.end))
        assert tokens is not None
        first, last = (token - int(batch["shift"][row]) for token in (tokens[0], tokens[1] - 1))
        start, end = batch["context"][row].tolist()
        if start <= first and last < end:
            return span_logits(batch, row, [[first, last]], SPAN)
        return span_logits(batch, row, [], 3)


@pytest.mark.parametrize("windows", [{"max_length": 96, "stride": None}, {"max_length": 32, "stride": 8}])
def test_qasper(windows: dict[str, Any], evaluate: Evaluate, tmp_path: Path) -> None:
    write_papers(
        tmp_path,
        [qasper_answer(extractive_spans=["king of the ship"], evidence=[EVIDENCE])],
        [qasper_answer(extractive_spans=["king of the ship", "music from the river"], evidence=[EVIDENCE])],
        [qasper_answer(free_form_answer="a glass king and the ship")],
        [qasper_answer(yes_no=True, evidence=[EVIDENCE])],
        [qasper_answer(unanswerable=True)],
    )
    data = QasperData(**SETTINGS, **windows, max_question_length=8, dir=str(tmp_path))
    metrics = evaluate(QuestionAnsweringHead, data, BestSpanLogits(data))
    assert metrics["answer_f1"] == pytest.approx(metrics["oracle_f1"])
    assert 0.85 < metrics["oracle_f1"] < 1.0, "one span cannot equal free text and several spans"
    assert metrics["f1_boolean"] == metrics["f1_unanswerable"] == 1.0
    targets = evaluate(QuestionAnsweringHead, data, target_logits)
    assert 0.8 < targets["answer_f1"] <= targets["oracle_f1"], "the training targets are close to the ceiling"
    assert targets["span_survival"] == 1.0


def test_qasper_without_answers(evaluate: Evaluate, tmp_path: Path) -> None:
    write_papers(tmp_path, [qasper_answer(unanswerable=True)], [qasper_answer(unanswerable=True)])
    data = QasperData(**SETTINGS, max_length=32, stride=8, max_question_length=8, dir=str(tmp_path))
    metrics = evaluate(QuestionAnsweringHead, data, target_logits)
    assert metrics["answer_f1"] == metrics["oracle_f1"] == 1.0 and "span_survival" not in metrics
    wrong = evaluate(QuestionAnsweringHead, data, first_token_logits)
    assert wrong["answer_f1"] == 0.0


def test_extractive_summarization(evaluate: Evaluate, tmp_path: Path) -> None:
    """Each abstract is two sentences of its article, so that the oracle takes two, as the summary does."""
    sentences = [f"the {a} and the {b} in the {c}." for a, b, c in zip(WORDS[8:], WORDS[9:], WORDS[10:], strict=False)]
    rows = [
        {"article": " ".join(sentences[start:]), "abstract": " ".join(sentences[start + 1 :: 3][:2])}
        for start in range(6)
    ]
    rows.append({"article": "one king.", "abstract": "a much longer abstract than the article of the king of it all."})
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    columns = {"article_column": "article", "abstract_column": "abstract"}
    data = SummarizationData(**SETTINGS, **columns, max_length=64, oracle_limit=2, dir=str(tmp_path))
    metrics = evaluate(ExtractiveSummarizationHead, data, lambda batch: batch["targets"] * HIGH, sentences=2)
    for name in ("rouge1", "rouge2", "rougeLsum"):
        assert metrics[name] == pytest.approx(metrics[f"oracle_{name}"]) and metrics[name] > metrics[f"lead_{name}"]
    worst = evaluate(ExtractiveSummarizationHead, data, lambda batch: -batch["targets"], sentences=2)
    assert worst["rouge1"] < metrics["rouge1"]
