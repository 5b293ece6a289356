"""Conditions on what the ranks of finished runs ended with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from reproduction.distributed.faults import MESSAGE
from reproduction.distributed.jobs import RECORDS, STEPS, TEST
from reproduction.distributed.launch import Launch
from reproduction.distributed.runs import Runs

TOLERANCE = 1e-5  # largest difference of a weight between one process and two; scores are float32 in a float64 model
FSDP_TOLERANCE = 1e-4  # the same between DDP and FSDP, in float32
State = Mapping[str, Any]


def difference(one: State, other: State) -> float:
    """Return the largest absolute difference between two states; infinite if their names differ."""
    if one.keys() != other.keys():
        return float("inf")
    return max(float((value.double() - other[name].double()).abs().max()) for name, value in one.items())


def _same(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def ranks_agree(runs: Runs, name: str) -> bool:
    """Return True if both ranks have the same weights and buffers, bit for bit."""
    ranks = runs.two.ranks(name)
    return len(ranks) == 2 and _same(ranks[0]["state"], ranks[1]["state"])


def resumed_is_whole(runs: Runs, name: str, folder: str | None = None, whole: str = "ascent") -> bool:
    """Return True if a resumed run has the weights, metrics and predictions of the uninterrupted one, ``whole``."""
    expected, resumed = runs.two.ranks(whole), runs.two.ranks(name)
    pairs = list(zip(expected, resumed, strict=True)) if len(expected) == len(resumed) == 2 else []
    same = [_same(a["state"], b["state"]) and a["metrics"] == b["metrics"] for a, b in pairs]
    return bool(same) and all(same) and _predictions(runs, whole) == _predictions(runs, folder or name)


def _predictions(runs: Runs, name: str) -> str:
    file = runs.two.folder / name / "predictions.jsonl"
    return file.read_text() if file.exists() else ""


def learned(runs: Runs, name: str, ending: str) -> bool:
    """Return True if a state with this ending of its name has moved away from 0."""
    values = [value for key, value in runs.two.ranks(name)[0]["state"].items() if key.endswith(ending)]
    return bool(values) and all(bool((value != 0).any()) for value in values)


def drawn(runs: Runs, name: str) -> bool:
    """Return True if both ranks drew the same budgets, and not always the same one."""
    first, second = (each["budgets"] for each in runs.two.ranks(name))
    return len(set(first)) > 1 and first == second


def rows_are_exact(runs: Runs, name: str) -> bool:
    """Return True if two ranks give the metrics of one process, and the same predictions for every row once."""
    one, two = runs.one["tested"]["metrics"], runs.two.ranks(name)[0]["metrics"]
    rows = [json.loads(line)["index"] for line in _predictions(runs, name).splitlines()]
    once = sorted(rows) == list(range(TEST))
    same = all(abs(one[key] - two[key]) < 1e-6 for key in one)
    return once and same and _predictions(runs, name) == _predictions(runs, "one/tested")


def lines(folder: Path) -> int:
    """Return the number of records that a folder of jobs has in its record file."""
    file = folder / RECORDS
    return len(file.read_text().splitlines()) if file.exists() else 0


def is_one_process(runs: Runs, name: str, other: str | None = None) -> bool:
    """Return True if two processes end with the weights of one, which may have run ``other``."""
    return difference(runs.one[other or name]["state"], runs.two.ranks(name)[0]["state"]) < TOLERANCE


def is_like_ddp(runs: Runs, name: str) -> bool:
    """Return True if FSDP ends with the weights of a DDP job."""
    return difference(runs.two.ranks("sharded")[0]["state"], runs.two.ranks(name)[0]["state"]) < FSDP_TOLERANCE


def stopped_by_launcher(runs: Runs) -> bool:
    """Return True if SIGTERM to the launcher left a checkpoint of the end of an epoch, and no record."""
    done = runs.terminated
    checkpoint = done.folder / "terminated" / "checkpoints" / "last.ckpt"
    if done.status in (None, 0) or lines(done.folder) or not checkpoint.exists():
        return False
    return int(torch.load(checkpoint, weights_only=True)["global_step"]) in (STEPS, 2 * STEPS)


def ended_with_message(done: Launch) -> bool:
    """Return True if all processes ended by themselves, with the message of the error and no record."""
    recorded = lines(done.folder) or (done.folder / "failed" / "record.json").exists()
    return done.status not in (None, 0) and MESSAGE in done.output and not recorded
