"""Test that invalid settings are reported together, before anything is loaded."""

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
from omegaconf import OmegaConf

from retention.data.base import RetentionData
from retention.errors import ConfigError, DataError
from retention.experiment.config import baseline_config, build_runs
from retention.experiment.entry import check_overrides, main
from retention.experiment.override_keys import complete_overrides
from retention.models.backbone import Backbone, PretrainedBackbone
from retention.tasks.classification.keywords import KeywordData

ROOT = Path(__file__).parents[2]
Start = Callable[..., Any]


@pytest.fixture
def nothing_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail the test if data is read or weights are built."""

    def refuse(*_: Any) -> None:
        raise AssertionError("data or weights were touched before the settings were checked")

    monkeypatch.setattr(RetentionData, "setup", refuse)
    monkeypatch.setattr(Backbone, "encoder", refuse)
    monkeypatch.setattr(PretrainedBackbone, "encoder", refuse)


def problems(start: Start, *typed: str) -> dict[str, str]:
    """Return key -> message of all problems of a command line."""
    with pytest.raises(ConfigError) as caught:
        start(*typed)
    return {problem.key: problem.message for problem in caught.value.problems}


@pytest.mark.usefixtures("nothing_loads")
@pytest.mark.parametrize(
    ("typed", "key", "message"),
    [
        ("retention.rho=0", "retention.rho", "the target keep ratio must be in (0, 1], got 0"),
        ("retention.rho=1.7", "retention.rho", "the target keep ratio must be in (0, 1], got 1.7"),
        ("retention.rho=abc", "retention.rho", "must be float, got 'abc'"),
        ("+retention.rhoo=0.4", "retention.rhoo", "unknown key; did you mean rho?"),
        ("retention.gamma=0.0", "retention.gamma", "must be < 0, got 0.0"),
        ("retention.zeta=1.0", "retention.zeta", "must be > 1, got 1.0"),
        ("retention.beta=0", "retention.beta", "must be > 0, got 0"),
        ("retention.beta=-0.5", "retention.beta", "must be > 0, got -0.5"),
        ("retention.layers=[14]", "retention.layers", "layer 14 does not exist, tiny has 4 (0..3)"),
        (
            "retention.layers=[-2]",
            "retention.layers",
            "layer indices start at 0, -1 is the gate before layer 0, got [-2]",
        ),
        ("retention.schedule=[0.5]", "retention.schedule", "has 1 keep ratios for 3 gated layers"),
        ("retention.schedule=cosine", "retention.schedule", "must be one of flat, linear"),
        ("retention.scorer_dim=2.5", "retention.scorer_dim", "must be int, got 2.5"),
        ("retention._target_=retention.policies.Adaptiv", "retention._target_", "Error loading"),
        ("retention._target_=absent.Policy", "retention._target_", "No module named 'absent'"),
        ("logger._target_=absent.Logger", "logger._target_", "Error loading 'absent.Logger'"),
        ("retention._target_=retention.policies", "retention._target_", "is not a class or function"),
        ("+sed=1", "sed", "unknown key; did you mean seed?"),
        ("+data.trian_size=1", "data.trian_size", "unknown key; did you mean train_size?"),
        ("dual.count=median", "retention.dual.count", "must be one of sigmoid, nonzero, got 'median'"),
        ("mode=foo", "mode", "must be one of fit, test, got 'foo'"),
        ("mode=test", "ckpt", "mode=test needs a checkpoint"),
        ("prune_at=after_attention", "prune_at", "must be one of after_layer with tiny, got 'after_attention'"),
        ("dropped=away", "dropped", "must be one of forward, cut, got 'away'"),
        ("+rho=0.3", "rho", "unknown key; valid keys: "),
        ("compare=random", "compare", "must be a list such as [dense,random], got 'random'"),
        ("compare=[dense,rnadom]", "compare", "Could not find 'retention/rnadom'"),
        ("distill.weight=0.5", "distill.teacher", "needs a teacher; pass distill.teacher="),
        ("distill.saliency=0.5", "distill.teacher", "needs a teacher; pass distill.teacher="),
        ("phases.anneal_end=1.5", "phases.anneal_end", "must be in [0, 1], got 1.5"),
        ("optimizer.lr=0", "optimizer.lr", "must be > 0, got 0"),
        ("data.train_size=0", "task.data.train_size", "must be a whole number of at least 1 or null, got 0"),
        ("data.dir=somewhere", "task.data.dir", "must be null, keyword documents are generated; got 'somewhere'"),
        (
            "+task.head.pooling=max",
            "task.head.pooling",
            "must be one of cls, mean, depth, survivors, attention, got 'max'",
        ),
        ("+task.head.num_labels=7", "task.head.num_labels", "unknown key; valid keys: dropout, pooling, protect"),
        ("backbone.attn_implementation=flash", "backbone.attn_implementation", "must be one of sdpa, eager, got"),
        ("backbone.model_type=brt", "backbone.model_type", "must be a family that transformers supports"),
        ("+backbone.fields.hiden_size=8", "backbone.fields.hiden_size", "modernbert has no such configuration field"),
        ("callbacks.throughput.warmup_steps=-1", "callbacks.throughput.warmup_steps", "must be >= 0 batches, got -1"),
        ("trainer.accelerator=abacus", "trainer", "abacus"),
        ("+trainer.max_epoch=3", "trainer.max_epoch", "did you mean max_epochs?"),
    ],
)
def test_invalid_setting_is_reported(typed: str, key: str, message: str, start: Start) -> None:
    reported = problems(start, typed)
    assert list(reported) == [key]
    assert message in reported[key]


@pytest.mark.usefixtures("nothing_loads")
def test_all_problems_are_reported_together(start: Start) -> None:
    typed = ["mode=foo", "+rho=0.3", "seed=-1", "dropped=away", "dual=ascent", "dual.eta=-1", "optimizer.lr=0"]
    typed += ["retention.rho=1.7", "retention.gamma=0.5", "+retention.rhoo=0.4", "distill.weight=0.5"]
    typed += ["phases.anneal_start=0.9", "+task.head.pooling=max", "compare=[dense,random,foo]"]
    assert set(problems(start, *typed)) == {
        *("mode", "rho", "seed", "task.data.seed", "dropped", "retention.dual.eta", "optimizer.lr"),
        *("retention.rho", "retention.gamma", "retention.rhoo", "distill.teacher"),
        *("phases.anneal_end", "task.head.pooling", "compare"),
    }


@pytest.mark.usefixtures("nothing_loads")
def test_policy_is_checked_before_baselines_are_trained(start: Start) -> None:
    assert list(problems(start, "retention.gamma=0.5", "compare=[dense,random]")) == ["retention.gamma"]


def test_baselines_have_the_floor_of_the_main_policy(
    composed: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    config = composed("retention.min_tokens=16")
    baselines = {
        name: baseline_config(config, composed(f"retention={name}"), name) for name in ("dense", "random", "top")
    }
    assert baselines["random"].retention.min_tokens == 16
    assert "min_tokens" not in baselines["dense"].retention and "min_tokens" not in baselines["top"].retention
    [message] = caplog.messages
    assert "compare=[top]" in message and "retention.min_tokens=16" in message


@pytest.mark.usefixtures("small_pretrained")
def test_settings_are_checked_before_data_is_read(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PretrainedBackbone, "tokenizer", lambda self: KeywordData.build_tokenizer())
    typed = ["task=sst2", "backbone=minilm", f"data.dir={tmp_path}/none", "compare=[]"]
    assert list(problems(start, *typed, "retention.zeta=0.5")) == ["retention.zeta"]
    with pytest.raises(DataError, match=r"none: no such folder; pass data\.dir="):
        start(*typed)


@pytest.mark.usefixtures("nothing_loads")
def test_unreachable_backbone_is_reported_with_other_problems(start: Start, tmp_path: Path) -> None:
    typed = ["task=sst2", "backbone=minilm", f"backbone.path={tmp_path}", "optimizer.lr=0"]
    reported = problems(start, *typed)
    assert set(reported) == {"backbone.path", "optimizer.lr"}
    assert "the folder holds no usable model" in reported["backbone.path"]


@pytest.mark.usefixtures("nothing_loads")
def test_text_task_needs_a_backbone_with_a_tokenizer(start: Start) -> None:
    reported = problems(start, "task=sst2", "backbone=tiny")
    assert "has no tokenizer; this task needs a pretrained one" in reported["backbone"]


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("retention=adaptve", r"Could not find 'retention/adaptve'(?s:.*)adaptive"),
        ("task=qaspr", r"Could not find 'task/qaspr'(?s:.*)keywords"),
        ("retention.rhoo=0.4", r"Key 'rhoo' is not in struct"),
    ],
)
def test_unknown_options_are_reported_by_hydra(typed: str, message: str, start: Start) -> None:
    with pytest.raises(HydraException) as caught:
        start(typed)
    chain = f"{caught.value}\n{caught.value.__cause__}"
    assert re.search(message, chain), chain


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("retention.roh=0.3", "unknown key; did you mean retention.rho?"),
        ("retenion.rho=0.3", "unknown key; did you mean retention.rho?"),
        ("sed=1", "unknown key; did you mean seed?"),
        ("seed.x=1", "unknown key; seed has no keys"),
        ("hydra.run.dirr=x", "unknown key; did you mean hydra.run.dir?"),
        ("retention.zzz=1", "unknown key; valid keys: beta, "),
        (
            "task.head.pooling=mean",
            "is not in the configuration files; add it with a plus sign: +task.head.pooling=mean",
        ),
        ("trainer.max_steps=5", "add it with a plus sign: +trainer.max_steps=5"),
        ("trainer.max_epoch=5", "unknown key; did you mean trainer.max_epochs?"),
        ("retention.roh=0.3,0.5", "unknown key; did you mean retention.rho?"),
    ],
)
def test_unknown_keys_are_reported_with_similar_ones(typed: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        complete_overrides(["-m", "seed=0", typed])
    [problem] = caught.value.problems
    assert problem.key == typed.partition("=")[0] and message in problem.message


def test_all_unknown_keys_are_reported_and_other_faults_are_left_to_hydra() -> None:
    with pytest.raises(ConfigError) as caught:
        complete_overrides(["retention.roh=0.3", "seed=1", "data.trian_size=3", "data.trian_size=4"])
    assert [problem.key for problem in caught.value.problems] == [
        *("retention.roh", "data.trian_size", "data.trian_size"),
    ]
    for words in (
        *(["retention=adaptve", "retention.roh=1"], ["~zzz"], ["+task.head.pooling=mean"], ["a=b=c"], ["--cfg", "job"]),
        *(["-m", "seed=interval(0,1)"], ["-m", "sweep=table2", "retention.treshold=0.1,0.2"]),
        *(["--config-dir=elsewhere", "retention.roh=1"], ["retention.schedule=[0.5,0.3]", "hydra.run.dir=x"]),
    ):
        assert complete_overrides(words) == words


def test_keys_of_the_tested_run_need_no_plus_sign(tmp_path: Path) -> None:
    data = {"_target_": "retention.tasks.question_answering.squad.SquadData", "stride": 8}
    run = {"task": {"data": data}, "retention": {"threshold": 0.5}}
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(run)))
    words = ["mode=test", f"ckpt={tmp_path}/checkpoints/last.ckpt"]
    typed = ["task.data.stride=4", "retention.threshold=0.1,0.2", "task.data.no_answer_threshold=0.7"]
    assert complete_overrides(["-m", *words, *typed]) == ["-m", *words, *(f"+{word}" for word in typed)]
    with pytest.raises(ConfigError, match=r"task\.data\.strde: unknown key"):
        complete_overrides([*words, "task.data.strde=4"])
    with pytest.raises(ConfigError, match=r"retention\.threshold: unknown key"):
        complete_overrides(["mode=fit", words[1], typed[1]])


def test_command_line_reports_an_unknown_key_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["run.py"])
    with pytest.raises(SystemExit) as caught:
        main(["retention.roh=0.3"])
    assert caught.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["ConfigError: 1 problem", "  retention.roh: unknown key; did you mean retention.rho?"]


LISTED = "retention.schedule=[0.8,0.5,0.2]"


@pytest.mark.parametrize(
    ("typed", "rho"),
    [
        (["task.name=x"], 0.5),
        (["retention.rho=0.5"], 0.5),
        (["retention.rho=0.504"], 0.504),
        (["retention.schedule=[0.8,0.5,0.3]"], 0.5333),
    ],
)
def test_list_of_keep_ratios_sets_rho_to_their_mean(typed: list[str], rho: float, composed: Callable[..., Any]) -> None:
    overrides = [LISTED, *typed]
    runs = build_runs(composed(*overrides), lambda extra: composed(*extra), overrides)
    assert [each.retention.rho for each, _ in runs][1:] == [rho, rho], "the baseline random, and the policy"
    assert runs[-1][1].policy.rho == rho  # type: ignore[union-attr]


@pytest.mark.parametrize("typed", ["retention.rho=0.3", "task.rho=0.6"])
def test_rho_that_contradicts_a_list_of_keep_ratios_is_refused(typed: str, composed: Callable[..., Any]) -> None:
    config = composed(LISTED, typed)
    with pytest.raises(ConfigError, match=r"retention\.rho: is 0\.\d, but .* have the mean 0\.5; leave rho out"):
        build_runs(config, lambda extra: composed(*extra), [LISTED, typed])


def test_command_line_reports_problems_without_a_traceback(tmp_path: Path) -> None:
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
        "  retention.rho: the target keep ratio must be in (0, 1], got 1.7",
    ]


def test_renamed_keys_are_reported_with_their_new_names(tmp_path: Path) -> None:
    words = ["place=after_attention", "retention.inner=16", "task.module.units=sentences", "guidance=saliency"]
    words += ["phases.removal_start=0.5", "seed=1"]
    with pytest.raises(ConfigError) as caught:
        check_overrides(["-m", "hydra.run.dir=x", *words])
    assert {problem.key: problem.message.rpartition(" ")[2] for problem in caught.value.problems} == {
        "place": "prune_at=after_attention",
        "retention.inner": "retention.scorer_dim=16",
        "task.module.units": "task.head.spans=sentences",
        "guidance": "distillation=saliency",
        "phases.removal_start": "phases.pruning_start=0.5",
    }
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, str(ROOT / "run.py"), "-m", "+retention.carry=true,false"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 2 and "use +retention.token_fusion=true,false" in done.stderr
