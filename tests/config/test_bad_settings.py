"""Settings that make no sense are named, all at once, before anything is loaded."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra.errors import HydraException

from retention.data.base import RetentionData
from retention.errors import ConfigError, DataError
from retention.models.backbone import Backbone, PretrainedBackbone
from retention.tasks.classification.keywords import KeywordData

ROOT = Path(__file__).parents[2]
Start = Callable[..., Any]


@pytest.fixture
def nothing_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading data or building weights fails the test."""

    def refuse(*_: Any) -> None:
        raise AssertionError("data or weights were touched before the settings were checked")

    monkeypatch.setattr(RetentionData, "setup", refuse)
    monkeypatch.setattr(Backbone, "encoder", refuse)
    monkeypatch.setattr(PretrainedBackbone, "encoder", refuse)


def problems(start: Start, *typed: str) -> dict[str, str]:
    """Key -> message of everything that is wrong with a command line."""
    with pytest.raises(ConfigError) as caught:
        start(*typed)
    return {problem.key: problem.message for problem in caught.value.problems}


@pytest.mark.usefixtures("nothing_loads")
@pytest.mark.parametrize(
    ("typed", "key", "message"),
    [
        ("retention.rho=0", "retention.rho", "the kept share must be in (0, 1], got 0"),
        ("retention.rho=1.7", "retention.rho", "the kept share must be in (0, 1], got 1.7"),
        ("retention.rho=abc", "retention.rho", "must be float, got 'abc'"),
        ("+retention.rhoo=0.4", "retention.rhoo", "unknown key; did you mean rho?"),
        ("retention.gamma=0.0", "retention.gamma", "must be < 0, got 0.0"),
        ("retention.zeta=1.0", "retention.zeta", "must be > 1, got 1.0"),
        ("retention.beta=0", "retention.beta", "must be > 0, got 0"),
        ("retention.beta=-0.5", "retention.beta", "must be > 0, got -0.5"),
        ("retention.layers=[14]", "retention.layers", "layer 14 does not exist, tiny has 4 (0..3)"),
        ("retention.layers=[-1]", "retention.layers", "layer indices start at 0, got [-1]"),
        ("retention.schedule=[0.5]", "retention.schedule", "has 1 shares for 3 gated layers"),
        ("retention.schedule=cosine", "retention.schedule", "must be one of flat, linear"),
        ("retention.scorer_dim=2.5", "retention.scorer_dim", "must be int, got 2.5"),
        ("retention._target_=retention.policies.Adaptiv", "retention._target_", "Error loading"),
        ("dual.count=median", "retention.dual.count", "must be one of sigmoid, nonzero, got 'median'"),
        ("mode=foo", "mode", "must be one of fit, test, got 'foo'"),
        ("mode=test", "ckpt", "mode=test needs a checkpoint"),
        ("prune_at=after_attention", "prune_at", "must be one of after_layer with tiny, got 'after_attention'"),
        ("dropped=away", "dropped", "must be one of forward, cut, got 'away'"),
        ("+rho=0.3", "rho", "unknown key; known: "),
        ("compare=random", "compare", "must be a list such as [dense,random], got 'random'"),
        ("compare=[dense,rnadom]", "compare", "Could not find 'retention/rnadom'"),
        ("distill.weight=0.5", "distill.teacher", "there is no teacher"),
        ("distill.saliency=0.5", "distill.teacher", "there is no teacher"),
        ("phases.anneal_end=1.5", "phases.anneal_end", "must be in [0, 1], got 1.5"),
        ("optimizer.lr=0", "optimizer.lr", "must be > 0, got 0"),
        ("data.train_size=0", "task.data.train_size", "must be a whole number of at least 1 or null, got 0"),
        ("data.dir=somewhere", "task.data.dir", "must be null, keyword documents are generated; got 'somewhere'"),
        ("+task.head.pooling=max", "task.head.pooling", "must be one of cls, mean, attention, depth, got 'max'"),
        ("+task.head.num_labels=7", "task.head.num_labels", "unknown key; known keys: dropout, pooling, protect"),
        ("backbone.attn_implementation=flash", "backbone.attn_implementation", "must be one of sdpa, eager, got"),
        ("backbone.model_type=brt", "backbone.model_type", "must be a family that transformers knows"),
        ("+backbone.fields.hiden_size=8", "backbone.fields.hiden_size", "modernbert has no such configuration field"),
        ("callbacks.throughput.warmup_steps=-1", "callbacks.throughput.warmup_steps", "must be >= 0 batches, got -1"),
        ("trainer.accelerator=abacus", "trainer", "abacus"),
        ("+trainer.max_epoch=3", "trainer", "max_epoch"),
    ],
)
def test_one_bad_setting(typed: str, key: str, message: str, start: Start) -> None:
    found = problems(start, typed)
    assert list(found) == [key]
    assert message in found[key]


@pytest.mark.usefixtures("nothing_loads")
def test_everything_wrong_is_said_at_once(start: Start) -> None:
    typed = ["mode=foo", "+rho=0.3", "seed=-1", "dropped=away", "dual=ascent", "dual.eta=-1", "optimizer.lr=0"]
    typed += ["retention.rho=1.7", "retention.gamma=0.5", "+retention.rhoo=0.4", "distill.weight=0.5"]
    typed += ["phases.anneal_start=0.9", "data.test_size=0", "+task.head.pooling=max", "compare=[dense,random,foo]"]
    assert set(problems(start, *typed)) == {
        *("mode", "rho", "seed", "task.data.seed", "dropped", "retention.dual.eta", "optimizer.lr"),
        *("retention.rho", "retention.gamma", "retention.rhoo", "distill.teacher"),
        *("phases.anneal_end", "task.data.test_size", "task.head.pooling", "compare"),
    }


@pytest.mark.usefixtures("nothing_loads")
def test_rivals_are_not_trained_before_the_policy_itself_is_checked(start: Start) -> None:
    assert list(problems(start, "retention.gamma=0.5", "compare=[dense,random]")) == ["retention.gamma"]


@pytest.mark.usefixtures("small_pretrained")
def test_settings_come_before_data(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PretrainedBackbone, "tokenizer", lambda self: KeywordData.build_tokenizer())
    typed = ["task=sst2", "backbone=minilm", f"data.dir={tmp_path}/none", "compare=[]"]
    assert list(problems(start, *typed, "retention.zeta=0.5")) == ["retention.zeta"]
    with pytest.raises(DataError, match=r"none: no such folder; pass data\.dir="):
        start(*typed)


@pytest.mark.usefixtures("nothing_loads")
def test_a_backbone_out_of_reach_is_a_problem_of_its_path(start: Start, tmp_path: Path) -> None:
    typed = ["task=sst2", "backbone=minilm", f"backbone.path={tmp_path}", "optimizer.lr=0"]
    found = problems(start, *typed)
    assert set(found) == {"backbone.path", "optimizer.lr"}
    assert "the folder holds no usable model" in found["backbone.path"]


@pytest.mark.usefixtures("nothing_loads")
def test_a_task_of_texts_needs_a_backbone_with_a_tokenizer(start: Start) -> None:
    found = problems(start, "task=sst2", "backbone=tiny")
    assert "has no tokenizer; this task needs a pretrained one" in found["backbone"]


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("retention=adaptve", r"Could not find 'retention/adaptve'(?s:.*)adaptive"),
        ("task=qaspr", r"Could not find 'task/qaspr'(?s:.*)keywords"),
        ("retention.rhoo=0.4", r"Key 'rhoo' is not in struct"),
    ],
)
def test_names_that_hydra_does_not_know(typed: str, message: str, start: Start) -> None:
    with pytest.raises(HydraException) as caught:
        start(typed)
    chain = f"{caught.value}\n{caught.value.__cause__}"
    assert re.search(message, chain), chain


def test_the_command_line_says_it_without_a_traceback(tmp_path: Path) -> None:
    words = ["mode=foo", "retention.rho=1.7", f"hydra.run.dir={tmp_path}/run"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, str(ROOT / "run.py"), *words], capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    start = done.stderr.index("ConfigError: 2 problems\n")
    lines = done.stderr[start:].splitlines()
    assert lines[1:3] == [
        "  mode: must be one of fit, test, got 'foo'",
        "  retention.rho: the kept share must be in (0, 1], got 1.7",
    ]
