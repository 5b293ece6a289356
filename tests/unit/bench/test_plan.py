"""Check that all problems of the settings are reported together, before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retention.bench import main
from retention.bench.plan import BenchPlan, build_plan
from retention.bench.settings import SHAPES, BenchSettings
from retention.engine import adapter_for
from retention.errors import ConfigError


def problems(make: Callable[[], object]) -> dict[str, str]:
    """Return key -> message of every reported problem."""
    with pytest.raises(ConfigError) as caught:
        make()
    return {problem.key: problem.message for problem in caught.value.problems}


def test_all_problems_of_the_command_line_are_reported_together(settings: Callable[..., BenchSettings]) -> None:
    wrong = settings(
        phase="sleep",
        lengths=(2, 16),
        batches=0,
        rounds=0,
        threads=0,
        dtype="float8",
        device="tpu",
        shape="giant",
        policies=("adaptive", "mystery"),
        task="chess",
    )
    reported = problems(lambda: build_plan(wrong))
    flags = ["phase", "length", "batches", "rounds", "threads", "dtype", "device", "shape", "policy", "task"]
    assert sorted(reported) == sorted(f"--{flag}" for flag in flags)
    assert "mystery" in reported["--policy"] and "truncate" in reported["--policy"]


@pytest.mark.parametrize(
    ("changes", "key", "fragment"),
    [
        ({"task": "imdb", "synthetic": True}, "--synthetic", "choose one"),
        ({"data": "somewhere"}, "--data", "--task"),
        ({"policies": ("dense",)}, "--policy", "baseline"),
        ({"phase": "train", "dtype": "float16"}, "--dtype", "loss scaler"),
        ({"rhos": (0.5, 0.5)}, "--rho", "twice"),
        ({"rhos": (0.5, 1.7)}, "retention.rho", "1.7"),
        ({"slope": 3.0}, "retention.slope", "[0, 1]"),
        ({"schedule": "wobbly"}, "retention.schedule", "geometric"),
        ({"schedule": (0.9, 0.5), "rhos": (0.7,)}, "retention.schedule", "1 gated layer"),
        ({"schedule": (0.25,), "rhos": (0.5,)}, "retention.rho", "have the mean 0.25"),
        ({"lengths": (141,)}, "--length", "at most 140"),
        ({"backbone": "nothing.yaml"}, "--backbone", "no such file"),
        ({"backbone": "nothing"}, "--backbone", "minilm"),
        ({"sets": ("retention.mystery=1",)}, "retention.mystery", "unknown key"),
        ({"sets": ("mystery.rho=1",)}, "mystery", "not in struct"),
        ({"sets": ("mystery",)}, "mystery", "not in struct"),
        ({"task": "keywords", "sets": ("data.test_size=0",)}, "task.data.test_size", "at least 1"),
    ],
)
def test_single_problem(
    settings: Callable[..., BenchSettings], changes: dict[str, Any], key: str, fragment: str
) -> None:
    reported = problems(lambda: build_plan(settings(**changes)))
    assert list(reported) == [key]
    assert fragment in reported[key]


def test_candidates_are_policies_times_keep_ratios(plan: Callable[..., BenchPlan]) -> None:
    made = plan(policies=("random", "adaptive"), rhos=(0.5, 0.3), schedule="flat")
    assert [(each.name, each.policy.rho) for each in made.candidates] == [
        ("random", 0.5),
        ("random", 0.3),
        ("adaptive", 0.5),
        ("adaptive", 0.3),
    ]
    assert [each.policy.budget.keep_ratios().tolist() for each in made.candidates[:2]] == [[0.5], [pytest.approx(0.3)]]
    assert made.candidates[0].node["schedule"] == "flat"
    assert made.attention == ("sdpa", "eager")


def test_set_reaches_policy_and_encoder(plan: Callable[..., BenchPlan]) -> None:
    made = plan(policies=("adaptive",), sets=("retention.scorer_dim=5", "backbone.attn_implementation=eager"))
    assert made.candidates[0].policy.scorer_macs() == {0: 2 * 16 * 5 + 5}
    assert made.attention == ("eager", "sdpa")


def test_schedule_can_be_a_list(plan: Callable[..., BenchPlan]) -> None:
    made = plan(policies=("truncate",), schedule=(0.25,), rhos=(0.25,))
    assert made.candidates[0].policy.budget.keep_ratios().tolist() == [0.25]


def test_the_command_takes_the_keep_ratio_from_a_list() -> None:
    def rhos(*words: str) -> tuple[float, ...]:
        return main._settings(main.build_parser().parse_args(list(words))).rhos

    assert rhos("--schedule", "0.5", "0.25") == (0.375,)
    assert rhos("--schedule", "0.5", "0.25", "--rho", "0.3") == (0.3,)  # build_plan refuses it
    assert rhos("--schedule", "flat") == rhos() == (0.5, 0.3, 0.1)


def test_path_replaces_the_checkpoint_and_is_not_parsed(settings: Callable[..., BenchSettings], tmp_path: Path) -> None:
    folder = tmp_path / "a=1"
    folder.mkdir()
    reported = problems(lambda: build_plan(settings(backbone=None, path=str(folder))))
    assert list(reported) == ["backbone.path"]
    assert str(folder) in reported["backbone.path"]


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_with_random_weights_need_no_files(settings: Callable[..., BenchSettings], shape: str) -> None:
    made = build_plan(settings(backbone=None, shape=shape, lengths=(600,), policies=("truncate",)))
    config = made.backbone.config(10)
    assert made.backbone.name == f"{shape}-random"
    assert config.max_position_embeddings == (602 if shape == "longformer" else 600)
    assert made.shape == adapter_for(config.model_type).shape(config)


def test_dimensions_of_the_shapes(settings: Callable[..., BenchSettings]) -> None:
    sizes = {}
    for shape in SHAPES:
        made = build_plan(settings(backbone=None, shape=shape, policies=("truncate",))).shape
        sizes[shape] = (made.num_layers, made.hidden_size, made.intermediate_size)
    assert sizes == {
        "distilbert": (6, 768, 3072),
        "bert": (12, 768, 3072),
        "minilm": (6, 384, 1536),
        "longformer": (12, 768, 3072),
        "modernbert": (22, 768, 1152),
    }
