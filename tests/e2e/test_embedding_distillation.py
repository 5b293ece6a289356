"""Test label-free distillation of an embedding model: train, resume, write the folder, load, test at other budgets."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.e2e.interruption import same_weights
from transformers import BertConfig, BertModel

from retention import Embedder, load
from retention.errors import CheckpointError, ConfigError, DataError
from retention.models.backbone import PretrainedBackbone
from retention.tasks.classification.keywords import KeywordData
from retention.tasks.embedding.data import TextData

Begin = Callable[..., Any]
STEPS = 4  # of an epoch


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a random BERT encoder of three layers and its tokenizer."""
    folder, tokenizer = tmp_path_factory.mktemp("base"), KeywordData.build_tokenizer()
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
    torch.manual_seed(3)
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=64, initializer_range=0.2, **sizes)
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of 76 random texts of 8 to 40 words; 12 of them are held out."""
    rng, file = random.Random(0), tmp_path_factory.mktemp("texts") / "texts.txt"
    words = sorted(word for word in KeywordData.build_tokenizer().get_vocab() if word.isalpha())[:200]
    file.write_text("\n".join(" ".join(rng.choices(words, k=rng.randint(8, 40))) for _ in range(76)) + "\n")
    return file


@pytest.fixture(scope="module")
def begin(start_bare: Any, base: Path, texts: Path) -> Begin:
    """Return a function that runs the recipe on the small encoder: one epoch of four steps."""

    def run(folder: Path, *typed: str) -> Any:
        small = ("task.data.val_size=6", "task.data.max_length=48", "task.data.batch_size=16", "optimizer.lr=3e-3")
        quiet = ("trainer.accelerator=cpu", "trainer.log_every_n_steps=1", "++callbacks.progress.log_refresh_rate=0")
        needed = ("experiment=embedding_distill", f"backbone.path={base}", f"texts={texts}")
        # the texts are short: with the floor of the recipe, all their tokens would be kept
        retained = () if "retention=dense" in typed else ("retention.min_tokens=1",)
        [record] = start_bare(folder, *needed, *retained, *small, *quiet, *typed)
        return record

    return run


@pytest.fixture(scope="module")
def distilled(begin: Begin, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Return the folder of a finished run with its model folder ``model``, and its record."""
    folder = tmp_path_factory.mktemp("distilled")
    every_step = ("callbacks.checkpoint.save_top_k=-1", "++callbacks.checkpoint.every_n_train_steps=1")
    return folder, begin(folder, f"output={folder}/model", *every_step)


def held_out(texts: Path) -> list[str]:
    """Return the texts that the runs are tested on."""
    settings: dict[str, Any] = {"text_column": "text", "train_size": None, "val_size": 6, "test_size": None}
    shared: dict[str, Any] = {"name": "texts", "source_note": "-", "max_length": 48, "seed": 0}
    data = TextData(texts=str(texts), batch_size=16, eval_batch_size=64, num_workers=0, **settings, **shared)
    return list(data.read(["test"])["test"]["text"])


def test_record_has_cosine_to_the_unpruned_model(distilled: tuple[Path, Any], base: Path, texts: Path) -> None:
    folder, record = distilled
    assert record["monitor"] == "cosine" and record["task"] == "embedding"
    assert record["keep_ratio"]["mean"] == pytest.approx(0.3, abs=0.06) and record["flops_ratio"] < 0.8
    assert (record["data"]["train"], record["data"]["val"], record["data"]["test"]) == (64, 6, 6)
    rows, dense = held_out(texts), Embedder.from_pretrained(base, max_seq_length=48)
    pruned = load(folder).encode(rows)  # type: ignore[attr-defined]
    cosines = torch.nn.functional.cosine_similarity(pruned, dense.encode(rows))
    assert record["metrics"]["cosine"] == pytest.approx(float(cosines.mean()), abs=1e-5)
    shifted = torch.nn.functional.cosine_similarity(pruned, dense.encode(rows).roll(1, 0))
    assert record["metrics"]["cosine"] > float(shifted.mean()) + 0.01


def test_model_folder_gives_the_embeddings_of_the_run(distilled: tuple[Path, Any], texts: Path) -> None:
    folder, _ = distilled
    rows, model, run = held_out(texts), Embedder.from_pretrained(folder / "model"), load(folder)
    assert torch.equal(model.encode(rows), run.encode(rows))  # type: ignore[attr-defined]
    assert torch.equal(model.encode(rows, rho=0.5), run.encode(rows, rho=0.5))  # type: ignore[attr-defined]
    assert not torch.allclose(model.encode(rows), model.encode(rows, rho=0.5), atol=1e-4)
    assert (model.settings.pooling, model.encoder.rho) == ("survivors", None)
    assert "| cosine |" in (folder / "model" / "README.md").read_text()


def test_held_out_cosine_is_logged_while_training(distilled: tuple[Path, Any]) -> None:
    folder, _ = distilled
    with (folder / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["val/cosine"]]
    assert len(rows) == STEPS and [int(row["step"]) for row in rows] == list(range(STEPS))


@pytest.mark.slow
def test_training_brings_embeddings_closer(distilled: tuple[Path, Any], begin: Begin, tmp_path: Path) -> None:
    longer = begin(tmp_path / "longer", "trainer.max_epochs=5", "trainer.val_check_interval=1.0")
    frozen = begin(tmp_path / "still", "optimizer.lr=1e-12", "optimizer.policy_lr=1e-12", "optimizer.weight_decay=0")
    assert longer["metrics"]["cosine"] > frozen["metrics"]["cosine"] + 0.002
    assert distilled[1]["metrics"]["cosine"] < 1.0


def test_resumed_run_equals_the_uninterrupted_one(distilled: tuple[Path, Any], begin: Begin, tmp_path: Path) -> None:
    folder, record = distilled
    [checkpoint] = (folder / "checkpoints").glob("*step=2.ckpt")
    resumed = begin(tmp_path, f"ckpt='{checkpoint}'")
    assert same_weights(folder / "checkpoints" / "last.ckpt", tmp_path / "checkpoints" / "last.ckpt")
    assert resumed["metrics"] == record["metrics"]
    assert not same_weights(checkpoint, folder / "checkpoints" / "last.ckpt")


@pytest.mark.slow
def test_test_at_another_budget_and_on_other_texts(
    distilled: tuple[Path, Any], start_bare: Any, texts: Path, tmp_path: Path
) -> None:
    folder, record = distilled
    other = tmp_path / "other.txt"
    other.write_text("\n".join(reversed(texts.read_text().splitlines()[:40])))
    test = ("mode=test", f"ckpt={folder}/checkpoints/last.ckpt", "trainer.accelerator=cpu")
    [same] = start_bare(tmp_path / "same", *test)
    assert same["metrics"] == pytest.approx(record["metrics"], abs=1e-6)
    [more] = start_bare(tmp_path / "more", *test, "retention.rho=0.6", f"texts={other}", f"output={tmp_path}/model")
    assert more["keep_ratio"]["mean"] == pytest.approx(0.6, abs=0.06)
    assert more["data"]["source"] == "local files: other.txt"
    assert Embedder.from_pretrained(tmp_path / "model").policy.rho == 0.6


def test_shallower_student_of_the_same_recipe(begin: Begin, base: Path, tmp_path: Path) -> None:
    record = begin(tmp_path, "retention=dense", "backbone.layers=2", f"output={tmp_path}/model")
    assert record["policy"] == "fewer_layers" and record["keep_ratio"]["mean"] == 1.0
    assert record["flops_ratio"] == pytest.approx(2 / 3, abs=0.01)
    assert record["metrics"]["cosine"] < 0.999
    student = Embedder.from_pretrained(tmp_path / "model")
    assert student.encoder.config.num_hidden_layers == 2 and not student.encoder.gated_layers


@pytest.mark.slow
def test_frozen_model_trains_scorers_alone(begin: Begin, base: Path, weights_of: Any, tmp_path: Path) -> None:
    begin(tmp_path, "freeze=model")
    before = BertModel.from_pretrained(base, add_pooling_layer=False).state_dict()
    after = weights_of(tmp_path / "checkpoints" / "last.ckpt")
    assert all(torch.equal(after[f"encoder.{name}"], value) for name, value in before.items())
    scorers = [value for name, value in after.items() if name.startswith("policy.scorers.0") and value.dim() > 1]
    assert scorers and any(bool(value.abs().max() > 0) for value in scorers)


@pytest.mark.slow
@pytest.mark.parametrize("losses", [("task.head.neighbors=1", "task.head.cosine=0"), ("distill.token_states=1",)])
def test_other_losses_change_the_weights(
    losses: tuple[str, ...], distilled: tuple[Path, Any], begin: Begin, tmp_path: Path
) -> None:
    begin(tmp_path, *losses)
    assert not same_weights(distilled[0] / "checkpoints" / "last.ckpt", tmp_path / "checkpoints" / "last.ckpt")


@pytest.mark.slow
def test_one_checkpoint_serves_a_range_of_budgets(begin: Begin, texts: Path, tmp_path: Path) -> None:
    begin(tmp_path, "budgets.sampled=1", "budgets.low=0.1", "budgets.high=0.7", f"output={tmp_path}/model")
    model, rows = Embedder.from_pretrained(tmp_path / "model"), held_out(texts)
    kept = {rho: model.kept_tokens(max(rows, key=len), rho) for rho in (0.7, 0.3, 0.1)}
    counts = [sum(each.depth) for each in kept.values()]
    assert counts[0] > counts[1] > counts[2]
    assert model.encoder.settings.budgets == (0.1, 0.7)


@pytest.mark.slow
def test_run_that_time_ends_has_a_record(begin: Begin, tmp_path: Path) -> None:
    time_limit = ("trainer.max_time={seconds: 2}", "trainer.max_epochs=-1", "trainer.val_check_interval=1.0")
    record = begin(tmp_path, *time_limit)
    steps = record["training"]["steps"]
    assert 0 < steps < 10_000 and (tmp_path / "record.json").exists()
    content = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["global_step"] == steps
    rates = content["lr_schedulers"][0]
    assert rates["_last_lr"][0] < 0.5 * rates["base_lrs"][0], "the learning rate falls with the time that is left"


def test_missing_teacher_and_wrong_parts_are_refused(
    begin: Begin, start_bare: Any, base: Path, texts: Path, tmp_path: Path
) -> None:
    bare = ("task=embedding", f"texts={texts}", "compare=[]", "trainer.accelerator=cpu")
    with pytest.raises(ConfigError, match=r"distill\.weight: must be 1, got 0\.0: this task has no labels"):
        start_bare(tmp_path, *bare, "backbone=minilm", f"backbone.path={base}")
    taught = ("distill.weight=1", "distill.teacher=backbone")
    with pytest.raises(ConfigError, match=r"distill\.teacher: backbone needs a pretrained encoder, tiny is"):
        start_bare(tmp_path, *bare, *taught, "task.data.max_length=48")
    with pytest.raises(ConfigError, match=r"distill\.teacher: backbone has no trained head for this task"):
        start_bare(
            tmp_path, "backbone=minilm", f"backbone.path={base}", "task=sst2", "task.data.max_length=48", *taught
        )
    with pytest.raises(ConfigError, match=r"output: models of task=keywords are not written as a folder"):
        start_bare(tmp_path, f"output={tmp_path}/model")
    with pytest.raises(ConfigError, match=r"texts: is required"):
        begin(tmp_path, "texts=null")
    with pytest.raises(DataError, match=r"holds other files"):
        begin(tmp_path / "run", f"output={texts.parent}")


def test_teacher_of_a_tested_checkpoint_runs_no_code(
    distilled: tuple[Path, Any], start_bare: Any, tmp_path: Path
) -> None:
    content = torch.load(distilled[0] / "checkpoints" / "last.ckpt", weights_only=True)
    hostile = tmp_path / "hostile"
    hostile.mkdir()
    marker = tmp_path / "marker"
    config = {"model_type": "bert", "auto_map": {"AutoConfig": "payload.Payload", "AutoModel": "payload.Payload"}}
    (hostile / "config.json").write_text(json.dumps(config))
    code = f"from transformers import BertConfig\nopen({str(marker)!r}, 'w').close()\nclass Payload(BertConfig): pass\n"
    (hostile / "payload.py").write_text(code)
    content["hyper_parameters"]["config"]["backbone"] |= {"path": str(hostile), "trust_remote_code": True}
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    torch.save(content, run / "checkpoints" / "last.ckpt")
    (run / "encoder").symlink_to(distilled[0] / "encoder")
    with pytest.raises((ConfigError, CheckpointError)):
        test = ("mode=test", f"ckpt={run}/checkpoints/last.ckpt", "trainer.accelerator=cpu")
        start_bare(tmp_path / "test", *test)
    assert not marker.exists()
    PretrainedBackbone(name="hostile", path=str(hostile), trust_remote_code=True).config()
    assert marker.exists(), "it does run code where it is allowed to, so refusing it proves something"
