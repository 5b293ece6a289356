"""Test a policy from outside the package: one file on sys.path and one yaml file, through the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

LONGEST = '''
from retention.policies import RetentionPolicy


class Longest(RetentionPolicy):
    """Keep the tokens with the largest hidden states."""

    def score(self, view):
        return view.hidden_states.norm(dim=-1)
'''
PER_HEAD = '''
import torch

from retention.policies import RetentionPolicy


class Longest(RetentionPolicy):
    """Keep the tokens with the highest received attention in any head."""

    observes = ("attention",)

    def reduce_attention(self, probabilities, query_weights, previous=None):
        return torch.einsum("bhqk,bq->bhk", probabilities, query_weights)

    def score(self, view):
        return view.attention_statistics.amax(1)
'''
YAML = "_target_: longest.Longest\nrho: ${task.rho}\n"


@pytest.mark.slow
@pytest.mark.parametrize("policy", [LONGEST, PER_HEAD], ids=["states", "attention per head"])
def test_one_file_and_one_yaml_are_enough(policy: str, command_line: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "own" / "retention").mkdir(parents=True)
    (tmp_path / "own" / "longest.py").write_text(policy)
    (tmp_path / "own" / "retention" / "longest.yaml").write_text(YAML)
    run = (f"hydra.searchpath=[file://{tmp_path}/own]", "retention=longest", f"hydra.run.dir={tmp_path}/run")
    done = command_line(*run, path=tmp_path / "own")
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert record["policy"] == "longest" and record["keep_ratio"]["mean"] == pytest.approx(0.25, abs=0.03)
    test = ("mode=test", f"ckpt={tmp_path}/run/checkpoints/last.ckpt", f"hydra.run.dir={tmp_path}/test")
    refused = command_line(*test, path=tmp_path / "own", small=False)
    assert refused.returncode == 2 and "pass retention._target_=longest.Longest" in refused.stderr
    done = command_line(*test, "retention._target_=longest.Longest", path=tmp_path / "own", small=False)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "test" / "record.json").read_text())["metrics"] == record["metrics"]
