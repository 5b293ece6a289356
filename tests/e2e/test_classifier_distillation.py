"""Test the pruning of fine-tuned classifiers and cross-encoders without labels: train, load, write the folder."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.e2e.interruption import same_weights
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertForSequenceClassification

from retention import load
from retention.errors import ConfigError
from retention.pretrained import load_retained
from retention.tasks.classification.keywords import KeywordData
from retention.tasks.classifier_distillation.data import ClassifierTexts

Begin = Callable[..., Any]
LOADER: Any = AutoModelForSequenceClassification


def write_classifier(folder: Path, **settings: Any) -> Path:
    """Write a classifier with random weights and its tokenizer."""
    tokenizer = KeywordData.build_tokenizer()
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=len(tokenizer), max_position_embeddings=64, initializer_range=0.2, **sizes, **settings
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with 76 random texts (``texts.txt``) and as many pairs of texts (``pairs.jsonl``)."""
    rng, folder = random.Random(0), tmp_path_factory.mktemp("texts")
    words = sorted(word for word in KeywordData.build_tokenizer().get_vocab() if word.isalpha())[:200]

    def text(low: int, high: int) -> str:
        return " ".join(rng.choices(words, k=rng.randint(low, high)))

    (folder / "texts.txt").write_text("".join(f"{text(8, 40)}\n" for _ in range(76)))
    pairs = ({"query": text(3, 6), "passage": text(8, 30)} for _ in range(76))
    (folder / "pairs.jsonl").write_text("".join(f"{json.dumps(pair)}\n" for pair in pairs))
    return folder


@pytest.fixture(scope="module")
def begin(start_bare: Any, files: Path) -> Begin:
    """Return a function that prunes a classifier for one epoch of four steps."""

    def run(folder: Path, model: Path, *typed: str) -> Any:
        small = ("task.data.val_size=6", "task.data.max_length=48", "optimizer.lr=3e-3")
        quiet = ("trainer.accelerator=cpu", "trainer.log_every_n_steps=1", "++callbacks.progress.log_refresh_rate=0")
        needed = ("experiment=classifier_distill", f"backbone.path={model}")
        texts = () if any(each.startswith("texts=") for each in typed) else (f"texts={files}/texts.txt",)
        [record] = start_bare(folder, *needed, *texts, *small, *quiet, *typed)
        return record

    return run


@pytest.fixture(scope="module")
def pruned(begin: Begin, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Return the folder of a finished run of a classifier of three classes, and its record."""
    folder = tmp_path_factory.mktemp("pruned")
    labels = {0: "bad", 1: "mixed", 2: "good"}
    model = write_classifier(folder / "base", id2label=labels, label2id={name: key for key, name in labels.items()})
    return folder, begin(folder / "run", model, f"output={folder}/model")


def held_out(files: Path) -> list[str]:
    """Return the texts that the runs are tested on."""
    shared: dict[str, Any] = {"name": "texts", "source_note": "-", "max_length": 48, "seed": 0, "batch_size": 16}
    settings: dict[str, Any] = {"text_column": "text", "train_size": None, "val_size": 6, "test_size": None}
    data = ClassifierTexts(texts=str(files / "texts.txt"), eval_batch_size=64, num_workers=0, **settings, **shared)
    return list(data.read(["test"])["test"]["text"])


def logits_of(model: Any, folder: Path, texts: list[str]) -> torch.Tensor:
    """Compute logits as a user of transformers does."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(texts, padding=True, truncation=True, max_length=48, return_tensors="pt")
    with torch.no_grad():
        logits: torch.Tensor = model(**batch).logits
    return logits


def test_record_compares_with_the_unpruned_classifier(pruned: tuple[Path, Any], files: Path) -> None:
    folder, record = pruned
    texts = held_out(files)
    dense = logits_of(LOADER.from_pretrained(folder / "base").eval(), folder / "base", texts)
    predictions = load(folder / "run").predict(texts)  # type: ignore[attr-defined]
    probabilities = torch.tensor([list(each.probabilities.values()) for each in predictions])
    agree = probabilities.argmax(-1) == dense.argmax(-1)
    target = dense.log_softmax(-1)
    divergence = (target.exp() * (target - probabilities.log())).sum(-1).mean()
    assert record["metrics"]["agreement"] == pytest.approx(float(agree.float().mean()))
    assert record["metrics"]["divergence"] == pytest.approx(float(divergence), abs=1e-4)
    assert (record["task"], record["backbone"], record["monitor"]) == ("classifier", "base", "agreement")
    assert record["keep_ratio"]["mean"] < 0.5
    assert record["flops_ratio"] < 0.8
    assert {label for each in predictions for label in each.labels} <= {"bad", "mixed", "good"}


def test_model_folder_answers_as_the_run(pruned: tuple[Path, Any], files: Path) -> None:
    folder, _ = pruned
    texts = held_out(files)
    predictions = load(folder / "run").predict(texts)  # type: ignore[attr-defined]
    expected = torch.tensor([list(each.probabilities.values()) for each in predictions])
    model, retainer = load_retained(folder / "model", LOADER)
    with retainer:
        answered = logits_of(model, folder / "model", texts).softmax(-1)
        assert any(bool((kept < 10).any()) for kept in retainer.report.kept.values())
    torch.testing.assert_close(answered, expected, atol=1e-5, rtol=1e-4)
    plain = LOADER.from_pretrained(folder / "model").eval()
    assert plain.config.id2label == {0: "bad", 1: "mixed", 2: "good"}
    assert not torch.allclose(logits_of(plain, folder / "model", texts).softmax(-1), expected, atol=1e-4)
    card = (folder / "model" / "README.md").read_text()
    assert "load_retained" in card and "sentence_transformers" not in card
    assert "| agreement |" in card


def test_training_changes_encoder_head_and_scorers(pruned: tuple[Path, Any], weights_of: Any) -> None:
    folder, _ = pruned
    before = LOADER.from_pretrained(folder / "base").state_dict()
    after = weights_of(folder / "run" / "checkpoints" / "last.ckpt")
    assert not torch.equal(
        after["encoder.encoder.layer.0.output.dense.weight"], before["bert.encoder.layer.0.output.dense.weight"]
    )
    assert not torch.equal(after["head.classifier.classifier.weight"], before["classifier.weight"])
    assert not torch.equal(after["head.classifier.bert.pooler.dense.weight"], before["bert.pooler.dense.weight"])
    assert not any(name.startswith("head.classifier.bert.encoder") for name in after)


def test_test_at_another_budget(pruned: tuple[Path, Any], start_bare: Any, tmp_path: Path) -> None:
    folder, record = pruned
    test = ("mode=test", f"ckpt={folder}/run/checkpoints/last.ckpt", "trainer.accelerator=cpu")
    [same] = start_bare(tmp_path / "same", *test)
    assert same["metrics"] == pytest.approx(record["metrics"], abs=1e-6)
    [all_kept] = start_bare(tmp_path / "all", *test, "retention.rho=1.0")
    assert all_kept["keep_ratio"]["mean"] == 1.0


def test_shallower_student_of_the_same_recipe(begin: Begin, pruned: tuple[Path, Any], tmp_path: Path) -> None:
    typed = ("retention=dense", "backbone.layers=2", f"output={tmp_path}/model")
    record = begin(tmp_path / "run", pruned[0] / "base", *typed)
    assert record["policy"] == "fewer_layers"
    assert record["flops_ratio"] == pytest.approx(2 / 3, abs=0.01)
    student = LOADER.from_pretrained(tmp_path / "model")
    assert student.config.num_hidden_layers == 2
    assert len(student.bert.encoder.layer) == 2


def test_cross_encoder_keeps_the_query(begin: Begin, files: Path, tmp_path: Path) -> None:
    model = write_classifier(tmp_path / "base", num_labels=1)
    pairs = ("task.data.text_column=query", "task.data.pair_column=passage", f"texts={files}/pairs.jsonl")
    kept = begin(tmp_path / "kept", model, *pairs, "task.data.protect_first_text=true", f"output={tmp_path}/model")
    free = begin(tmp_path / "free", model, *pairs)
    assert set(kept["metrics"]) == {"agreement", "root_mean_square_error"}
    assert 0.0 <= kept["metrics"]["agreement"] <= 1.0
    assert kept["keep_ratio"]["mean"] > free["keep_ratio"]["mean"] + 0.05
    rows = [json.loads(line) for line in (tmp_path / "kept" / "predictions.jsonl").read_text().splitlines()]
    data = [json.loads(line) for line in (files / "pairs.jsonl").read_text().splitlines()]
    tokenizer, dense = AutoTokenizer.from_pretrained(model), LOADER.from_pretrained(model).eval()
    batch = tokenizer(
        [each["query"] for each in data], [each["passage"] for each in data], padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        scores = {round(float(score), 3) for score in dense(**batch).logits.squeeze(-1)}  # with their token types
    assert all(round(row["target"][0], 3) in scores for row in rows)
    with pytest.raises(ConfigError, match="one score and no classes"):
        load(tmp_path / "kept").predict(["a text"])  # type: ignore[attr-defined]
    loaded, retainer = load_retained(tmp_path / "model", LOADER)
    with retainer, torch.no_grad():
        logits = loaded(**batch).logits.squeeze(-1)
        query = torch.tensor([[each == 0 for each in batch.sequence_ids(row)] for row in range(len(data))])
        for kept in retainer.report.keep_indices.values():
            held = torch.zeros_like(query).scatter(1, kept.clamp(min=0), True)
            assert (held | ~query).all(), "the query stays, as in training"
    by_text = {each["query"] + each["passage"]: float(logit) for each, logit in zip(data, logits, strict=True)}
    rows = [json.loads(line) for line in (tmp_path / "kept" / "predictions.jsonl").read_text().splitlines()]
    scores = {round(logit, 3) for logit in by_text.values()}
    assert all(round(row["logits"][0], 3) in scores for row in rows), "the scores of the run"
    card = (tmp_path / "model" / "README.md").read_text()
    assert "load_retained" in card and "from retention.integrations.sentence_transformers import load" in card


def test_resumed_run_equals_the_uninterrupted_one(begin: Begin, pruned: tuple[Path, Any], tmp_path: Path) -> None:
    every_step = ("callbacks.checkpoint.save_top_k=-1", "++callbacks.checkpoint.every_n_train_steps=1")
    whole = begin(tmp_path / "whole", pruned[0] / "base", *every_step)
    [checkpoint] = (tmp_path / "whole" / "checkpoints").glob("*step=2.ckpt")
    resumed = begin(tmp_path / "resumed", pruned[0] / "base", f"ckpt='{checkpoint}'")
    last = Path("checkpoints", "last.ckpt")
    assert same_weights(tmp_path / "whole" / last, tmp_path / "resumed" / last)
    assert resumed["metrics"] == whole["metrics"]


def test_models_without_a_trained_classifier_are_refused(begin: Begin, files: Path, tmp_path: Path) -> None:
    model = write_classifier(tmp_path / "base")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "architectures": ["BertModel"]}))
    with pytest.raises(ConfigError, match=r"backbone\.path: base holds no trained sequence classifier \(BertModel\)"):
        begin(tmp_path / "run", model)
    (model / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 4}))
    with pytest.raises(ConfigError, match=r"lacks 16 weights of the classifier \(bert\.encoder\.layer\.3"):
        begin(tmp_path / "run2", model)
    with pytest.raises(ConfigError, match=r"backbone\.path: is required"):
        begin(tmp_path / "run3", model, "backbone.path=null")
    with pytest.raises(ConfigError, match=r"pair_column: must be null for a \.txt file"):
        begin(tmp_path / "run4", model, "task.data.pair_column=passage")
    with pytest.raises(ConfigError, match=r"protect_first_text: needs pairs"):
        begin(tmp_path / "run5", model, "task.data.protect_first_text=true")
