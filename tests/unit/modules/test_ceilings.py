"""A head that makes no mistake reaches the ceiling of each benchmark: files, rows, Lightning's test loop, metrics."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from torch import Tensor
from transformers import BertModel, PreTrainedTokenizerFast

from retention.data.base import RetentionData
from retention.engine.adapters import adapter_for
from retention.policies import Dense
from retention.tasks.classification.cuad_clauses import CuadClauseData
from retention.tasks.classification.keywords import KeywordData
from retention.tasks.classification.multilabel_head import MultiLabelModule
from retention.tasks.question_answering.best_span import TextWords
from retention.tasks.question_answering.cuad_spans import CuadSpanData
from retention.tasks.question_answering.head import QuestionAnsweringModule
from retention.tasks.question_answering.passages import SPAN, Passage, Question
from retention.tasks.question_answering.qasper import QasperData
from retention.tasks.summarization.data import SummarizationData
from retention.tasks.summarization.extractive_head import ExtractiveSummarizationModule
from retention.training.distillation import Distillation
from retention.training.module import RetentionModule
from retention.training.optimization import AdamWSettings
from retention.training.phases import Phases
from retention.training.settings import TrainingSettings

Answers = Callable[[dict[str, Any]], Tensor]
Test = Callable[..., dict[str, float]]
SURE = 60.0
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


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return KeywordData.build_tokenizer()


@pytest.fixture
def tested(encoder: Callable[..., BertModel], tokenizer: PreTrainedTokenizerFast, trainer_with: Any) -> Test:
    """``tested(module_type, data, answers)``: the metrics of a module whose logits are ``answers(batch)``."""

    def run(module_type: type[RetentionModule], data: RetentionData, answers: Answers, **head: Any) -> dict[str, float]:
        class Perfect(module_type):  # type: ignore[valid-type, misc]
            def forward(self, batch: dict[str, Any]) -> Tensor:
                super().forward(batch)
                return answers(batch)

        data.attach(tokenizer)
        data.setup("test")
        model = encoder(vocab_size=len(tokenizer), max_position_embeddings=128)
        policy = Dense()
        policy.build(adapter_for("bert").shape(model.config))
        training = TrainingSettings(AdamWSettings(lr=1e-3), Phases(), Distillation())
        shared = {"encoder": model, "policy": policy, "training": training, "dropped": "forward", "config": {}}
        module = Perfect(**shared, **data.head(), **head)
        [metrics] = trainer_with().test(module, datamodule=data, verbose=False)
        return {name.removeprefix("test/"): value for name, value in metrics.items()}

    return run


def spans_at(batch: dict[str, Any], row: int, places: list[list[int]], answer_type: int) -> Tensor:
    """Logits [T, 4 + 2] of one row that are sure of a type and of where answers begin and end."""
    width = batch["input_ids"].shape[1]
    logits = torch.full((width, 6), -SURE)
    logits[:, answer_type] = SURE
    for begin, end in places:
        logits[begin, 4] = logits[end, 5] = SURE
    first, behind = batch["context"][row].tolist()
    logits[:first, 4:] = logits[behind:, 4:] = -1e4  # as the head closes what is no text
    return logits


def targets_of(batch: dict[str, Any]) -> Tensor:
    """A head that has learnt its targets by heart."""
    rows = range(len(batch["labels"]))
    places = [[span for span in row if span[0] >= 0] for row in batch["spans"].tolist()]
    return torch.stack([spans_at(batch, row, places[row], int(batch["labels"][row])) for row in rows])


def first_words(batch: dict[str, Any]) -> Tensor:
    """A head that is sure of the first word of every text."""
    begins = batch["context"][:, 0].tolist()
    return torch.stack([spans_at(batch, row, [[place, place]], SPAN) for row, place in enumerate(begins)])


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
    "": ("", {}),
}


def test_contracts(tested: Test, tmp_path: Path) -> None:
    contracts = {title: found for title, found in CONTRACTS.items() if title}
    write_contracts(tmp_path, {**contracts, "empty": ("", {"Parties": [], "Fee": []})})
    lengths = {"max_length": 24, "max_question_length": 6, "stride": 8}
    data = CuadSpanData(**SETTINGS, **lengths, dir=str(tmp_path))
    scores = tested(QuestionAnsweringModule, data, targets_of)
    assert scores["aupr"] == pytest.approx(1.0) and scores["recall_ceiling"] == 1.0
    assert scores["precision_at_80_recall"] == scores["precision_at_90_recall"] == 1.0
    assert scores["count_clauses"] == 4
    wrong = tested(QuestionAnsweringModule, data, first_words)
    assert wrong["aupr"] < 0.5


def test_clauses(tested: Test, tmp_path: Path) -> None:
    write_contracts(tmp_path, {title: found for title, found in CONTRACTS.items() if title})
    names = ["Parties", "Fee", "Term"]
    data = CuadClauseData(**SETTINGS, max_length=16, label_names=names, dir=str(tmp_path))
    scores = tested(MultiLabelModule, data, lambda batch: (2.0 * batch["labels"] - 1.0) * SURE)
    assert (scores["micro_f1"], scores["macro_f1"]) == (1.0, 1.0)


def answer(**changes: Any) -> dict[str, Any]:
    empty = {"unanswerable": False, "extractive_spans": [], "yes_no": None, "free_form_answer": "", "evidence": []}
    return {"answer": empty | changes, "annotation_id": "a"}


FACT = "the king of the ship and the music from the river"
PAPER = ["the horse in the rain " * 4, FACT, "", "stone and wood by the road " * 3]


def write_papers(folder: Path, *questions: list[dict[str, Any]]) -> None:
    asked = [
        {"question": "which " * 30 if n == 0 else "which of", "question_id": f"{n}", "answers": answers}
        for n, answers in enumerate(questions)
    ]
    sections = [{"section_name": "Horse", "paragraphs": PAPER}, {"section_name": None, "paragraphs": []}]
    paper = {"title": "", "abstract": "sky", "full_text": sections, "qas": asked}
    strip_pooler = {
        "title": "",
        "abstract": "",
        "full_text": [],
        "qas": [{**asked[0], "answers": [answer(yes_no=False)]}],
    }
    (folder / "test.json").write_text(json.dumps({"p": paper, "without text": strip_pooler}))


class BestPieces:
    """A head that knows the answers and points at the pieces of the text that come closest to them."""

    def __init__(self, data: QasperData) -> None:
        self.data = data

    def __call__(self, batch: dict[str, Any]) -> Tensor:
        passages = [Passage.from_row(row["text"], row["passage"]) for row in self.data._documents["test"]]
        rows = []
        for row, (number, place) in enumerate(batch["question"].tolist()):
            passage = passages[number]
            rows.append(self._row(batch, row, passage, passage.questions[place]))
        return torch.stack(rows)

    def _row(self, batch: dict[str, Any], row: int, passage: Passage, question: Question) -> Tensor:
        kinds = [reference["kind"] for reference in question.references]
        if "boolean" in kinds or "unanswerable" in kinds:
            return spans_at(batch, row, [], question.answer_type)
        words = TextWords(passage.text)
        found = max(filter(None, (words.best(r["text"]) for r in question.references)), key=lambda match: match.f1)
        tokens = self.data.tokens_of(passage).tokens((found.start, found.end))
        assert tokens is not None
        first, last = (place - int(batch["shift"][row]) for place in (tokens[0], tokens[1] - 1))
        begin, behind = batch["context"][row].tolist()
        if begin <= first and last < behind:
            return spans_at(batch, row, [[first, last]], SPAN)
        return spans_at(batch, row, [], 3)


@pytest.mark.parametrize("windows", [{"max_length": 96, "stride": None}, {"max_length": 32, "stride": 8}])
def test_papers(windows: dict[str, Any], tested: Test, tmp_path: Path) -> None:
    write_papers(
        tmp_path,
        [answer(extractive_spans=["king of the ship"], evidence=[FACT])],
        [answer(extractive_spans=["king of the ship", "music from the river"], evidence=[FACT])],
        [answer(free_form_answer="a glass king and the ship")],
        [answer(yes_no=True, evidence=[FACT])],
        [answer(unanswerable=True)],
    )
    data = QasperData(**SETTINGS, **windows, max_question_length=8, dir=str(tmp_path))
    scores = tested(QuestionAnsweringModule, data, BestPieces(data))
    assert scores["answer_f1"] == pytest.approx(scores["oracle_f1"])
    assert 0.85 < scores["oracle_f1"] < 1.0, "free text and several spans are not within reach of one span"
    assert scores["f1_boolean"] == scores["f1_unanswerable"] == 1.0
    learnt = tested(QuestionAnsweringModule, data, targets_of)
    assert 0.8 < learnt["answer_f1"] <= learnt["oracle_f1"], "the training targets lead there"
    assert learnt["span_survival"] == 1.0


def test_papers_without_an_answer(tested: Test, tmp_path: Path) -> None:
    write_papers(tmp_path, [answer(unanswerable=True)], [answer(unanswerable=True)])
    data = QasperData(**SETTINGS, max_length=32, stride=8, max_question_length=8, dir=str(tmp_path))
    scores = tested(QuestionAnsweringModule, data, targets_of)
    assert scores["answer_f1"] == scores["oracle_f1"] == 1.0 and "span_survival" not in scores
    never = tested(QuestionAnsweringModule, data, first_words)
    assert never["answer_f1"] == 0.0


def test_articles(tested: Test, tmp_path: Path) -> None:
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
    scores = tested(ExtractiveSummarizationModule, data, lambda batch: batch["targets"] * SURE, sentences=2)
    for name in ("rouge1", "rouge2", "rougeLsum"):
        assert scores[name] == pytest.approx(scores[f"oracle_{name}"]) and scores[name] > scores[f"lead_{name}"]
    worst = tested(ExtractiveSummarizationModule, data, lambda batch: -batch["targets"], sentences=2)
    assert worst["rouge1"] < scores["rouge1"]
