"""From nodes to objects: what is built, and what is said about what cannot be."""

from __future__ import annotations

from typing import Any

import pytest
from omegaconf import OmegaConf

from retention.errors import ConfigError
from retention.experiment.builder import Builder
from retention.policies import Adaptive, Threshold
from retention.tasks.classification.head import ClassificationModule

EXACT = {"_target_": "retention.core.duals.ExactDual", "count": "sigmoid"}
ADAPTIVE = {"_target_": "retention.policies.Adaptive", "rho": 0.5, "dual": EXACT}


def builder(**nodes: Any) -> Builder:
    return Builder(OmegaConf.create(nodes))


def found(made: Builder) -> dict[str, str]:
    """Path -> message of everything that was found."""
    with pytest.raises(ConfigError) as caught:
        made.finish()
    return {problem.key: problem.message for problem in caught.value.problems}


def test_a_node_and_its_children_are_built() -> None:
    made = builder(retention=ADAPTIVE)
    policy = made.make("retention")
    made.finish()
    assert isinstance(policy, Adaptive) and policy.rho == 0.5 and policy.dual.count == "sigmoid"


def test_values_follow_references() -> None:
    made = builder(rho=0.25, retention={**ADAPTIVE, "rho": "${rho}"})
    assert made.make("retention").rho == 0.25


def test_parent_and_child_complain_together() -> None:
    made = builder(retention={**ADAPTIVE, "rho": 1.7, "dual": {**EXACT, "count": "median"}})
    assert made.make("retention") is None
    assert set(found(made)) == {"retention.rho", "retention.dual.count"}


def test_a_sound_parent_of_a_broken_child_is_not_handed_out() -> None:
    made = builder(retention={**ADAPTIVE, "dual": {**EXACT, "count": "median"}})
    assert made.make("retention") is None
    assert set(found(made)) == {"retention.dual.count"}


def test_an_unknown_key_does_not_hide_the_other_problems() -> None:
    made = builder(retention={**ADAPTIVE, "rhoo": 0.4, "gamma": 0.5})
    assert made.make("retention") is None
    problems = found(made)
    assert problems["retention.rhoo"] == "unknown key; did you mean rho?"
    assert set(problems) == {"retention.rhoo", "retention.gamma"}


def test_without_a_similar_key_the_known_ones_are_listed() -> None:
    made = builder(dual={**EXACT, "zzz": 1})
    made.make("dual")
    assert found(made) == {"dual.zzz": "unknown key; known keys: count"}


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
def test_wrong_types(key: str, value: Any, message: str) -> None:
    made = builder(retention={**ADAPTIVE, key: value})
    assert made.make("retention") is None
    assert found(made) == {f"retention.{key}": message}


def test_a_whole_number_is_a_float() -> None:
    made = builder(retention={**ADAPTIVE, "rho": 1})
    assert made.make("retention").rho == 1


@pytest.mark.parametrize(("value", "fits"), [(None, True), (0.1, True), ("0.1", False)])
def test_null_only_where_it_is_allowed(value: Any, fits: bool) -> None:
    node = {"_target_": "retention.models.backbone.Pretrained", "name": "x", "path": "x", "attention_dropout": value}
    made = builder(backbone=node)
    assert (made.make("backbone") is not None) is fits
    if not fits:
        assert found(made) == {"backbone.attention_dropout": "must be float or null, got '0.1'"}


def test_settings_that_a_class_hands_to_its_base_are_known() -> None:
    made = builder(retention={**ADAPTIVE, "_target_": "retention.policies.Threshold", "threshold": 0.4, "beta": 0.5})
    policy = made.make("retention")
    assert isinstance(policy, Threshold) and (policy.threshold, policy.gate.beta) == (0.4, 0.5)
    worse = builder(retention={**ADAPTIVE, "_target_": "retention.policies.Threshold", "treshold": 0.4, "beta": "x"})
    worse.make("retention")
    assert found(worse) == {
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
def test_nodes_that_cannot_be_built(node: Any, path: str, message: str) -> None:
    made = builder(retention=node)
    assert made.make("retention") is None
    problems = found(made)
    assert list(problems) == [path] and message in problems[path]


def test_a_class_for_later_is_checked_now() -> None:
    node = {"_target_": "retention.tasks.classification.head.ClassificationModule", "pooling": "max", "dropout": 1.0}
    made = builder(module=node)
    made.make_later("module")
    assert set(found(made)) == {"module.pooling", "module.dropout"}


def test_what_the_run_decides_is_no_setting_of_a_class_for_later() -> None:
    made = builder(module={"_target_": "retention.tasks.classification.head.ClassificationModule", "num_labels": 7})
    made.make_later("module")
    assert found(made) == {"module.num_labels": "unknown key; known keys: dropout, pooling, protect"}


def test_a_class_for_later_keeps_its_settings() -> None:
    made = builder(module={"_target_": "retention.tasks.classification.head.ClassificationModule", "pooling": "mean"})
    later: Any = made.make_later("module")
    made.finish()
    assert later.func is ClassificationModule and later.keywords == {"pooling": "mean"}
