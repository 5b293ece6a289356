"""Test both question answering tasks from files to record on a tiny encoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from retention.data.answer_text import token_f1
from retention.errors import CheckpointError, ConfigError, DataError
from retention.tasks.question_answering.qasper_papers import paper_passage, read_paper
from retention.trained import Answer, Reader, load

WORDS = [
    "what",
    "is",
    "used",
    "we",
    "use",
    "the",
    "red",
    "wine",
    "bert",
    "model",
    "in",
    "a",
    "of",
    "corpus",
    "data",
    "english",
    "law",
    "title",
    "it",
    "and",
    "which",
    "x",
]
SETTINGS = (
    "backbone=minilm",
    "trainer.max_epochs=1",
    "trainer.accelerator=cpu",
    "++callbacks.progress.log_refresh_rate=0",
)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a random encoder with a word tokenizer and return its folder."""
    folder = tmp_path_factory.mktemp("encoder")
    vocabulary = {word: number for number, word in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=backend, **names).save_pretrained(folder)  # type: ignore[no-untyped-call]
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(vocabulary), max_position_embeddings=32, **sizes)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write ``train`` and ``dev`` papers, ``train`` and ``test`` contracts, and return their folder."""
    folder = tmp_path_factory.mktemp("files")
    for split in ("train", "dev"):
        papers = {f"{split}{n}": paper(n) for n in range(6)}
        (folder / "papers").mkdir(exist_ok=True)
        (folder / "papers" / f"{split}.json").write_text(json.dumps(papers))
    for split in ("train", "test"):
        data = [contract(f"{split}{n}") for n in range(4)]
        (folder / "contracts").mkdir(exist_ok=True)
        (folder / "contracts" / f"{split}.json").write_text(json.dumps({"data": data}))
    return folder


def paper(number: int) -> dict[str, Any]:
    fact = f"We use the red wine corpus {number}."
    kinds: list[dict[str, Any]] = [{"extractive_spans": ["red wine corpus"]}, {"yes_no": True}, {"unanswerable": True}]
    empty = {"unanswerable": False, "extractive_spans": [], "yes_no": None, "free_form_answer": "", "evidence": [fact]}
    answers = [[{"answer": empty | kind, "annotation_id": "a"}] for kind in kinds]
    questions = [
        {"question": "what is used", "question_id": f"{n}", "answers": given} for n, given in enumerate(answers)
    ]
    section = {"section_name": "It", "paragraphs": ["The model is in the data of it.", "", fact, "x " * 20]}
    return {"title": "Title", "abstract": "", "full_text": [section], "qas": questions}


def contract(title: str) -> dict[str, Any]:
    text = "it is the data of a model and " * 3 + "the english law is used"
    law = [{"text": "english law", "answer_start": text.index("english law")}]
    clauses = [
        {"id": f"{title}__{kind}", "question": f"which {kind}", "answers": given}
        for kind, given in (("law", law), ("wine", []))
    ]
    return {"title": title, "paragraphs": [{"context": text, "qas": clauses}]}


def article(title: str, *kinds: str) -> dict[str, Any]:
    """Build a SQuAD document with an answerable question per kind, and one without an answer for ``which x``."""
    text = "we use the red wine corpus of the english law and it is the data of a model"
    qas = [
        {
            "id": f"{title} {kind}",
            "question": f"which {kind}",
            "answers": [] if kind == "x" else [{"text": kind, "answer_start": text.index(kind)}],
            "is_impossible": kind == "x",
        }
        for kind in kinds
    ]
    return {"title": title, "paragraphs": [{"context": text, "qas": qas}]}


def overrides(task: str, encoder: Path, files: Path, *typed: str) -> list[str]:
    sizes = ("max_length=24", "max_question_length=6", "stride=8", "val_size=2", "batch_size=8", "eval_batch_size=8")
    folder = files / ("papers" if task == "qasper" else "contracts")
    return [
        f"task={task}",
        *SETTINGS,
        f"backbone.path={encoder}",
        f"data.dir={folder}",
        "compare=[]",
        *(f"task.data.{size}" for size in sizes),
        *typed,
    ]


def test_both_tasks_train_test_and_load(
    encoder: Path, files: Path, start_bare: Any, tmp_path: Path, capsys: Any
) -> None:
    [clauses] = start_bare(tmp_path / "cuad", *overrides("cuad_spans", encoder, files, "retention=dense"))
    assert {"aupr", "precision_at_80_recall", "recall_ceiling"} <= set(clauses["metrics"])
    assert clauses["metrics"]["span_survival"] == 1.0 and clauses["metrics"]["count_clauses"] == 4
    warm = f"init={tmp_path}/cuad/checkpoints/last.ckpt"
    typed = overrides("qasper", encoder, files, warm, "retention=adaptive", "retention.rho=0.5", "distill.weight=0.5")
    [papers] = start_bare(tmp_path / "qasper", *typed)
    metrics = papers["metrics"]
    assert next(iter(metrics)) in metrics and papers["monitor"] == "answer_f1"
    assert metrics["oracle_f1"] == 1.0 and 0.0 <= metrics["span_survival"] < 1.0
    assert metrics["span_survival"] <= metrics["span_kept_share"] < 1.0
    assert [metrics[f"count_{kind}"] for kind in ("extractive", "boolean", "unanswerable")] == [6, 6, 6]
    assert (papers["data"]["test"], papers["data"]["questions"]["test"]) == (6, 18)
    assert 0.0 < papers["flops_ratio"] < 1.0
    assert "f1_boolean (6)" in capsys.readouterr().out, "by type, on the console"
    predictions = [json.loads(line) for line in (tmp_path / "qasper" / "predictions.jsonl").read_text().splitlines()]
    assert [row["question_id"] for row in predictions] == 6 * ["0", "1", "2"] and "document" in predictions[0]
    assert len({row["document"] for row in predictions}) == 6, "three questions on each paper"
    gold = 6 * ["red wine corpus", "Yes", "Unanswerable"]
    scores = [token_f1(row["predicted_answer"], text) for row, text in zip(predictions, gold, strict=True)]
    assert sum(scores) / 18 == pytest.approx(metrics["answer_f1"])
    assert [row["score"] for row in predictions] == scores
    spans = [json.loads(line) for line in (tmp_path / "cuad" / "predictions.jsonl").read_text().splitlines()]
    assert [set(row) for row in spans] == 8 * [{"id", "document", "texts", "scores", "clause_scores", "false_scores"}]
    [again] = start_bare(tmp_path / "again", "mode=test", f"ckpt={tmp_path}/qasper/checkpoints/last.ckpt")
    assert again["metrics"] == metrics
    model = load(tmp_path / "qasper")
    assert isinstance(model, Reader) and not hasattr(model, "predict")
    for number in range(6):
        text = paper_passage(read_paper("", paper(number), ""), silver_f1=0.5, location="").text
        answers = model.ask(["what is used", "which law is it"], text, batch_size=3)
        assert formatted(answers[0]) == predictions[3 * number]["predicted_answer"], "as in the test"
        for answer in answers:
            assert 0.0 < answer.probability <= 1.0 and not answer.truncated
            assert 0.4 < answer.keep_ratio < 0.8, "0.5, and the questions, which are protected"
    with torch.no_grad():
        model.model.head.type_head.bias[0] += 50.0  # now every answer is a span
    [answer] = model.ask(["what is used"], text)
    assert answer.kind == "span" and answer.characters is not None and answer.text
    assert text[slice(*answer.characters)] == answer.text and 0.0 < answer.probability < 1.0
    assert model.ask([], "the model") == []
    with pytest.raises(DataError, match="question 1 is empty; leave it out"):
        model.ask(["what", " "], "the model")
    with pytest.raises(ConfigError, match=r"questions: got a single str; pass a list of questions"):
        model.ask("what", "the model")
    with pytest.raises(ConfigError, match=r"text: must be one string, got list"):
        model.ask(["what"], ["the model"])


def test_chain_from_squad_over_covid_qa_to_qasper(encoder: Path, files: Path, start_bare: Any, tmp_path: Path) -> None:
    for task, kinds in (("squad", ("wine", "law", "x")), ("covid_qa", ("wine", "law"))):
        (tmp_path / task).mkdir()
        for split in ("train", "dev" if task == "squad" else "test"):
            data = [article(f"{split}{n}", *kinds) for n in range(4)]
            (tmp_path / task / f"{split}.json").write_text(json.dumps({"version": "v2.0", "data": data}))

    def run(name: str, task: str, *typed: str) -> dict[str, Any]:
        folder = files if task == "qasper" else tmp_path / task
        typed = (
            *overrides(task, encoder, files, *typed),
            f"data.dir={folder / 'papers' if task == 'qasper' else folder}",
        )
        [record] = start_bare(tmp_path / name, *typed)
        return dict(record)

    def after(name: str) -> str:
        return f"init={tmp_path}/{name}/checkpoints/last.ckpt"

    dense = run("first", "squad", "retention=dense")
    assert (dense["monitor"], dense["metrics"]["count_unanswerable"]) == ("f1", 4.0)
    assert dense["metrics"]["span_survival"] == 1.0 and "evidence_survival" not in dense["metrics"]
    saliency = ("distillation=saliency", "distill.weight=0.5", "retention=adaptive", "retention.schedule=flat")
    pruned = run("pruned", "squad", after("first"), *saliency)
    assert pruned["metrics"]["span_survival"] <= pruned["metrics"]["span_kept_share"] < 1.0
    assert pruned["config"]["distill"]["saliency"] > 0
    run("second", "covid_qa", after("first"), "retention=dense")
    papers = run("third", "qasper", after("second"), *saliency)["metrics"]
    assert 0.0 < papers["evidence_survival"] <= papers["evidence_kept_share"] < 1.0
    predictions = [json.loads(line) for line in (tmp_path / "pruned" / "predictions.jsonl").read_text().splitlines()]
    assert sum(row["score"] for row in predictions) / 12 == pytest.approx(pruned["metrics"]["f1"])
    reader = load(tmp_path / "second")
    with torch.no_grad():
        reader.model.head.type_head.bias[3] += 50.0
    assert reader.ask(["which wine"], "we use the red wine")[0].kind == "span", "covid_qa always predicts a span"
    with pytest.raises(ConfigError, match=r"no_answer_threshold: must be None: .*allow_no_answer=false"):
        reader.ask(["which wine"], "we use the red wine", no_answer_threshold=0.5)
    reader = load(tmp_path / "first")
    for threshold, kind in ((0.0, "none"), (1.0, "span")):
        assert reader.ask(["which wine"], "we use the red wine", no_answer_threshold=threshold)[0].kind == kind
        checkpoint = f"ckpt={tmp_path}/first/checkpoints/last.ckpt"
        typed = f"+task.data.no_answer_threshold={threshold}"
        start_bare(tmp_path / kind, "mode=test", checkpoint, typed)
        tested = [json.loads(line) for line in (tmp_path / kind / "predictions.jsonl").read_text().splitlines()]
        assert {bool(row["prediction_text"]) for row in tested} == {kind == "span"}
    with pytest.raises(ConfigError, match=r"no_answer_threshold: must be a number in \[0, 1\], got 1.5"):
        reader.ask(["which wine"], "we use the red wine", no_answer_threshold=1.5)


def formatted(answer: Answer) -> str:
    return {"span": answer.text, "yes": "Yes", "no": "No", "none": "Unanswerable"}[answer.kind]


def test_init_from_another_kind_of_head_is_refused(
    encoder: Path, files: Path, start_bare: Any, tmp_path: Path, finished: Any
) -> None:
    with pytest.raises(CheckpointError, match="is a checkpoint of another model"):
        start_bare(tmp_path, *overrides("qasper", encoder, files, f"init={finished.checkpoint}"))
