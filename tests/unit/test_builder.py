"""Test the builder of configured objects and its error messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from omegaconf import OmegaConf

from retention.core.settings import FlatConfig
from retention.errors import ConfigError, require
from retention.experiment.builder import Builder
from retention.policies import Adaptive, Threshold
from retention.tasks.classification.head import ClassificationHead

EXACT = {"_target_": "retention.core.duals.ExactDual", "count": "sigmoid"}
ADAPTIVE = {"_target_": "retention.policies.Adaptive", "rho": 0.5, "dual": EXACT}


def builder(**nodes: Any) -> Builder:
    return Builder(OmegaConf.create(nodes))


def problems_of(made: Builder) -> dict[str, str]:
    """Return path -> message of all collected problems."""
    with pytest.raises(ConfigError) as caught:
        made.finish()
    return {problem.key: problem.message for problem in caught.value.problems}


def test_node_and_its_children_are_built() -> None:
    made = builder(retention=ADAPTIVE)
    policy = made.make("retention")
    made.finish()
    assert isinstance(policy, Adaptive) and policy.rho == 0.5 and policy.dual.count == "sigmoid"


def test_references_are_resolved() -> None:
    made = builder(rho=0.25, retention={**ADAPTIVE, "rho": "${rho}"})
    assert made.make("retention").rho == 0.25


def test_problems_of_parent_and_child_are_collected() -> None:
    made = builder(retention={**ADAPTIVE, "rho": 1.7, "dual": {**EXACT, "count": "median"}})
    assert made.make("retention") is None
    assert set(problems_of(made)) == {"retention.rho", "retention.dual.count"}


def test_valid_parent_of_a_faulty_child_is_not_returned() -> None:
    made = builder(retention={**ADAPTIVE, "dual": {**EXACT, "count": "median"}})
    assert made.make("retention") is None
    assert set(problems_of(made)) == {"retention.dual.count"}


def test_unknown_key_does_not_hide_other_problems() -> None:
    made = builder(retention={**ADAPTIVE, "rhoo": 0.4, "gamma": 0.5})
    assert made.make("retention") is None
    problems = problems_of(made)
    assert problems["retention.rhoo"] == "unknown key; did you mean rho?"
    assert set(problems) == {"retention.rhoo", "retention.gamma"}


def test_valid_keys_are_listed_without_a_similar_one() -> None:
    made = builder(dual={**EXACT, "zzz": 1})
    made.make("dual")
    assert problems_of(made) == {"dual.zzz": "unknown key; valid keys: count"}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("rho", "abc", "must be float, got 'abc'"),
        ("rho", True, "must be float, got True"),
        ("rho", None, "must be float, got None"),
        ("scorer_dim", 2.5, "must be int, got 2.5"),
        ("scorer_kind", 3, "must be str, got 3"),
    ],
)
def test_wrong_type_is_reported(key: str, value: Any, message: str) -> None:
    made = builder(retention={**ADAPTIVE, key: value})
    assert made.make("retention") is None
    assert problems_of(made) == {f"retention.{key}": message}


def test_int_is_accepted_as_float() -> None:
    made = builder(retention={**ADAPTIVE, "rho": 1})
    assert made.make("retention").rho == 1


@pytest.mark.parametrize(("value", "fits"), [(None, True), (0.1, True), ("0.1", False)])
def test_null_is_accepted_only_for_optional_parameters(value: Any, fits: bool) -> None:
    target = "retention.models.backbone.PretrainedBackbone"
    node = {"_target_": target, "name": "x", "path": "x", "attention_dropout": value}
    made = builder(backbone=node)
    assert (made.make("backbone") is not None) is fits
    if not fits:
        assert problems_of(made) == {"backbone.attention_dropout": "must be float or null, got '0.1'"}


def test_settings_of_the_base_class_are_valid_keys() -> None:
    made = builder(retention={**ADAPTIVE, "_target_": "retention.policies.Threshold", "threshold": 0.4, "beta": 0.5})
    policy = made.make("retention")
    assert isinstance(policy, Threshold) and (policy.threshold, policy.gate.beta) == (0.4, 0.5)
    worse = builder(retention={**ADAPTIVE, "_target_": "retention.policies.Threshold", "treshold": 0.4, "beta": "x"})
    worse.make("retention")
    assert problems_of(worse) == {
        "retention.treshold": "unknown key; did you mean threshold?",
        "retention.beta": "must be float, got 'x'",
    }


@pytest.mark.parametrize(
    ("node", "path", "message"),
    [
        ({**ADAPTIVE, "rho": "${nowhere}"}, "retention", "'nowhere' not found"),
        ({**ADAPTIVE, "rho": "???"}, "retention", "Missing mandatory value: rho"),
        ({"_target_": "retention.policies.Adaptiv", "rho": 0.5}, "retention._target_", "Error loading"),
        ({"rho": 0.5}, "retention", "has no _target_; choose an option of this config group"),
        (None, "retention", "has no _target_; choose an option of this config group"),
        ({"_target_": "retention.policies.Adaptive", "dual": EXACT}, "retention", "'rho'"),
    ],
)
def test_unusable_nodes_are_reported(node: Any, path: str, message: str) -> None:
    made = builder(retention=node)
    assert made.make("retention") is None
    problems = problems_of(made)
    assert list(problems) == [path] and message in problems[path]


def test_class_that_cannot_be_loaded_is_reported_with_the_cause() -> None:
    made = builder(retention={"_target_": "retention.policies.Adaptiv", "rho": 0.5}, dual={"_target_": "absent.Dual"})
    assert made.make("retention") is None and made.make("dual") is None
    problems = problems_of(made)
    for key, words in (
        ("retention", ("'retention.policies.Adaptiv'", "ModuleNotFoundError", "'Adaptiv' is importable")),
        ("dual", ("'absent.Dual'", "No module named 'absent'", "'absent' is installed")),
    ):
        assert all(word in problems[f"{key}._target_"] for word in words), problems


def test_make_later_checks_settings_now() -> None:
    node = {"_target_": "retention.tasks.classification.head.ClassificationHead", "pooling": "max", "dropot": 1.0}
    made = builder(module=node)
    made.make_later("module")
    assert set(problems_of(made)) == {"module.pooling", "module.dropot"}


def test_make_later_refuses_arguments_of_the_run() -> None:
    made = builder(module={"_target_": "retention.tasks.classification.head.ClassificationHead", "num_labels": 7})
    made.make_later("module")
    assert problems_of(made) == {"module.num_labels": "unknown key; valid keys: dropout, pooling, protect"}


def test_make_later_keeps_settings() -> None:
    made = builder(module={"_target_": "retention.tasks.classification.head.ClassificationHead", "pooling": "mean"})
    later: Any = made.make_later("module")
    made.finish()
    assert later.func is ClassificationHead and later.keywords == {"pooling": "mean"}


@dataclass(frozen=True, kw_only=True)
class Shape(FlatConfig):
    """Settings that are written flat in the node of their owner."""

    width: int = 2
    height: float = 1.0

    def __post_init__(self) -> None:
        require(self.width > 0, "width", f"must be > 0, got {self.width}")


class Box:
    """Takes a ``FlatConfig``."""

    def __init__(self, *, color: str = "red", shape: Shape = Shape()) -> None:
        require(color != "none", "color", "must be a color")
        self.color, self.shape = color, shape


BOX = {"_target_": f"{__name__}.Box"}


def test_fields_of_a_flat_config_are_keys_of_its_owner() -> None:
    made = builder(box={**BOX, "width": 5, "color": "blue"})
    box = made.make("box")
    made.finish()
    assert (box.color, box.shape) == ("blue", Shape(width=5))
    assert builder(box=BOX).make("box").shape == Shape()


@pytest.mark.parametrize(
    ("settings", "problems"),
    [
        ({"width": 0, "color": "none"}, {"box.width": "must be > 0, got 0", "box.color": "must be a color"}),
        ({"width": 2.5}, {"box.width": "must be int, got 2.5"}),
        ({"widht": 1}, {"box.widht": "unknown key; did you mean width?"}),
        ({"shape": 1}, {"box.shape": "unknown key; valid keys: color, height, width"}),
    ],
)
def test_problems_of_a_flat_config_have_flat_keys(settings: dict[str, Any], problems: dict[str, str]) -> None:
    made = builder(box={**BOX, **settings})
    assert made.make("box") is None
    assert problems_of(made) == problems
