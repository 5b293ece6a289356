"""Check that policies of other packages can be chosen by name, with a made-up installed package."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore

from retention.bench.settings import BenchSettings
from retention.errors import Checks
from retention.experiment.hydra_setup import config_dir, policy_node, register_policies
from retention.policies import Adaptive, Random
from retention.policies.registry import available_policies

MODULE = '''
from retention.policies import RetentionPolicy


class LargestNorm(RetentionPolicy):
    """Keep the tokens with the largest states."""

    def __init__(self, *, rho, schedule="linear", slope=1.0, layers=None, name=None, power=2.0):
        super().__init__(rho=rho, schedule=schedule, slope=slope, layers=layers, name=name)
        self.power = power

    def score(self, view):
        return view.hidden_states.norm(p=self.power, dim=-1)
'''
ENTRY_POINTS = "[retention.policies]\nlargest_norm = norm_policies:LargestNorm\n"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Put a package with an entry point on the path, as ``pip install`` does."""
    (tmp_path / "norm_policies.py").write_text(MODULE)
    metadata = tmp_path / "norm_policies-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: norm-policies\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    available_policies.cache_clear()
    yield tmp_path
    available_policies.cache_clear()
    ConfigStore.instance().repo.get("retention", {}).pop("largest_norm.yaml", None)
    sys.modules.pop("norm_policies", None)


@pytest.mark.usefixtures("installed")
def test_entry_point_policy_can_be_composed() -> None:
    register_policies()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = compose("config", overrides=["retention=largest_norm", "retention.power=1", "task.rho=0.3"])
    assert config.retention == {
        "_target_": "norm_policies.LargestNorm",
        "rho": 0.3,
        "schedule": "linear",
        "slope": 1.0,
        "layers": None,
        "name": "largest_norm",
        "power": 1,
    }


@pytest.mark.usefixtures("installed")
def test_entry_point_policy_can_be_measured() -> None:
    checks = Checks()
    BenchSettings(conf=config_dir(), policies=("largest_norm",)).check(checks)
    assert checks.problems == []


def test_policies_with_a_file_are_left_to_it() -> None:
    register_policies()
    assert "adaptive.yaml" not in ConfigStore.instance().repo.get("retention", {})


def test_node_has_the_defaults_of_the_constructor() -> None:
    assert policy_node("random", Random) == {
        "_target_": "retention.policies.random.Random",
        "rho": "${task.rho}",
        "schedule": "linear",
        "slope": 1.0,
        "layers": None,
        "min_tokens": 1,
        "seed": "${seed}",
    }
    node = policy_node("adaptive", Adaptive)
    assert node["dual"] == "${dual}"
    assert (node["beta"], node["scorer_kind"]) == (0.66, "gated")  # fields of nested settings are written flat


@pytest.mark.slow
def test_entry_point_policy_runs_from_the_command_line(installed: Path, run_small: Callable[..., Path]) -> None:
    folder = run_small("retention=largest_norm", "retention.power=1", python_path=[installed])
    record = json.loads((folder / "record.json").read_text())
    assert record["policy"] == "largest_norm"
    assert record["config"]["retention"]["_target_"] == "norm_policies.LargestNorm"
    assert record["config"]["retention"]["power"] == 1
