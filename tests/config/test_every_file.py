"""Test that every file in conf/ composes and builds; new files are found automatically."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from retention.experiment.builder import Builder
from retention.experiment.config import check_run
from retention.experiment.parts import build_parts
from retention.models.backbone import PretrainedBackbone
from retention.policies.bases.retention_policy import RetentionPolicy
from retention.training.phases import TrainingPhases

CONF = Path(__file__).parents[2] / "conf"
ALL_FILES = sorted(path.relative_to(CONF) for path in CONF.rglob("*.yaml") if path.parent != CONF)
# files that only tasks of decoders use; tests/config/test_decoder_tasks.py builds them
DECODER_FILES = {
    Path(name)
    for name in (
        *("backbone/decoder.yaml", "cache/language_modeling.yaml", "cache/recall.yaml", "callbacks/decoder.yaml"),
        *("experiment/recall_quick.yaml", "task/language_modeling.yaml", "task/recall.yaml", "trainer/decoder.yaml"),
    )
}
FILES = [path for path in ALL_FILES if path not in DECODER_FILES]
MAIN = OmegaConf.load(CONF / "config.yaml")
DEFAULT_GROUPS = {str(group) for entry in MAIN["defaults"] if not isinstance(entry, str) for group in entry}

Composed = Callable[..., DictConfig]


def names(group: str) -> list[str]:
    return [path.stem for path in FILES if path.parent.as_posix() == group]


def override(path: Path) -> str:
    """Return the override that selects a file; groups without a default are added with a plus sign."""
    group = path.parent.as_posix()
    return f"{'' if group in DEFAULT_GROUPS else '+'}{group}={path.stem}"


def local_data(content: DictConfig) -> list[str]:
    """Return the override that tasks without a hub data set require: a folder."""
    tasks = [content, *(OmegaConf.load(CONF / "task" / f"{name}.yaml") for name in chosen(content, "task"))]
    without_hub = any("hub" in task.get("data", {}) and task.data.hub is None for task in tasks)
    return [f"data.dir={CONF}"] if without_hub else []


def chosen(content: DictConfig, group: str) -> list[str]:
    """Return the option of a config group that an experiment chooses, if any."""
    defaults = [each for each in content.get("defaults", []) if not isinstance(each, str)]
    return [str(each[f"override /{group}"]) for each in defaults if f"override /{group}" in each]


def required(path: Path) -> list[str]:
    """Return overrides that a file requires: texts, the path of a model, a decoder or a classifier, a teacher."""
    content = OmegaConf.load(CONF / path)
    name = content.get("head", {}).get("_target_")
    target = None if name is None else get_object(name)
    typed = [f"texts={__file__}", *local_data(content)]
    if getattr(target, "loads", "encoder") == "encoder_decoder":
        typed.append("backbone=led")
    if getattr(target, "loads", "encoder") == "classifier":
        typed.append("backbone=pretrained")
    if "backbone=pretrained" in typed or path.stem == "pretrained" or chosen(content, "backbone") == ["pretrained"]:
        typed.append("backbone.path=pretrained")
    if getattr(target, "compares_with_teacher", False):
        typed.append("distill.weight=1")
    if "distill" in content or "distill.weight=1" in typed:
        typed.append(f"distill.teacher={__file__}")
    return typed


def test_config_groups_exist() -> None:
    groups = {path.parent.as_posix() for path in FILES}
    assert {"task", "backbone", "dual", "retention", "trainer", "callbacks", "logger", "experiment"} <= groups
    assert {"adaptive", "dense", "random"} <= set(names("retention"))
    assert set(ALL_FILES) >= DECODER_FILES


@pytest.mark.usefixtures("small_pretrained")
@pytest.mark.parametrize("path", FILES, ids=str)
def test_every_file_composes_and_builds(path: Path, composed: Composed) -> None:
    config = composed(override(path), *required(path))
    check_run(config)
    parts = build_parts(config)
    assert parts.policy.layers or parts.policy.rho == 1.0 or parts.method == "early_exit"
    assert set(config.trainer) <= set(inspect.signature(pl.Trainer).parameters)
    assert config.task.monitor and config.task.epochs >= 1


@pytest.mark.parametrize("name", names("retention"))
def test_every_policy_takes_keep_ratio_and_layers(name: str, composed: Composed) -> None:
    policy = build_parts(composed(f"retention={name}", "retention.rho=0.25")).policy
    assert isinstance(policy, RetentionPolicy)
    gates = {"dense": (), "early_exit": (), "input_truncation": (-1,), "ltc": (1,), "mrt5": (0,), "tr_bert": (0, 1)}
    assert (policy.rho, policy.layers) == (1.0 if name == "dense" else 0.25, gates.get(name, (0, 1, 2)))


@pytest.mark.parametrize("name", names("dual"))
def test_every_dual_has_one_multiplier_per_gate(name: str, composed: Composed) -> None:
    policy: Any = build_parts(composed(f"dual={name}", "retention.slope=0.5")).policy
    assert policy.dual.multipliers.shape == (3,)
    assert type(policy.dual).__name__.lower().startswith(name)


@pytest.mark.parametrize("name", names("backbone"))
def test_backbone_has_the_name_of_its_file(name: str, composed: Composed) -> None:
    config = composed(f"backbone={name}")
    assert config.backbone.name == name
    assert config.backbone.attn_implementation is None, "the best the family has"


@pytest.mark.parametrize("name", names("task"))
def test_task_has_the_name_of_its_file(name: str, composed: Composed) -> None:
    assert composed(f"task={name}").task.name == name


@pytest.mark.usefixtures("small_pretrained")
@pytest.mark.parametrize("name", names("experiment"))
def test_overrides_take_precedence_over_experiments(name: str, composed: Composed) -> None:
    typed = ("trainer.max_epochs=7", "retention.rho=0.125", "data.train_size=11", "seed=5", f"texts={__file__}")
    typed = (*typed, *required(Path("experiment", f"{name}.yaml")))
    config = composed(f"experiment={name}", *typed)
    parts = build_parts(config)
    assert (config.trainer.max_epochs, parts.policy.rho, config.task.data.train_size) == (7, 0.125, 11)
    assert (config.task.data.seed, parts.data.settings.seed) == (5, 5)


def test_checking_keys_does_not_load_the_backbone(composed: Composed, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    monkeypatch.setattr(PretrainedBackbone, "_load", lambda self, loader, **options: loaded.append(loader.__name__))
    builder = Builder(composed("backbone=minilm", "backbone.path=nowhere"))
    assert builder.make("backbone").path == "nowhere"
    builder.finish()
    assert loaded == []


@pytest.mark.parametrize(
    ("name", "warned"),
    [("adaptive", False), ("transkimmer", False), ("infor_coef", False), ("random", True), ("ltp", True)],
)
def test_saliency_distillation_without_scorers_is_warned_of(
    name: str, warned: bool, composed: Composed, caplog: pytest.LogCaptureFixture
) -> None:
    build_parts(composed(f"retention={name}", "distillation=saliency", f"distill.teacher={__file__}"))
    assert (f"{name} has no scorers to distill into" in caplog.text) == warned


@pytest.mark.usefixtures("small_pretrained")
@pytest.mark.parametrize("typed", ["experiment=paper_method", "experiment=[sst2_small,paper_method]"])
def test_method_of_the_paper_is_trained_as_written(typed: str, composed: Composed) -> None:
    config = composed(typed)
    parts = build_parts(config)
    policy: Any = parts.policy
    assert (type(policy.dual).__name__, policy.dual.augmented, policy.dual.eta) == ("AscentDual", 0.0, 0.01)
    assert (policy.gate_config.gate_target, policy.name) == ("states", "paper")
    assert config.optimizer.policy_lr == config.optimizer.lr == config.task.lr
    assert {
        TrainingPhases(**{k: v for k, v in config.phases.items() if k != "_target_"}).at(p) for p in (0, 0.5, 0.99)
    } == {("soft", 1.0)}
    assert not any(config.distill[key] for key in ("weight", "pooled_states", "token_states", "saliency"))
