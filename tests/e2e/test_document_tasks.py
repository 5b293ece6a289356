"""Test each document task from files to record, on generated documents and a tiny saved encoder."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel, LEDConfig, LEDForConditionalGeneration

from retention.errors import ConfigError, DataError
from retention.report.run_tables import run_tables
from retention.tasks.classification.keywords import KeywordData, keyword_document
from retention.trained import load

TEXTS = [keyword_document(random.Random(number)) for number in range(40)]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a random two-layer BERT with a word tokenizer and return its folder."""
    folder = tmp_path_factory.mktemp("backbone")
    tokenizer = KeywordData.build_tokenizer()
    tokenizer.save_pretrained(folder)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=96, **shape)
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


@pytest.fixture
def run_task(start: Any, backbone: Path, tmp_path: Path) -> Any:
    """Return a function that runs a task on the files in ``tmp_path`` and returns the record."""

    def run(task: str, *typed: str) -> Any:
        words = [f"task={task}", "backbone=minilm", f"backbone.path={backbone}", f"data.dir={tmp_path}"]
        words += ["data.train_size=null", "data.test_size=null", "task.data.val_size=2", "task.data.max_length=48"]
        words += ["task.data.batch_size=4", "retention.rho=0.5", "phases.pruning_start=0.5"]
        [record] = start(tmp_path / "run", *words, *typed)
        return record

    return run


def write_rows(folder: Path, split: str, rows: list[dict[str, Any]]) -> None:
    (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_arxiv_classification(run_task: Any, tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text(json.dumps(["horses", "ships", "music", "food", "sky", "more"]))
    rows = [{"text": text, "label": label % 6} for text, label in TEXTS]
    write_rows(tmp_path, "train", rows[:24])
    write_rows(tmp_path, "test", rows[24:])
    record = run_task("arxiv", "data.source=made-up papers")
    assert (record["monitor"], set(record["metrics"])) == (
        "accuracy",
        {"accuracy", "macro_f1", "ece", "nll", "worst_class_recall"},
    )
    assert record["data"]["source"] == "made-up papers" and record["data"]["truncated"]["test"] == 16
    assert record["keep_ratio"]["mean"] == pytest.approx(0.5, abs=0.03)
    profile = json.loads((tmp_path / "run" / "retention_profile.json").read_text())
    assert profile["label_names"][0] == "horses"
    assert all(example["label"] == rows[24 + example["index"]]["label"] for example in profile["examples"])
    (tmp_path / "labels.json").unlink()
    assert load(tmp_path / "run").label_names[:2] == ("horses", "ships"), "the model knows its classes"


def test_labels_in_another_order_are_those_of_the_model(run_task: Any, start_bare: Any, tmp_path: Path) -> None:
    names = ["horses", "ships", "music"]
    rows = [{"text": text, "label": label % 3} for text, label in TEXTS]
    (tmp_path / "labels.json").write_text(json.dumps(names))
    for split, part in (("train", rows[:24]), ("test", rows[24:])):
        write_rows(tmp_path, split, part)
    trained = run_task("arxiv", "trainer.max_epochs=1")
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"

    def tested(order: list[str], *typed: str) -> Any:
        (tmp_path / "labels.json").write_text(json.dumps(order))
        write_rows(tmp_path, "test", [{**row, "label": order.index(names[row["label"]])} for row in rows[24:]])
        words = ("mode=test", f"ckpt={checkpoint}", "trainer.accelerator=cpu")
        [record] = start_bare(tmp_path / "again", *words, *typed)
        return record["metrics"]

    assert tested([*names[1:], names[0]]) == trained["metrics"]
    (tmp_path / "labels.json").write_text(json.dumps(["a", "b", "c"]))
    with pytest.raises(DataError, match=r"rows are \['a', 'b', 'c'\], those of .*last.ckpt are \['horses', 'ships'"):
        start_bare(tmp_path / "other", "mode=test", f"ckpt={checkpoint}", "trainer.accelerator=cpu")


def test_fold_is_tested_with_the_rows_of_its_training(
    run_task: Any, start_bare: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"text": text, "label": label % 3} for text, label in TEXTS]
    (tmp_path / "labels.json").write_text(json.dumps(["horses", "ships", "music"]))
    for split, part in (("train", rows[:24]), ("test", rows[24:])):
        write_rows(tmp_path, split, part)
    trained = run_task("arxiv", "task.data.folds=3", "trainer.max_epochs=1")
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"

    def tested() -> Any:
        capsys.readouterr()
        typed = ("mode=test", f"ckpt={checkpoint}", "trainer.accelerator=cpu", "retention.rho=0.9")
        [record] = start_bare(tmp_path / "again", *typed)
        shutil.rmtree(tmp_path / "again")
        return record

    assert (trained["data"]["train"], trained["data"]["val"], trained["data"]["test"]) == (24, 2, 14)
    record = tested()
    assert record["data"] == trained["data"]
    assert "25 training and 13 test rows" in capsys.readouterr().out, "those of the smallest fold"
    table = run_tables([trained, record])
    assert "[1]" in table and "[2]" not in table, "one table with the run of its training"
    content = torch.load(checkpoint, weights_only=True)
    del content["training_rows"]  # of an earlier version
    torch.save(content, checkpoint)
    assert tested()["data"] == trained["data"], "from the record beside the checkpoint"
    (tmp_path / "run" / "record.json").unlink()
    data = tested()["data"]
    assert (data["train"], data["val"], data["test"]) == (None, 2, 14)
    assert "? training and 14 test rows" in capsys.readouterr().out


def test_labels_follow_the_teacher_and_a_start_with_the_same_classes(run_task: Any, tmp_path: Path) -> None:
    rows = [{"text": text, "label": label % 3} for text, label in TEXTS]
    for split, part in (("train", rows[:24]), ("test", rows[24:])):
        write_rows(tmp_path, split, part)
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps(["horses", "ships", "music"]))
    dense = ("retention=dense", "retention.rho=1.0", "phases.pruning_start=0.0", "trainer.max_epochs=1")
    run_task("arxiv", *dense)
    (tmp_path / "run").rename(tmp_path / "teacher")
    checkpoint = tmp_path / "teacher" / "checkpoints" / "last.ckpt"
    labels.write_text(json.dumps(["music", "horses", "ships"]))
    for typed in ((f"init={checkpoint}",), ("distill.weight=0.5", f"distill.teacher={checkpoint}")):
        run_task("arxiv", *dense, *typed)
        assert load(tmp_path / "run").label_names == ("horses", "ships", "music")
        shutil.rmtree(tmp_path / "run")
    labels.write_text(json.dumps(["yes", "no", "maybe"]))
    run_task("arxiv", *dense, f"init={checkpoint}")
    assert load(tmp_path / "run").label_names == ("yes", "no", "maybe"), "a start may have other classes"


def test_monitor_selects_the_main_metric(run_task: Any, tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_rows(tmp_path, split, [{"text": text, "label": label} for text, label in TEXTS[:8]])
    record = run_task("arxiv", "task.monitor=macro_f1", "retention=dense", "retention.rho=1.0")
    assert record["monitor"] == "macro_f1" and record["data"]["source"] == f"local files: {tmp_path.name}"


def test_cuad_clause_classification(run_task: Any, tmp_path: Path) -> None:
    for split, count in (("train", 6), ("test", 3)):
        contracts = [_contract(f"{split} {number}", number, empty=number == count - 1) for number in range(count)]
        (tmp_path / f"{split}.json").write_text(json.dumps({"data": contracts}))
    record = run_task("cuad")
    assert (record["monitor"], set(record["metrics"])) == (
        "micro_f1",
        {"micro_f1", "macro_f1", "brier_per_label", "nll_per_label", "worst_class_recall"},
    )
    assert record["data"]["contracts"] == {"train": 4, "val": 2, "test": 3}
    assert record["data"]["test"] == 4, "the last contract has no clause"
    assert 0.0 <= record["metrics"]["macro_f1"] <= 1.0
    model = load(tmp_path / "run")
    [answer] = model.predict(["horse contract"])
    predictions = [json.loads(line) for line in (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()]
    assert len(predictions) == 4 and all(row["prediction"] and row["label"] for row in predictions)
    likely = {name for name, probability in answer.probabilities.items() if probability > 0.5}
    assert answer.labels and set(answer.labels) in (likely, {max(answer.probabilities, key=answer.probabilities.get)})


def test_pubmed_extractive(run_task: Any, start_bare: Any, tmp_path: Path) -> None:
    articles = [
        {"article": "BACKGROUND\n" + ". ".join(text.split(" of ")) + ".", "abstract": " ".join(text.split()[20:40])}
        for text, _ in TEXTS[:14]
    ]
    articles[0]["article"] = "one sentence it is."
    articles[1]["article"] = "odd \u0000 \u2028 \U0001f40e characters are here. they are."
    for split, rows in (("train", articles), ("validation", articles[:3]), ("test", articles[:6])):
        write_rows(tmp_path, split, rows)
    record = run_task("pubmed", "task.head.sentences=2")
    names = ("rouge1", "rouge2", "rougeLsum")
    assert set(record["metrics"]) == {f"{who}{name}" for who in ("", "lead_", "longest_", "oracle_") for name in names}
    assert record["metrics"]["oracle_rouge1"] >= record["metrics"]["rouge1"] > 0.0
    predictions = [json.loads(line) for line in (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()]
    assert sorted(row["index"] for row in predictions) == list(range(6)) and set(predictions[0]) == {
        "index",
        "chosen",
        "oracle",
        "score",
    }
    assert sum(row["score"] for row in predictions) / 6 == pytest.approx(record["metrics"]["rouge1"])
    assert all(len(row["chosen"]) <= 2 for row in predictions)
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"
    [again] = start_bare(tmp_path / "again", "mode=test", f"ckpt={checkpoint}", "trainer.accelerator=cpu")
    assert again["metrics"] == record["metrics"]
    model = load(tmp_path / "run")
    summaries = model.summarize([article["article"] for article in articles[:6]], batch_size=4)
    by_index = {row["index"]: row["chosen"] for row in predictions}
    for index, summary in enumerate(summaries):
        assert list(summary.chosen or ()) == by_index[index], "as in the test"
        assert len(summary.sentences) == len(summary.chosen or ()) and summary.scores
        assert all(sentence in " ".join(articles[index]["article"].split()) for sentence in summary.sentences)
    assert summaries[5].truncated and not summaries[0].truncated and summaries[0].sentences == ("one sentence it is.",)
    assert model.summarize([]) == []
    assert not hasattr(model, "predict")
    with pytest.raises(ConfigError, match=r"articles: got a single str; pass a list of articles"):
        model.summarize("an article")


def _contract(title: str, number: int, *, empty: bool) -> dict[str, Any]:
    context = f"this is a horse contract {number} of one Ltd. and two Inc. for ever"
    spans = {} if empty else {"Document Name": ["horse contract"], "Parties": ["one Ltd.", "horse contract"]}
    qas = [
        {
            "id": f"{title}__{name}",
            "question": name,
            "answers": [{"text": text, "answer_start": context.index(text)} for text in texts],
        }
        for name, texts in spans.items()
    ]
    return {"title": title, "paragraphs": [{"context": context, "qas": qas}]}


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a random two-layer LED with a word tokenizer and return its folder."""
    folder = tmp_path_factory.mktemp("writer")
    tokenizer = KeywordData.build_tokenizer()
    tokenizer.save_pretrained(folder)
    sizes = {
        "d_model": 16,
        "encoder_layers": 2,
        "decoder_layers": 1,
        "attention_window": 8,
        "vocab_size": len(tokenizer),
    }
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    positions = {"max_encoder_position_embeddings": 96, "max_decoder_position_embeddings": 32}
    tokens = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 3}
    LEDForConditionalGeneration(LEDConfig(**sizes, **heads, **positions, **tokens, init_std=0.2)).save_pretrained(
        folder
    )
    return folder


@pytest.mark.parametrize("dropped", ["cut", "forward"])
def test_pubmed_abstractive(dropped: str, run_task: Any, writer: Path, start_bare: Any, tmp_path: Path) -> None:
    articles = [{"article": text, "abstract": " ".join(text.split()[20:29])} for text, _ in TEXTS[:12]]
    articles[0]["abstract"] = articles[0]["article"] + " and a half"  # longer than the article
    articles[1]["article"] = "odd \u0000 \u2028 \U0001f40e"
    for split, rows in (("train", articles), ("validation", articles[:2]), ("test", articles[:5])):
        write_rows(tmp_path, split, rows)
    typed = ["backbone=led", f"backbone.path={writer}", "task.data.max_summary_length=12", f"dropped={dropped}"]
    record = run_task("pubmed_abstractive", *typed, "task.data.eval_batch_size=2")
    assert list(record["metrics"]) == ["rouge1", "rouge2", "rougeLsum", "token_loss"]
    assert 0.0 < record["metrics"]["token_loss"] < 20.0 and 0.0 <= record["metrics"]["rouge1"] <= 1.0
    assert record["keep_ratio"]["mean"] == pytest.approx(0.5, abs=0.05) and 0.0 < record["flops_ratio"] < 1.0
    assert record["data"]["summaries_cut"] == {"train": 1, "val": 1, "test": 1}
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"
    [again] = start_bare(tmp_path / "again", "mode=test", f"ckpt={checkpoint}", "trainer.accelerator=cpu")
    assert again["metrics"] == record["metrics"]
    predictions = [json.loads(line) for line in (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()]
    summaries = load(tmp_path / "run").summarize([article["article"] for article in articles[:5]], batch_size=2)
    written = {row["index"]: tuple(row["summary"].splitlines()) for row in predictions}
    assert [summary.sentences for summary in summaries] == [written[index] for index in range(5)]
    assert all(summary.chosen is None and summary.scores is None for summary in summaries)


def test_max_length_must_fit_the_positions(run_task: Any) -> None:
    with pytest.raises(ConfigError, match=r"task\.data\.max_length: minilm has 96 positions, got 97; lower it"):
        run_task("arxiv", "task.data.max_length=97")


def test_abstractive_task_needs_a_decoder(run_task: Any) -> None:
    with pytest.raises(ConfigError, match=r"backbone: minilm \(bert\) has no decoder, and this task writes text"):
        run_task("pubmed_abstractive")


def test_sentences_are_pruned_as_a_whole(run_task: Any, tmp_path: Path) -> None:
    rows = [{"article": ". ".join(text.split(" of ")) + ".", "abstract": text} for text, _ in TEXTS[:8]]
    for split in ("train", "validation", "test"):
        write_rows(tmp_path, split, rows)
    record = run_task("pubmed", "task.head.spans=sentences", "task.head.sentences=2")
    assert record["keep_ratio"]["mean"] == pytest.approx(0.5, abs=0.05), "the count is met exactly"
