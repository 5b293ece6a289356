"""The order in which a series trains its models, one at a time and side by side."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from retention.records import append_record

Main = Callable[[list[str]], int]

# Stands for run.py: says when it starts and ends, and fails where a file "fail" names its folder.
RUN = """
import os, pathlib, sys, time
here = pathlib.Path(__file__).parent
told = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
name = pathlib.Path(told["hydra.run.dir"]).name
def say(what):
    with open(here / "events", "a") as file:
        file.write(f"{what} {name} {os.environ.get('OMP_NUM_THREADS')}\\n")
say("start")
time.sleep(0.3)
print("trained", name)
(here / f"{name}.words").write_text(" ".join(sys.argv))
failing = here / "fail"
say("end")
sys.exit(3 if failing.exists() and name in failing.read_text().split() else 0)
"""


class Bench:
    """The script with its root in an empty folder."""

    def __init__(self, main: Main, root: Path) -> None:
        self.main, self.root = main, root
        (root / "run.py").write_text(RUN)

    def __call__(self, *words: str) -> int:
        return self.main(["sst2_small", *words])

    def events(self) -> list[tuple[str, str]]:
        """(start or end, name of the run), in order."""
        lines = (self.root / "events").read_text().splitlines()
        return [(line.split()[0], line.split()[1]) for line in lines]


@pytest.fixture
def bench(main_of: Callable[[str], Main], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    main = main_of("quality")
    monkeypatch.setitem(main.__globals__, "ROOT", tmp_path)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return Bench(main, tmp_path)


def test_one_after_the_other(bench: Bench) -> None:
    assert bench("--seeds", "0", "--series", "dense", "random:0.3") == 0
    names = ["dense-stage1-seed0", "dense-1.0-seed0", "random-0.3-seed0"]
    assert bench.events() == [(what, name) for name in names for what in ("start", "end")]


def test_side_by_side_stage_2_waits_for_its_dense_model(bench: Bench) -> None:
    assert bench("--seeds", "0", "1", "--series", "dense", "random:0.3", "--jobs", "2") == 0
    events = bench.events()
    for seed in (0, 1):
        taught = events.index(("end", f"dense-stage1-seed{seed}"))
        assert all(taught < events.index(("start", f"{name}-seed{seed}")) for name in ("dense-1.0", "random-0.3"))
    assert {what for what, _ in events[:2]} == {"start"}, f"the first two run at once: {events}"
    depth = most = 0
    for what, _ in events:
        depth += 1 if what == "start" else -1
        most = max(most, depth)
    assert most == 2


def test_side_by_side_the_cores_are_shared_and_the_output_is_kept(
    bench: Bench, capfd: pytest.CaptureFixture[str]
) -> None:
    assert bench("--seeds", "0", "--series", "dense", "--jobs", "64") == 0
    assert all(line.split()[2] == "1" for line in (bench.root / "events").read_text().splitlines())
    log = bench.root / "outputs" / "quality" / "sst2_small" / "dense-1.0-seed0.log"
    assert log.read_text() == "trained dense-1.0-seed0\n"
    assert "trained" not in capfd.readouterr().out


@pytest.mark.parametrize("at_once", ["1", "3"])
def test_without_its_dense_model_a_seed_is_skipped(
    bench: Bench, at_once: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (bench.root / "fail").write_text("dense-stage1-seed0")
    assert bench("--seeds", "0", "1", "--series", "dense", "--jobs", at_once) == 1
    assert {name for _, name in bench.events()} == {"dense-stage1-seed0", "dense-stage1-seed1", "dense-1.0-seed1"}
    assert "dense-1.0-seed0: skipped, its dense model failed" in capfd.readouterr().err


def test_a_failed_policy_does_not_stop_the_others(bench: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    (bench.root / "fail").write_text("random-0.3-seed0")
    assert bench("--seeds", "0", "--series", "random:0.3", "truncate:0.3") == 1
    assert bench.events()[-1] == ("end", "truncate-0.3-seed0")
    assert "random-0.3-seed0: failed with exit status 3" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--jobs", "0"], "--jobs: must be 1 or more, got 0"),
        (["--series", "dense", "task.lr=1"], "task.lr=1: settings go before --series"),
    ],
)
def test_a_wrong_command_line_is_refused(
    bench: Bench, words: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        bench(*words)
    assert problem in capsys.readouterr().err


def test_settings_of_stage_2_reach_the_policies_alone(bench: Bench) -> None:
    assert bench("--seeds", "0", "--series", "adaptive:0.3", "--stage2", "distillation=saliency", "task.lr=1e-4") == 0
    first, second = "dense-stage1-seed0", "adaptive-0.3-seed0-distillation_saliency-task.lr_1e-4"
    assert [name for what, name in bench.events() if what == "start"] == [first, second]
    assert "guidance" not in (bench.root / f"{first}.words").read_text()
    assert (bench.root / f"{second}.words").read_text().endswith(" distillation=saliency task.lr=1e-4")


def test_what_has_a_record_with_these_settings_is_skipped(bench: Bench) -> None:
    record = bench.root / "results" / "quality" / "sst2_small.jsonl"
    runs = {"dense": "outputs/trials/any-name", "adaptive": "outputs/quality/sst2_small/adaptive-0.3-seed0"}
    for policy, folder in runs.items():
        rho = 1.0 if policy == "dense" else 0.3
        command = f"python run.py hydra.run.dir={folder} init=outputs/quality/sst2_small/dense-stage1-seed0/last.ckpt"
        append_record(record, {"kind": "quality", "policy": policy, "rho": rho, "seed": 0, "command": command})
    assert bench("--seeds", "0", "--series", "dense", "adaptive:0.3") == 0
    assert not (bench.root / "events").exists(), "all is there"
    assert bench("--seeds", "0", "--series", "adaptive:0.3", "--stage2", "distillation=saliency") == 0
    assert [name for what, name in bench.events() if what == "end"][1:] == ["adaptive-0.3-seed0-distillation_saliency"]
