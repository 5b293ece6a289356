"""Every file in conf/ composes, and what it names can be built; a new file is covered by being there."""

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
from retention.experiment.config import build_parts, check_run
from retention.models.backbone import PretrainedBackbone
from retention.policies.bases.retention_policy import RetentionPolicy

CONF = Path(__file__).parents[2] / "conf"
FILES = sorted(path.relative_to(CONF) for path in CONF.rglob("*.yaml") if path.parent != CONF)
MAIN = OmegaConf.load(CONF / "config.yaml")
CHOSEN = {str(group) for entry in MAIN["defaults"] if not isinstance(entry, str) for group in entry}

Composed = Callable[..., DictConfig]


def names(group: str) -> list[str]:
    return [path.stem for path in FILES if path.parent.as_posix() == group]


def override(path: Path) -> str:
    """The command line word that chooses a file; groups that the defaults leave out are added."""
    group = path.parent.as_posix()
    return f"{'' if group in CHOSEN else '+'}{group}={path.stem}"


def needed(path: Path) -> list[str]:
    """What a file cannot do without: a task that writes text a backbone with a decoder, a pupil a teacher."""
    content = OmegaConf.load(CONF / path)
    target = content.get("head", {}).get("_target_")
    decoder = ["backbone=led"] if target is not None and getattr(get_object(target), "writes", False) else []
    return [*decoder, f"distill.teacher={__file__}"] if "distill" in content else decoder


def test_the_groups_are_found() -> None:
    groups = {path.parent.as_posix() for path in FILES}
    assert {"task", "backbone", "dual", "retention", "trainer", "callbacks", "logger", "experiment"} <= groups
    assert {"adaptive", "dense", "random"} <= set(names("retention"))


@pytest.mark.usefixtures("small_pretrained")
@pytest.mark.parametrize("path", FILES, ids=str)
def test_every_file_composes_and_builds(path: Path, composed: Composed) -> None:
    config = composed(override(path), *needed(path))
    check_run(config)
    parts = build_parts(config)
    assert parts.policy.layers or parts.policy.rho == 1.0
    assert set(config.trainer) <= set(inspect.signature(pl.Trainer).parameters)
    assert config.task.monitor and config.task.epochs >= 1


@pytest.mark.parametrize("name", names("retention"))
def test_every_policy_takes_the_share_and_the_layers_of_the_encoder(name: str, composed: Composed) -> None:
    policy = build_parts(composed(f"retention={name}", "retention.rho=0.25")).policy
    assert isinstance(policy, RetentionPolicy)
    assert (policy.rho, policy.layers) == ((1.0, ()) if name == "dense" else (0.25, (0, 1, 2)))


@pytest.mark.parametrize("name", names("dual"))
def test_every_dual_gets_one_multiplier_per_gate(name: str, composed: Composed) -> None:
    policy: Any = build_parts(composed(f"dual={name}", "retention.slope=0.5")).policy
    assert policy.dual.multipliers.shape == (3,)
    assert type(policy.dual).__name__.lower().startswith(name)


@pytest.mark.parametrize("name", names("backbone"))
def test_a_backbone_is_called_like_its_file(name: str, composed: Composed) -> None:
    config = composed(f"backbone={name}")
    assert config.backbone.name == name
    assert config.backbone.attn_implementation is None, "the best the family has"


@pytest.mark.parametrize("name", names("task"))
def test_a_task_is_called_like_its_file(name: str, composed: Composed) -> None:
    assert composed(f"task={name}").task.name == name


@pytest.mark.usefixtures("small_pretrained")
@pytest.mark.parametrize("name", names("experiment"))
def test_what_is_typed_goes_over_a_recipe(name: str, composed: Composed) -> None:
    typed = ("trainer.max_epochs=7", "retention.rho=0.125", "data.train_size=11", "seed=5")
    config = composed(f"experiment={name}", *typed)
    parts = build_parts(config)
    assert (config.trainer.max_epochs, parts.policy.rho, config.task.data.train_size) == (7, 0.125, 11)
    assert (config.task.data.seed, parts.data.settings.seed) == (5, 5)


def test_a_pretrained_backbone_is_not_loaded_to_check_its_keys(
    composed: Composed, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(PretrainedBackbone, "_load", lambda self, loader, **options: asked.append(loader.__name__))
    builder = Builder(composed("backbone=minilm", "backbone.path=nowhere"))
    assert builder.make("backbone").path == "nowhere"
    builder.finish()
    assert asked == []


@pytest.mark.parametrize(("name", "told"), [("adaptive", False), ("random", True), ("transkimmer", True)])
def test_a_guide_of_policies_without_scorers_is_warned_of(
    name: str, told: bool, composed: Composed, caplog: pytest.LogCaptureFixture
) -> None:
    build_parts(composed(f"retention={name}", "distillation=saliency", f"distill.teacher={__file__}"))
    assert (f"{name} has no scorers to guide" in caplog.text) == told
