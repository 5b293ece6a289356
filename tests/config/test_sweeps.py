"""Test the sweeps of conf/sweep: existing policies, the paper's ranges, separate folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob
from omegaconf import DictConfig, OmegaConf
from reproduction.paper import PAPER_KEEP_RATIOS

from retention.core.flops import EncoderShape
from retention.experiment.equal_flops import policy_flops
from retention.experiment.sweeps import Sweep
from retention.policies import Adaptive

CONF = Path(__file__).parents[2] / "conf"
RECIPES = sorted(path.stem for path in (CONF / "sweep").glob("*.yaml"))
POLICIES = {path.stem for path in (CONF / "retention").glob("*.yaml")}
ABLATIONS = {"threshold", "adaptive_no_relaxation", "adaptive_joint", "adaptive_fixed_lambda"}
RANGES = {"beta": (0.1, 1.5, 0.66), "gamma": (-0.5, 0.0, -0.1), "zeta": (1.0, 1.5, 1.1)}


def composed(*typed: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=list(typed), return_hydra_config=True)


def grid(name: str) -> dict[str, list[Any]]:
    """Return key -> values of a sweep."""
    params = OmegaConf.load(CONF / "sweep" / f"{name}.yaml").hydra.sweeper.params
    overrides = OverridesParser.create().parse_overrides([f"{key}={value}" for key, value in params.items()])
    values: dict[str, list[Any]] = {}
    for override in overrides:
        value = override.value()
        if isinstance(value, Glob):
            values[override.key_or_group] = value.filter(sorted(POLICIES))
        else:
            values[override.key_or_group] = value.list if override.is_sweep_override() else [value]
    return values


def test_sweeps_of_the_papers_tables_and_figures_exist() -> None:
    required = {"dense", "table1", "table2", "table3", "figure2_beta", "figure2_gamma", "figure2_zeta"}
    assert required | {"budgets", "leaderboard"} <= set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_sweep_has_a_fixed_folder_and_no_baselines(name: str) -> None:
    config = composed(f"sweep={name}")
    assert config.hydra.sweep.dir == f"outputs/sweeps/{name}"
    assert config.hydra.mode.name == "MULTIRUN", "even without -m"
    assert config.compare == [], "the keywords task would train dense and random beside every job"
    assert grid(name)["seed"] == [0, 1, 2]


@pytest.mark.parametrize("name", RECIPES)
def test_swept_policies_exist(name: str) -> None:
    policies = grid(name).get("retention", ["dense"])
    assert set(policies) <= POLICIES and len(set(policies)) == len(policies)


def test_keep_ratios_and_policies_match_the_paper() -> None:
    assert (grid("table1")["retention.rho"], grid("table2")["retention.rho"]) == ([0.5], [0.3])
    assert grid("table1")["retention"] == grid("table2")["retention"]
    assert {"dense", "adaptive", "random", "h2o", "infor_coef"} <= set(grid("table1")["retention"])
    assert set(grid("table3")["retention"]) == {"adaptive", *ABLATIONS}
    assert set(grid("table3")["retention.rho"]) == {0.5, 0.3}
    assert (max(grid("budgets")["retention.rho"]), min(grid("budgets")["retention.rho"])) == (0.7, 0.1)


@pytest.mark.parametrize(
    ("ablation", "dual"),
    [
        ("adaptive", "ascent"),
        ("adaptive_no_relaxation", "ascent"),
        ("threshold", "ascent"),
        ("adaptive_joint", "joint"),
        ("adaptive_fixed_lambda", "fixed"),
    ],
)
def test_table_3_compares_under_the_dual_of_the_paper(ablation: str, dual: str) -> None:
    """Settings of one dual must not be merged into another."""
    config = composed("sweep=table3", f"retention={ablation}")
    assert config.retention.dual == OmegaConf.load(CONF / "dual" / f"{dual}.yaml")
    assert config.dual == OmegaConf.load(CONF / "dual" / "ascent.yaml"), "so that runs count as trained alike"


@pytest.mark.parametrize(("name", "task", "rho"), [("table5_30", "sst2", 0.3), ("table6_50", "arxiv", 0.5)])
def test_lists_of_the_paper_spend_the_flops_of_the_linear_schedule(name: str, task: str, rho: float) -> None:
    swept = grid(name)
    linear, listed = swept["retention.schedule"]
    ratios = PAPER_KEEP_RATIOS[task][rho][:-1]
    assert linear == "linear" and [round(100 * ratio, 1) for ratio in listed] == list(ratios)
    [mean] = swept["retention.rho"]
    assert mean == pytest.approx(sum(ratios) / len(ratios) / 100, abs=1e-4)
    layers = len(ratios) + 1
    shape = EncoderShape(num_layers=layers, hidden_size=384, intermediate_size=1536)
    spent = [
        policy_flops(Adaptive(rho=mean, schedule=schedule), mean, shape, 64, before_feed_forward=False)
        for schedule in (linear, listed)
    ]
    assert spent[0] == pytest.approx(spent[1], rel=0.02), "attention grows with the square: a steep schedule costs more"
    compounding = Adaptive(rho=mean, schedule="geometric")
    assert policy_flops(compounding, mean, shape, 64, before_feed_forward=False) < 0.9 * spent[1]


def test_leaderboard_includes_every_policy() -> None:
    own_recipe = {"paper"}  # experiment=paper_method
    assert set(grid("leaderboard")["retention"]) == POLICIES - ABLATIONS - own_recipe


@pytest.mark.parametrize("name", RANGES)
def test_figure_2_varies_one_hyperparameter_around_its_default(name: str) -> None:
    low, high, default = RANGES[name]
    swept = grid(f"figure2_{name}")
    assert {key for key, values in swept.items() if len(values) > 1} == {f"retention.{name}", "seed"}
    values = swept[f"retention.{name}"]
    assert default in values and composed().retention[name] == default
    assert len(values) >= 5 and low <= min(values) < default < max(values) <= high
    assert not {"gamma": {0.0}, "zeta": {1.0}}.get(name, set()) & set(values), "the limits themselves are refused"
    assert max(values) - min(values) >= 0.9 * (high - low)


def test_job_folder_is_named_after_the_overrides() -> None:
    typed = ["sweep=table2", "task=sst2", "retention=random", "seed=2", "data.dir=/some/where", "trainer.max_epochs=3"]
    Sweep()  # registers the resolver job_name
    folder = composed(*typed).hydra.sweep.subdir
    assert folder == "sst2/retention=random,trainer.max_epochs=3/seed2"
