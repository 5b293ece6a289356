"""Order in which a series trains its models, one at a time and side by side."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from reproduction import series
from reproduction.ladder import INGREDIENTS, LADDER

from retention.records import append_record

# Replaces run.py: logs when it starts and ends, and fails if a file "fail" names its folder.
RUN = """
import os, pathlib, sys, time
root = pathlib.Path(__file__).parent
overrides = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
name = pathlib.Path(overrides["hydra.run.dir"]).name
def log(event):
    with open(root / "events", "a") as file:
        file.write(f"{event} {name} {os.environ.get('OMP_NUM_THREADS')}\\n")
log("start")
time.sleep(0.3)
print("trained", name)
(root / f"{name}.words").write_text(" ".join(sys.argv))
failing = root / "fail"
log("end")
sys.exit(3 if failing.exists() and name in failing.read_text().split() else 0)
"""


class SeriesCommand:
    """Command with its root in an empty folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "run.py").write_text(RUN)

    def __call__(self, *words: str) -> int:
        return series.main(["sst2_small", *words])

    def events(self) -> list[tuple[str, str]]:
        """Return ("start" or "end", name of the run), in order."""
        lines = (self.root / "events").read_text().splitlines()
        return [(line.split()[0], line.split()[1]) for line in lines]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SeriesCommand:
    monkeypatch.setattr(series, "ROOT", tmp_path)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return SeriesCommand(tmp_path)


def test_runs_follow_each_other(command: SeriesCommand) -> None:
    assert command("--seeds", "0", "--series", "dense", "random:0.3") == 0
    names = ["dense-stage1-seed0", "dense-1.0-seed0", "random-0.3-seed0"]
    assert command.events() == [(event, name) for name in names for event in ("start", "end")]


def test_stage_2_waits_for_its_dense_model(command: SeriesCommand) -> None:
    assert command("--seeds", "0", "1", "--series", "dense", "random:0.3", "--jobs", "2") == 0
    events = command.events()
    for seed in (0, 1):
        trained = events.index(("end", f"dense-stage1-seed{seed}"))
        assert all(trained < events.index(("start", f"{name}-seed{seed}")) for name in ("dense-1.0", "random-0.3"))
    assert {event for event, _ in events[:2]} == {"start"}, f"the first two run at once: {events}"
    parallel = most = 0
    for event, _ in events:
        parallel += 1 if event == "start" else -1
        most = max(most, parallel)
    assert most == 2


def test_parallel_runs_share_the_cores_and_log_their_output(
    command: SeriesCommand, capfd: pytest.CaptureFixture[str]
) -> None:
    assert command("--seeds", "0", "--series", "dense", "--jobs", "64") == 0
    assert all(line.split()[2] == "1" for line in (command.root / "events").read_text().splitlines())
    log = command.root / "outputs" / "quality" / "sst2_small" / "dense-1.0-seed0.log"
    assert log.read_text() == "trained dense-1.0-seed0\n"
    assert "trained" not in capfd.readouterr().out


@pytest.mark.parametrize("parallel", ["1", "3"])
def test_seed_without_its_dense_model_is_skipped(
    command: SeriesCommand, parallel: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (command.root / "fail").write_text("dense-stage1-seed0")
    assert command("--seeds", "0", "1", "--series", "dense", "--jobs", parallel) == 1
    assert {name for _, name in command.events()} == {"dense-stage1-seed0", "dense-stage1-seed1", "dense-1.0-seed1"}
    assert "dense-1.0-seed0: skipped, its dense model failed" in capfd.readouterr().err


def test_failed_policy_does_not_stop_the_others(command: SeriesCommand, capfd: pytest.CaptureFixture[str]) -> None:
    (command.root / "fail").write_text("random-0.3-seed0")
    assert command("--seeds", "0", "--series", "random:0.3", "truncate:0.3") == 1
    assert command.events()[-1] == ("end", "truncate-0.3-seed0")
    assert "random-0.3-seed0: failed with exit status 3" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--jobs", "0"], "--jobs: must be 1 or more, got 0"),
        (["--series", "dense", "task.lr=1"], "task.lr=1: put overrides before --series"),
    ],
)
def test_wrong_command_line_is_refused(
    command: SeriesCommand, words: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        command(*words)
    assert problem in capsys.readouterr().err


def test_overrides_of_stage_2_reach_the_policies_only(command: SeriesCommand) -> None:
    assert command("--seeds", "0", "--series", "adaptive:0.3", "--stage2", "distillation=saliency", "task.lr=1e-4") == 0
    first, second = "dense-stage1-seed0", "adaptive-0.3-seed0-distillation_saliency-task.lr_1e-4"
    assert [name for event, name in command.events() if event == "start"] == [first, second]
    assert "distillation" not in (command.root / f"{first}.words").read_text()
    assert (command.root / f"{second}.words").read_text().endswith(" distillation=saliency task.lr=1e-4")


def test_a_record_with_other_settings_does_not_count(command: SeriesCommand) -> None:
    record = command.root / "results" / "quality" / "sst2_small.jsonl"
    line = "run.py retention=random seed=0 hydra.run.dir=outputs/quality/sst2_small/random-0.3-seed0"
    config = {"task": {"lr": 2e-4, "epochs": 1}, "data": {"train_size": 5000, "dir": "data/sst2"}}
    fields = {"kind": "quality", "policy": "random", "rho": 0.3, "seed": 0, "command": line, "config": config}
    append_record(record, fields)
    same = ("task.lr=2e-4", "data.train_size=5000", "data.dir=/elsewhere", "retention.rho=${task.rho}")
    assert command(*same, "--seeds", "0", "--series", "random:0.3") == 0
    assert not (command.root / "events").exists()
    assert command("task.lr=1e-4", "--seeds", "0", "--series", "random:0.3") == 0
    assert ("end", "random-0.3-seed0") in command.events()


def test_runs_with_a_matching_record_are_skipped(command: SeriesCommand) -> None:
    record = command.root / "results" / "quality" / "sst2_small.jsonl"
    runs = {"dense": "outputs/trials/any-name", "adaptive": "outputs/quality/sst2_small/adaptive-0.3-seed0"}
    for policy, folder in runs.items():
        rho = 1.0 if policy == "dense" else 0.3
        line = f"python run.py hydra.run.dir={folder} init=outputs/quality/sst2_small/dense-stage1-seed0/last.ckpt"
        append_record(record, {"kind": "quality", "policy": policy, "rho": rho, "seed": 0, "command": line})
    assert command("--seeds", "0", "--series", "dense", "adaptive:0.3") == 0
    assert not (command.root / "events").exists(), "every run has a record"
    assert command("--seeds", "0", "--series", "adaptive:0.3", "--stage2", "distillation=saliency") == 0
    assert [name for event, name in command.events() if event == "end"][1:] == [
        "adaptive-0.3-seed0-distillation_saliency"
    ]


def test_a_list_gives_each_policy_overrides_of_its_own(command: SeriesCommand) -> None:
    file = command.root / "list.yaml"
    file.write_text("""
- {name: first, policy: "random:0.3", overrides: [prune_at=after_attention]}
- {name: second, policy: "random:0.3", overrides: []}
""")
    assert command("--seeds", "4", "--list", str(file)) == 0
    names = ["dense-stage1-seed4", "random-0.3-seed4-prune_at_after_attention", "random-0.3-seed4"]
    assert [name for event, name in command.events() if event == "start"] == names
    assert "prune_at=after_attention" in (command.root / f"{names[1]}.words").read_text()


@pytest.mark.parametrize(("content", "message"), [("- {policy: x}", "entry 1 must have name"), ("[", "cannot be read")])
def test_a_wrong_list_is_named(
    content: str, message: str, command: SeriesCommand, capsys: pytest.CaptureFixture[str]
) -> None:
    file = command.root / "list.yaml"
    file.write_text(content)
    with pytest.raises(SystemExit):
        command("--list", str(file))
    assert f"{file}: {message}" in capsys.readouterr().err


def test_the_ladder_starts_with_references_that_are_trained_as_the_paper_s_method() -> None:
    dense, random, paper, attention, exact, ours, distilled = _ladder(LADDER)
    assert [job.policy for job in (dense, random, paper, attention)] == ["dense", "random", "paper", "adaptive"]
    assert dense.overrides == random.overrides == exact.overrides
    assert set(paper.overrides) - set(random.overrides) == {"retention.keep_bias=0.4"}
    assert set(attention.overrides) - set(paper.overrides) == {"dual=ascent", "dual.augmented=0.0"}
    assert (ours.overrides, distilled.overrides) == ((), ("distillation=saliency_and_states",))


def test_ingredients_are_added_one_at_a_time() -> None:
    steps = _ladder(INGREDIENTS)
    assert {step.policy for step in steps} == {"adaptive"}
    changes = [set(first.overrides) ^ set(second.overrides) for first, second in pairwise(steps)]
    assert [len(change) for change in changes] == [1, 3, 1, 1, 1, 2]
    assert steps[0] == _ladder(LADDER)[4], "the short list starts at the exact multiplier"


def _ladder(path: Path) -> list[series.Job]:
    return list(series.jobs(series.read_list(path), [0]))[1:]
