"""Small question answering files, written by the tests, and data modules that read them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from retention.tasks.question_answering.cuad_spans import CuadSpanData
from retention.tasks.question_answering.qasper import QasperData

WORDS = (
    *("title", "method", "which", "what", "is", "used", "do", "they", "use", "it", "we", "the", "a", "of", "in", "and"),
    *("model", "bert", "data", "results", "corpus", "english", "german", "lstm", "baseline", "words", "wine", "red"),
)


def answer(**changes: Any) -> dict[str, Any]:
    """Build an answer of one annotator, with all fields."""
    empty = {"unanswerable": False, "extractive_spans": [], "yes_no": None, "free_form_answer": "", "evidence": []}
    annotation_id = changes.pop("annotation_id", "a1")
    return {"answer": empty | changes, "annotation_id": annotation_id}


def question(text: str, *answers: dict[str, Any], identity: str = "q1") -> dict[str, Any]:
    """Build a question of a paper."""
    return {"question": text, "question_id": identity, "answers": list(answers)}


def paper(paragraphs: Sequence[str], *questions: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Build a paper of one section."""
    section = {"section_name": "Method", "paragraphs": list(paragraphs)}
    return {"title": "A title", "abstract": "", "full_text": [section], "qas": list(questions)} | changes


def write_papers(folder: Path, split: str, papers: dict[str, Any]) -> None:
    """Write ``<split>.json.gz``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{split}.json.gz").write_bytes(gzip.compress(json.dumps(papers).encode()))


def contract(title: str, context: str, **clauses: Sequence[str]) -> dict[str, Any]:
    """Build a contract with one question per category; each clause is located where it first occurs."""
    qas = []
    for kind, texts in clauses.items():
        answers = [{"text": text, "answer_start": context.index(text)} for text in texts]
        qas.append({"id": f"{title}__{kind}", "question": f"which {kind}", "answers": answers})
    return {"title": title, "paragraphs": [{"context": context, "qas": qas}]}


def write_contracts(folder: Path, split: str, *contracts: dict[str, Any]) -> None:
    """Write ``<split>.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{split}.json").write_text(json.dumps({"data": list(contracts)}))


SHARED: dict[str, Any] = {
    "source_note": "made up",
    "hub": None,
    "max_question_length": 8,
    "splits": {"train": "train", "val": None, "test": "test"},
    "train_size": None,
    "val_size": 1,
    "test_size": None,
    "batch_size": 4,
    "eval_batch_size": 4,
    "seed": 0,
}


def qasper(folder: Path, **changes: Any) -> QasperData:
    """Build QASPER data of a folder, one row per question."""
    settings = {"name": "papers", "dir": str(folder), "max_length": 64, "stride": None}
    return QasperData(**{**SHARED, **settings, **changes})


def cuad(folder: Path, **changes: Any) -> CuadSpanData:
    """Build CUAD data of a folder, with windows of 16 tokens."""
    settings = {"name": "contracts", "dir": str(folder), "max_length": 16, "max_question_length": 4, "stride": 4}
    return CuadSpanData(**{**SHARED, **settings, **changes})


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """Tokenizer with one token per word or mark; words outside its list are the unknown token."""
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
    vocabulary = {word: number for number, word in enumerate((*special, *WORDS))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")]
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)  # type: ignore[no-untyped-call]


@pytest.fixture(scope="session")
def qa_files() -> SimpleNamespace:
    """Functions above, for the tests to write their files with."""
    return SimpleNamespace(
        answer=answer,
        question=question,
        paper=paper,
        write_papers=write_papers,
        contract=contract,
        write_contracts=write_contracts,
        qasper=qasper,
        cuad=cuad,
        shared=SHARED,
    )
