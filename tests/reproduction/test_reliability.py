"""Test that each reliability check finds a planted fault, and that its table is made from records."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from reproduction.reliability import checkpoints, data_files, interruptions, payloads, serving
from reproduction.reliability.check import Check, Scale
from reproduction.reliability.configurations import VALUES, Change, check_change, draw_changes, recipes
from reproduction.reliability.outcome import CLEAR, HANG, INNER, RIGHT, WRONG, Tally, WrongAnswer, classify
from reproduction.reliability.page import reliability_page, reliability_table
from reproduction.reliability.registry import CHECKS, run_checks
from reproduction.reliability.reported_cases import run_tests
from reproduction.reliability.small_runs import SMALL, composed
from reproduction.reliability.threads import call_from_threads, draw_texts, same_prediction
from reproduction.reliability.work_lost import check_work_lost

from retention.errors import CheckpointError, ConfigError, DataError, Problem
from retention.experiment.training_state import check_training_state
from retention.records import Reliability, build_record
from retention.trained import Classifier, load


def raising(error: BaseException) -> Callable[[], None]:
    def call() -> None:
        raise error

    return call


@pytest.fixture(scope="module")
def model(trained_run: Path) -> Classifier:
    loaded = load(trained_run)
    assert isinstance(loaded, Classifier)
    return loaded


@pytest.fixture(scope="module")
def config() -> DictConfig:
    return composed([*SMALL, "paths.run_dir=unused"])


@pytest.mark.parametrize(
    ("call", "outcome"),
    [
        (lambda: None, RIGHT),
        (raising(DataError("x.csv, line 3: is blank; remove it")), CLEAR),
        (raising(ConfigError([Problem("a", "Traceback (most recent call last)")])), INNER),
        (raising(ConfigError([Problem(str(number), "x") for number in range(80)])), INNER),
        (raising(KeyError("x")), INNER),
        (raising(SystemExit(1)), INNER),
        (raising(WrongAnswer("differs")), WRONG),
        (lambda: time.sleep(5), HANG),
    ],
)
def test_outcomes_are_told_apart(call: Callable[[], None], outcome: str) -> None:
    started = time.monotonic()
    assert classify(call, limit_s=0.3)[0] == outcome
    assert time.monotonic() - started < 3


def test_hang_is_found_although_the_attempt_catches_every_exception() -> None:
    def stubborn() -> None:
        try:
            time.sleep(5)
        except Exception:
            return

    assert classify(stubborn, limit_s=0.2)[0] == HANG


def test_tally_counts_each_attempt_once() -> None:
    tally = Tally("example")
    for call in (lambda: None, raising(DataError("x")), raising(KeyError("x")), raising(WrongAnswer("x"))):
        tally.attempt("kind", "text", call)
    result = tally.result(extra=1)
    assert (result.tried, result.clear, result.wrong) == (4, 2, 1)
    assert result.details["outcomes"] == {RIGHT: 1, CLEAR: 1, INNER: 1, HANG: 0, WRONG: 1}
    assert len(result.details["faults"]) == 2 and result.details["extra"] == 1


@pytest.mark.parametrize(("tried", "clear", "wrong"), [(1, 1, 1), (3, -1, 0), (0, 1, 0)])
def test_counts_of_a_record_must_fit(tried: int, clear: int, wrong: int) -> None:
    with pytest.raises(DataError, match=r"clear \+ wrong must be in \[0, tried\]"):
        Reliability(check="x", tried=tried, clear=clear, wrong=wrong)


def test_value_that_is_accepted_although_it_can_never_be_valid_is_found(
    config: DictConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = [Change("value", "optimizer.weight_decay", float("nan"))]
    with pytest.raises(ConfigError):
        check_change(config, changes)
    monkeypatch.setattr("reproduction.reliability.configurations.build_runs", lambda *_: None)
    with pytest.raises(WrongAnswer):
        check_change(config, changes)
    check_change(config, [Change("value", "optimizer.weight_decay", 0.37)])


def test_every_kind_of_change_is_drawn(config: DictConfig) -> None:
    draw = random.Random(0)
    changes = [change for _ in range(300) for change in draw_changes(config, draw)]
    assert {change.kind for change in changes} == {"value", "deleted", "unknown"}
    assert {repr(change.value) for change in changes} >= {repr(value) for value in VALUES}
    assert len(recipes()) > 20


@pytest.mark.parametrize("damage", checkpoints.DAMAGES, ids=lambda damage: str(damage.__name__))
def test_every_damage_changes_the_checkpoint(damage: Any, trained_run: Path, tmp_path: Path) -> None:
    import shutil

    for number in range(3):
        folder = shutil.copytree(trained_run, tmp_path / str(number))
        files = {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
        content = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
        assert damage(folder, content, random.Random(number))
        assert files != {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_checkpoint_with_other_answers_is_found(trained_run: Path) -> None:
    expected = checkpoints.answers(trained_run)
    checkpoints._compare(trained_run, expected)
    with pytest.raises(WrongAnswer, match="answers differently"):
        checkpoints._compare(trained_run, [*expected[:-1], [0.0]])


@pytest.mark.parametrize("number", range(len(data_files.FORMATS)))
def test_intact_files_of_every_format_are_read(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    made = data_files.FORMATS[number]
    for split in made.splits:
        made.write(tmp_path, split, made.make())
    rows = data_files.read_rows(made.task, tmp_path)
    assert all(rows.values())
    data_files._reading(made, tmp_path, "train", never_valid=False)()
    with pytest.raises(WrongAnswer):  # had the file been damaged, reading it would be a fault
        data_files._reading(made, tmp_path, "train", never_valid=True)()


def test_executed_payload_is_found(tmp_path: Path) -> None:
    tally, marker = Tally("payloads"), tmp_path / "marker"
    payloads.count_attempt(tally, "load", "harmless", lambda: None, marker)
    payloads.count_attempt(tally, "load", "touch", marker.touch, marker)
    payloads.count_attempt(tally, "load", "refused", raising(DataError("refused")), marker)
    assert tally.counts == {RIGHT: 1, WRONG: 1, CLEAR: 1}


@pytest.mark.slow
def test_resumed_run_with_other_predictions_or_leftovers_is_found(tmp_path: Path) -> None:
    def spoil(run: Path) -> None:
        run.mkdir(parents=True, exist_ok=True)
        (run / ".predictions.jsonl.7.tmp.tmp").write_text("left")
        (run.parent / "records.jsonl").write_text('{"kind": "quality"}\n')

    result = interruptions._check("kill", [interruptions.signal.SIGKILL], 0, tmp_path, spoil)
    assert result.wrong == 1 and "records" in result.details["faults"][0]


def test_wrong_answer_of_a_thread_is_found(model: Classifier) -> None:
    batches = [[text] for text in draw_texts(6, random.Random(0), longest=20)]
    expected = [model.predict(batch) for batch in batches]
    assert {outcome for outcome, _ in call_from_threads(model, batches, expected, 24, 0)} == {RIGHT}
    turned = [*expected[1:], expected[0]]
    assert not all(same_prediction(one[0], other[0]) for one, other in zip(expected, turned, strict=True))
    assert WRONG in {outcome for outcome, _ in call_from_threads(model, batches, turned, 24, 0)}
    broken: Any = SimpleNamespace(predict=lambda texts: texts[9])
    assert {outcome for outcome, _ in call_from_threads(broken, batches, expected, 24, 0)} == {INNER}


def test_wrong_answer_of_the_server_is_found(model: Classifier) -> None:
    texts = draw_texts(6, random.Random(0), longest=20)
    expected = [model.predict([text])[0] for text in texts]
    order = [0, 1, 2, 3, 4, 5] * 3
    good = asyncio.run(serving.send_requests(model.predict, texts, expected, order))
    assert good.counts == {RIGHT: len(order)}
    mixed_up = asyncio.run(serving.send_requests(lambda each: model.predict(each)[::-1], texts, expected, order))
    assert mixed_up.counts[WRONG] > 0
    failing = asyncio.run(serving.send_requests(lambda each: each[1], texts, expected, [0]))
    assert failing.counts[INNER] == 1


def test_failing_test_is_found(tmp_path: Path) -> None:
    (tmp_path / "test_example.py").write_text("def test_right(): pass\ndef test_wrong(): assert False\n")
    result = run_tests(tmp_path, tmp_path / "out")
    assert (result.tried, result.clear, result.wrong) == (2, 1, 1)


def test_growing_memory_is_found() -> None:
    assert serving._memory([100.0] * 20 + [100.5] * 80)["memory_is_flat"]
    growing = serving._memory([float(number) for number in range(100)])
    assert not growing["memory_is_flat"] and growing["memory_growth_mib"] > 60


def test_checks_are_recorded_and_shown() -> None:
    check = Check("example", lambda scale, folder: Reliability(check="example", tried=scale.kills, clear=2, wrong=1))
    [(name, record)] = run_checks(["example"], Scale(kills=4), [check])
    assert name == "example" and record["kind"] == "reliability" and record["config"]["kills"] == 4
    assert {"commit", "machine", "date"} <= record.keys()
    later = {**record, "tried": 1234}
    table = reliability_table([record, later, {"kind": "speed"}])
    assert "1,234" in table and table.count("example") == 1
    assert f"\n{table}\n" in reliability_page([record, later])
    with pytest.raises(DataError, match="there is no record"):
        reliability_table([{"kind": "speed"}])
    with pytest.raises(DataError, match="no check nothing; choose from"):
        next(iter(run_checks(["nothing"])))


def test_every_check_has_a_row_of_its_own() -> None:
    details = {
        **{"skipped": 0, "accepted": 1, "trained": 1, "executed": 0, "run_s": 1.0, "most_work_lost_s": 0.5},
        **{"threads": 4, "policies": ["adaptive"], "truncated": 1, "longest_characters": 1000},
        **{"memory_growth_mib": 0.5, "outcomes": {"right": 1}, "every_n_minutes": 4.0},
    }
    records = []
    for check in CHECKS:
        result = Reliability(check=check.name, tried=2, clear=2, wrong=0, details=details)
        records.append(build_record(result, config={}, seed=0, wall_s=1.0))
    table = reliability_table(records)
    assert len(table.splitlines()) == 2 + len(CHECKS)
    titles = {line.split("|")[1].strip() for line in table.splitlines()[2:]}
    assert len(titles) == len(CHECKS) and not titles & {check.name.replace("_", " ") for check in CHECKS}


@pytest.mark.parametrize(("minutes", "within"), [(None, True), (10.0, False)])
def test_work_lost_is_measured_on_the_simulated_clock(minutes: float | None, within: bool, tmp_path: Path) -> None:
    result = check_work_lost(Scale(), tmp_path, minutes)
    assert result.tried == 1200 and (result.wrong == 0) == within
    assert (result.details["most_work_lost_s"] < 300) == within, "five minutes: the interval and the longest step"


def test_training_state_that_was_changed_is_not_resumed(trained_run: Path, tmp_path: Path) -> None:
    path = trained_run / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    check_training_state(content, path)
    paths = checkpoints._parts({key: content[key] for key in ("loops", "optimizer_states", "callbacks")}, content)
    assert len(paths) > 100
    earlier = {key: value for key, value in content.items() if key != "training_state_digest"}
    check_training_state(earlier, path)  # of a version without digests
    for key in ("loops", "optimizer_states", "global_step"):
        with pytest.raises(CheckpointError, match=f"last.ckpt: .*{key} missing"):
            check_training_state({name: value for name, value in earlier.items() if name != key}, path)
    content["optimizer_states"][0]["state"][0]["exp_avg"][0] += 1.0
    with pytest.raises(CheckpointError, match="changed after it was written"):
        check_training_state(content, path)


@pytest.mark.parametrize("noticed", [True, False])
def test_table_tells_whether_injected_faults_were_noticed(noticed: bool) -> None:
    details = {"cases": {"a": True, "injected fault: b": noticed}, "largest_difference": {"x": 2e-6}}
    result = Reliability(check="distributed_metrics", tried=2, clear=1, wrong=1, details=details)
    table = reliability_table([build_record(result, config={}, seed=0, wall_s=1.0)])
    assert f"{int(noticed)} of 1 injected faults noticed; largest difference 2e-06" in table
    assert "two processes: metrics" in table
