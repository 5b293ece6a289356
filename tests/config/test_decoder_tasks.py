"""Test the configuration of tasks of decoders: every file builds, invalid settings are named before anything loads."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf
from reproduction.reliability.configurations import VALUES, Change, check_change, keys_of
from reproduction.reliability.outcome import CLEAR, RIGHT, classify
from tests.config.test_every_file import DECODER_FILES
from transformers import AutoConfig, BertConfig

from retention.errors import ConfigError
from retention.experiment.config import build_runs
from retention.experiment.decoders import DecoderParts
from retention.tasks.decoding.pretrained import PretrainedDecoder
from retention.tasks.language_modeling.task import LanguageModeling
from retention.tasks.recall.task import Recall

CASES = 150
Composed = Callable[..., DictConfig]


@pytest.fixture
def decoder_folder(tmp_path: Path) -> str:
    """Return a folder with the configuration of a small decoder, without weights."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    AutoConfig.for_model("llama", max_position_embeddings=1024, **sizes).save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.fixture
def texts(tmp_path: Path) -> str:
    """Return a file of texts."""
    (tmp_path / "texts.txt").write_text("a text\n")
    return str(tmp_path / "texts.txt")


@pytest.fixture
def modeling(decoder_folder: str, texts: str) -> tuple[str, ...]:
    """Return the overrides that ``task=language_modeling`` requires."""
    return ("task=language_modeling", f"backbone.path={decoder_folder}", f"texts={texts}")


@pytest.fixture
def built(composed: Composed) -> Callable[..., tuple[DictConfig, DecoderParts]]:
    """Return a function that checks and builds a command line as a run does before it loads anything."""

    def build(*typed: str) -> Any:
        [run] = build_runs(composed(*typed), lambda extra: composed(*extra), typed)
        return run

    return build


@pytest.mark.parametrize("path", sorted(DECODER_FILES), ids=str)
def test_every_file_builds(path: Path, built: Any, modeling: tuple[str, ...]) -> None:
    group, name = path.parent.as_posix(), path.stem
    if group == "experiment":
        typed: tuple[str, ...] = (f"experiment={name}",)
    elif name == "recall":
        typed = ("task=recall",)
    else:
        typed = (*modeling, *(() if group == "task" else (f"{group}={name}",)))
    config, parts = built(*typed)
    assert isinstance(parts, DecoderParts) and parts.callbacks and len(parts.loggers) == 1
    assert config.trainer.max_epochs == parts.task.epochs() >= 1
    assert not {"retention", "dual", "optimizer", "phases", "distill", "data"} & set(config)


def test_tasks_have_the_budget_and_phases_of_their_files(built: Any, modeling: tuple[str, ...]) -> None:
    config, parts = built(*modeling, "cache.size=64", "cache.window=32", "task.sizes=[32,128]")
    assert isinstance(parts.task, LanguageModeling) and config.task.name == "language_modeling"
    sizes = [(budget.size, budget.sinks, budget.window) for budget in parts.task.budgets(parts.budget)]
    assert sizes == [(32, 4, 16), (128, 4, 64), (64, 4, 32)], "windows are scaled, the size of the training comes last"
    assert parts.task.epochs() == 7
    config, parts = built(*modeling, "task.future_attention=null")
    assert parts.task.epochs() == 2 and parts.task.future_attention is None
    config, parts = built("task=recall")
    assert isinstance(parts.task, Recall) and parts.decoder is None and "backbone" not in config
    assert parts.task.epochs() == (3000 + 640 + 60) // 100
    assert parts.task.scorer.keep_bias == 0.0 and parts.task.contexts.context == 64


@pytest.mark.parametrize(
    ("typed", "key", "message"),
    [
        ("texts=null", "task.texts", "is required: the file of texts to train on"),
        ("texts=a.csv", "texts", "must be a .txt (one text per line) or .jsonl file, got 'a.csv'"),
        ("texts=none.txt", "texts", "none.txt: no such file"),
        ("task.test_texts=none.txt", "task.test_texts", "none.txt: no such file"),
        ("backbone.path=null", "backbone.path", "is required: the folder of a decoder"),
        ("cache.size=52", "cache.size", "must be > sinks + window + block - 1, or there is nothing to choose, got 52"),
        ("cache.size=10", "cache.size", "must be >= sinks + window + block - 1 = 52, got 10"),
        ("cache.window=0", "cache.window", "must be >= 1"),
        ("cache.size=512", "task.max_length", "must be > the largest cache, 512 tokens"),
        ("task.max_length=2000", "task.max_length", "the decoder has 1024 positions, got 2000"),
        ("task.sizes=[4]", "task.sizes", "4 leaves no room beside 4 sinks and a window of 2"),
        ("task.sizes=[0]", "task.sizes", "must be null or a list of whole numbers >= 1, got 0"),
        ("task.train_size=0", "task.train_size", "must be a whole number of at least 1, got 0"),
        ("task.monitor=accuracy", "task.monitor", "must be one of loss, kl, pair_accuracy, got 'accuracy'"),
        ("task.baseline=h2o", "task.baseline", "must be null or one of compare, got 'h2o'"),
        ("task.lora=0", "task.lora", "must be a whole number of at least 1 or null, got 0"),
        ("task.distillation.epochs=0", "task.distillation.epochs", "must be >= 1, got 0"),
        ("task.future_attention.loss=mse", "task.future_attention.loss", "must be one of regression, ranking"),
        ("+task.distillation.lrr=1", "task.distillation.lrr", "unknown key; did you mean lr?"),
        ("+task.epochs=3", "task.epochs", "unknown key"),
        ("compare=[random,h20]", "compare", "must be a list of cache policies among full, streaming_llm"),
        ("compare=random", "compare", "must be a list of cache policies such as [full,random]"),
        ("retention.rho=0.3", "retention", "is not a setting of this task; leave it out (policies of the cache"),
        ("retention=random", "retention", "is not a setting of this task"),
        ("dual=ascent", "dual", "is not a setting of this task"),
        ("distillation=saliency", "distill", "is not a setting of this task; leave it out (use task.distillation)"),
        ("data.train_size=5", "data", "use task.train_size"),
        ("optimizer.lr=1", "optimizer", "each phase has its lr"),
        ("prune_at=after_attention", "prune_at", "is not a setting of this task"),
        ("flops_ratio=0.5", "flops_ratio", "is not a setting of this task"),
        ("mode=test", "mode", "must be fit; to score saved scorers, pass init=<file>"),
        ("evaluate=validation", "evaluate", "must be test"),
        ("output=scores.bin", "output", "must be the path of a .safetensors file, got 'scores.bin'"),
        ("trainer.max_epochs=3", "trainer.max_epochs", "is 7 by the phases of the task, got 3"),
        ("trainer.devices=2", "trainer.devices", "must be 1 here"),
        ("+trainer.gradient_clip_val=1", "trainer.gradient_clip_val", "set task.distillation.max_norm"),
        ("+trainer.max_epoch=3", "trainer.max_epoch", "did you mean max_epochs?"),
        ("callbacks=default", "callbacks.slack", "Slack reads another kind of model; leave it out with ~callbacks"),
        ("seed=-1", "seed", "must be a whole number in [0, 2^32), got -1"),
    ],
)
def test_invalid_setting_of_language_modeling_is_reported(
    typed: str, key: str, message: str, built: Any, modeling: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PretrainedDecoder, "load", lambda self: pytest.fail("weights were loaded"))
    with pytest.raises(ConfigError) as caught:
        built(*modeling, typed)
    reported = {problem.key: problem.message for problem in caught.value.problems}
    assert message in reported.get(key, ""), reported


@pytest.mark.parametrize(
    ("typed", "key", "message"),
    [
        ("backbone.path=x", "backbone", "the decoder is trained from scratch, see task.decoder"),
        ("texts=x.txt", "texts", "contexts are generated"),
        ("cache.size=64", "cache.size", "must be < the tokens of a context, 64"),
        ("task.contexts.pairs=17", "task.contexts.pairs", "must be in [1, keys = 16], got 17"),
        ("task.decoder.steps=0", "task.decoder.steps", "must be >= 1, got 0"),
        ("task.decoder.questions=2", "task.decoder.questions", "must be >= the keys of a context, 4, got 2"),
        ("task.test_size=0", "task.test_size", "must be a whole number of at least 1, got 0"),
        ("task.min_queries=80", "task.contexts.context", "86 are needed; make contexts longer"),
        ("task.future_attention=5", "task.future_attention", "must be a node with a _target_"),
    ],
)
def test_invalid_setting_of_recall_is_reported(typed: str, key: str, message: str, built: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        built("task=recall", typed)
    reported = {problem.key: problem.message for problem in caught.value.problems}
    assert message in reported.get(key, ""), reported


def test_an_encoder_is_refused_as_decoder(built: Any, modeling: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="backbone: this task needs a decoder; leave it out"):
        built(modeling[0], modeling[2], "backbone=tiny")
    BertConfig(hidden_size=32, num_attention_heads=2).save_pretrained(tmp_path / "bert")
    with pytest.raises(ConfigError, match=r"backbone\.model: 'bert' is not supported; supported families: llama"):
        built(*modeling, f"backbone.path={tmp_path}/bert")


def test_callbacks_of_decoders_are_refused_by_encoders(composed: Composed) -> None:
    with pytest.raises(ConfigError, match=r"callbacks\.kept: KeptPositions reads another kind of model"):
        build_runs(composed("callbacks=decoder", "compare=[]"), lambda extra: composed(*extra), [])


def test_several_problems_are_reported_together(built: Any, modeling: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        built(*modeling, "mode=foo", "seed=-1", "task.train_size=0", "cache.sinks=-1", "output=x")
    keys = {problem.key for problem in caught.value.problems}
    assert keys >= {"mode", "seed", "task.train_size", "cache.sinks", "output"}


def test_no_value_ends_in_an_error_of_an_inner_library_or_is_accepted_wrongly(
    composed: Composed, modeling: tuple[str, ...]
) -> None:
    found = []
    for typed in (("task=recall",), modeling):
        config = composed(*typed)
        keys = [
            key
            for key in keys_of(OmegaConf.to_container(config, resolve=False))  # type: ignore[arg-type]
            if key.partition(".")[0] in ("task", "cache", "trainer", "callbacks", "seed", "compare", "mode", "backbone")
        ]
        changes = [Change("value", key, value) for key in keys for value in VALUES]
        changes += [Change("deleted", key) for key in keys]
        for change in random.Random(0).sample(changes, CASES):
            outcome, reason = classify(partial(check_change, config, [change]))
            if outcome not in (RIGHT, CLEAR):
                found.append(f"{typed[0]}: {change.kind} {change.key}={change.value!r}: {outcome}: {reason}")
    assert not found, "\n".join(found)
