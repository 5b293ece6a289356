"""Test the command line: sweeps, several ranks, exit status, and the quality on the built-in task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
# Runs run.py and writes the dual variables of every rank.
RANKS = f"""
import os, sys, torch
sys.argv[0] = os.path.abspath(__file__)  # what the other rank is started with
import retention.experiment.encoders as experiment
build, made = experiment.build_module, []
experiment.build_module = lambda *given: made.append(build(*given)) or made[-1]
command = {str(ROOT / "run.py")!r}
exec(compile(open(command).read(), command, "exec"), {{"__name__": "__main__"}})
dual = made[0].policy.dual
rank = os.environ.get("LOCAL_RANK", "0")
torch.save({{"multipliers": dual.multipliers, "steps": dual.steps}}, f"rank{{rank}}.pt")
"""


@pytest.mark.slow
def test_sweep_over_policies(command_line: Any, tmp_path: Path) -> None:
    records = tmp_path / "runs.jsonl"
    done = command_line(
        "retention=dense,random", f"hydra.sweep.dir={tmp_path}/sweep", f"record={records}", flags=["-m"]
    )
    assert done.returncode == 0, done.stderr[-2000:]
    written = [json.loads(line) for line in records.read_text().splitlines()]
    assert [record["policy"] for record in written] == ["dense", "random"]
    checkpoints = list((tmp_path / "sweep").rglob("last.ckpt"))
    assert len(checkpoints) == 2, "one folder per job"
    assert "run.py -m" in written[0]["command"]


@pytest.mark.slow
def test_two_ranks_have_the_same_dual(command_line: Any, tmp_path: Path) -> None:
    script = tmp_path / "ranks.py"
    script.write_text(RANKS)
    records = tmp_path / "runs.jsonl"
    words = ["dual=ascent", "trainer.devices=2", "trainer.strategy=ddp", "data.test_size=31", f"record={records}"]
    words += ["task.data.batch_size=8", "phases.anneal_start=0.25"]  # the first of four steps uses no scorer
    done = command_line(*words, f"hydra.run.dir={tmp_path}/run", script=script)
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert torch.equal(ranks[0]["multipliers"], ranks[1]["multipliers"])
    assert (ranks[0]["multipliers"] > 0).any() and ranks[0]["steps"] == ranks[1]["steps"] == 3
    [line] = records.read_text().splitlines()  # written by one rank alone
    record = json.loads(line)
    hits = record["metrics"]["accuracy"] * 31
    assert hits == pytest.approx(round(hits), abs=1e-4), "every row counts once"
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert torch.equal(saved["state_dict"]["model.policy.dual.multipliers"], ranks[0]["multipliers"])


@pytest.mark.slow
def test_unusable_checkpoint_exits_with_status_2(command_line: Any, tmp_path: Path) -> None:
    done = command_line("mode=test", f"ckpt={tmp_path}/gone.ckpt", f"hydra.run.dir={tmp_path}/run", small=False)
    assert done.returncode == 2
    assert "CheckpointError: " in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_built_in_task_is_learned_at_a_tenth_of_the_tokens(command_line: Any, tmp_path: Path) -> None:
    words = ["retention.rho=0.1", "compare=[]", "trainer.accelerator=cpu", f"hydra.run.dir={tmp_path}/run"]
    done = command_line(*words, small=False)
    assert done.returncode == 0, done.stderr[-2000:]
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert record["keep_ratio"]["mean"] == pytest.approx(0.1, abs=0.02)
    assert record["metrics"]["accuracy"] >= 0.95
