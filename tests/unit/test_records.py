"""Test result records and their files, with concurrent writers and interrupted writes."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from retention.errors import DataError
from retention.records import (
    Quality,
    Speed,
    append_missing_record,
    append_record,
    build_record,
    provenance,
    read_records,
    write_record,
    write_records,
)
from retention.records.provenance import portable

_ALL = {"kind", "command", "commit", "config", "seed", "versions", "machine", "wall_s", "date"}


def quality(**changes: Any) -> Quality:
    values: dict[str, Any] = {
        "task": "sst2",
        "data": {"source": "SST-2", "train": 10, "test": 5},
        "policy": "adaptive",
        "backbone": "distilbert",
        "rho": 0.3,
        "keep_ratio": {"mean": 0.3, "by_layer": {0: 0.3}},
        "flops_ratio": 0.4,
        "metrics": {"accuracy": 0.9},
        "monitor": "accuracy",
        "throughput_tokens_per_s": 12.5,
        "peak_mib": None,
    }
    return Quality(**(values | changes))


def build(result: Quality | Speed | None = None, **changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {"config": {"seed": 3}, "seed": 3, "wall_s": 1.23456, "argv": ["run.py", "seed=3"]}
    return build_record(quality() if result is None else result, **(values | changes))


def test_quality_record_has_all_fields() -> None:
    record = build()
    assert set(record) == _ALL | {field.name for field in fields(Quality)}
    assert (record["kind"], record["command"], record["seed"]) == ("quality", "python run.py seed=3", 3)
    assert record["wall_s"] == 1.235
    assert record["keep_ratio"] == {"mean": 0.3, "by_layer": {"0": 0.3}}
    assert datetime.fromisoformat(record["date"]).utcoffset() is not None
    assert set(record["versions"]) == {"python", "torch", "lightning", "transformers", "datasets", "retention"}
    assert set(record["machine"]) == {"cpu", "cores", "ram_gib", "gpu", "platform"}
    assert record["machine"]["ram_gib"] > 0 and record["machine"]["cores"] >= 1
    assert json.loads(json.dumps(record, allow_nan=False)) == record


def test_speed_record_has_all_fields() -> None:
    speed = Speed(
        phase="inference",
        backbone="b",
        device="cpu",
        dtype="float32",
        batch=8,
        length=256,
        policy="random",
        rho=0.5,
        baseline="sdpa, unpadded",
        speedup={"median": 1.5, "low": 1.4, "high": 1.6},
        ideal_speedup=1.8,
        share_of_ideal=0.83,
        peak_mib=1.0,
        baseline_peak_mib=2.0,
    )
    record = build(speed)
    assert record["kind"] == "speed"
    assert set(record) == _ALL | {field.name for field in fields(Speed)}


def test_numbers_become_plain_and_nonfinite_ones_null() -> None:
    record = build(quality(metrics={"accuracy": float("nan"), "f1": np.float32(0.5), "rows": np.int64(7)}))
    assert record["metrics"] == {"accuracy": None, "f1": 0.5, "rows": 7}
    assert type(record["metrics"]["f1"]) is float and type(record["metrics"]["rows"]) is int


def test_value_without_json_form_is_named() -> None:
    with pytest.raises(DataError, match=r"record\.config\.retention\[1\]: a object cannot be stored"):
        build(config={"retention": [1, object()]})


def test_the_monitor_must_be_a_metric() -> None:
    with pytest.raises(DataError, match=r"monitor 'f1' is not among the metrics \(accuracy\)"):
        quality(monitor="f1")


def test_record_has_no_private_paths() -> None:
    root = Path(provenance.__file__).resolve().parents[3]
    config = {"data": {"dir": "/home/ann/sets/sst2"}, "paths": {"run_dir": f"{root}/outputs/1"}}
    record = build(config=config, argv=[f"{root}/run.py", "data.dir=/home/ann/sets/sst2", "x=[/home/ann/a,b]"])
    assert record["command"] == "python run.py data.dir=sets/sst2 'x=[ann/a,b]'"
    assert record["config"] == {"data": {"dir": "sets/sst2"}, "paths": {"run_dir": "outputs/1"}}
    assert "/home" not in json.dumps(record)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("/home/ann/My Data/sst2", "My Data/sst2"),
        ("/root", "root"),
        ("/", "/"),
        ("/project/conf/a.yaml", "conf/a.yaml"),
        ("/project", "."),
        ("/projects/other/a", "other/a"),
        ("outputs/run/1", "outputs/run/1"),
        ("../shared/data", "../shared/data"),
        ("~/sets/sst2", "~/sets/sst2"),
        ("https://example.org/a/b/c", "https://example.org/a/b/c"),
        ("file:///home/ann/sets/sst2", "file://sets/sst2"),
        ("a=/home/ann/x/y,b=/home/ann/z", "a=x/y,b=ann/z"),
        ("/home/ann/x:/home/ann/y", "ann/x:ann/y"),
        ("distilbert/distilbert-base-uncased", "distilbert/distilbert-base-uncased"),
        ("tokens/s, 1/2 and/or", "tokens/s, 1/2 and/or"),
        (["/home/ann/b/c", {"d": ("/home/ann/e/f", 3)}], ["b/c", {"d": ["e/f", 3]}]),
    ],
)
def test_portable_paths(value: Any, expected: Any) -> None:
    assert portable(value, Path("/project")) == expected


def git(*arguments: str, folder: Path) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_commit_of_clean_changed_and_foreign_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "provenance.py"
    source.write_text("1\n")
    monkeypatch.setattr(provenance, "__file__", str(source))
    assert provenance.commit() == "unknown"
    git("init", "-q", folder=tmp_path)
    (tmp_path / "other").write_text("1\n")
    git("add", "other", folder=tmp_path)
    git("commit", "-qm", "c", folder=tmp_path)
    assert provenance.commit() == "unknown"  # the repository does not hold this source
    records = tmp_path / "results" / "speed.jsonl"
    append_record(records, {"kind": "speed"})
    git("add", "provenance.py", "results", folder=tmp_path)
    git("commit", "-qm", "d", folder=tmp_path)
    (tmp_path / "untracked").write_text("1\n")
    append_record(records, {"kind": "speed"})  # the first of a series must not mark the second
    head = git("rev-parse", "HEAD", folder=tmp_path)
    assert provenance.commit() == head
    source.write_text("2\n")
    assert provenance.commit() == f"{head}-dirty"


def test_write_record_replaces_the_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "record.json"
    write_record(path, {"kind": "quality", "value": 1})
    write_record(path, {"kind": "quality", "value": "zwölf"})
    assert read_records([path]) == [{"kind": "quality", "value": "zwölf"}]
    assert list(path.parent.iterdir()) == [path]


def test_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "record.json"
    write_record(path, {"kind": "quality", "value": 1})

    def fail(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_record(path, {"kind": "quality", "value": 2})
    assert read_records([path]) == [{"kind": "quality", "value": 1}]
    assert list(tmp_path.iterdir()) == [path]


def test_append_keeps_order_and_unknown_fields(tmp_path: Path) -> None:
    path = tmp_path / "results" / "topic" / "runs.jsonl"
    records = [{"kind": "quality", "value": 1, "later": {"x": None}}, {"kind": "speed", "text": "a\u2028b"}]
    for record in records:
        append_record(path, record)
    assert read_records([path]) == records
    assert path.read_bytes().count(b"\n") == 2


@pytest.mark.parametrize("torn", [b'{"kind": "qual', b'{"kind": "quality", "name": "\xc3', b"{"])
def test_interrupted_line_is_skipped_by_readers_and_removed_by_writers(
    torn: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "runs.jsonl"
    first, second = {"kind": "quality", "value": 1}, {"kind": "quality", "value": 2}
    append_record(path, first)
    with path.open("ab") as file:
        file.write(torn)
    assert read_records([path]) == [first]
    assert f"{path}: the last line is incomplete" in caplog.text
    append_missing_record(path, first)
    assert path.read_bytes().endswith(torn), "nothing to append, nothing to repair"
    append_record(path, second)
    assert read_records([path]) == [first, second]
    assert path.read_bytes().count(b"\n") == 2


@pytest.mark.parametrize("content", ["no records\n\nlast words", '{"kind": "quality"}\n[1, 2'])
def test_other_text_is_neither_skipped_nor_removed(content: str, tmp_path: Path) -> None:
    path = tmp_path / "notes.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=r"notes\.jsonl:\d: not"):
        read_records([path])
    append_record(path, {"kind": "quality"})
    assert path.read_text().startswith(content + "\n")


def test_incomplete_line_within_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    path.write_text('{"kind": "quality"}\n{"kind": "qual\n{"kind": "quality"}\n')
    with pytest.raises(DataError, match=r"runs\.jsonl:2: not valid JSON .* remove the line"):
        read_records([path])


def test_full_disk_leaves_no_part_of_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "runs.jsonl"
    append_record(path, {"kind": "quality", "value": 1})
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DataError, match=r"runs\.jsonl: the record cannot be written \(No space left on device\)"):
        append_record(path, {"kind": "quality", "value": 2})
    assert path.read_bytes() == before


def test_append_after_a_missing_line_end(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    path.write_text('{"kind": "quality", "value": 1}')
    append_record(path, {"kind": "quality", "value": 2})
    assert [record["value"] for record in read_records([path])] == [1, 2]


def writer(path: Path, name: str, count: int) -> subprocess.Popen[bytes]:
    """Start another process that appends ``count`` records."""
    code = (
        "import sys; from retention.records import append_record\n"
        "path, name, count = sys.argv[1:]\n"
        "for number in range(int(count)):\n"
        "    append_record(path, {'kind': 'quality', 'writer': name, 'number': number, 'padding': 'x' * 9000})\n"
    )
    return subprocess.Popen([sys.executable, "-c", code, str(path), name, str(count)])


def test_concurrent_appends_do_not_interleave(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    writers = [writer(path, name, 40) for name in "abc"]
    assert [process.wait() for process in writers] == [0, 0, 0]
    written = sorted((record["writer"], record["number"]) for record in read_records([path]))
    assert written == [(name, number) for name in "abc" for number in range(40)]


def test_concurrent_processes_append_each_missing_record_once(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    code = (
        "import sys; from retention.records import append_missing_record\n"
        "for number in range(50):\n"
        "    append_missing_record(sys.argv[1], {'kind': 'quality', 'number': number, 'padding': 'x' * 3000})\n"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code, str(path)]) for _ in range(4)]
    assert [process.wait() for process in processes] == [0, 0, 0, 0]
    assert sorted(record["number"] for record in read_records([path])) == list(range(50))


def test_append_waits_for_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    with FileLock(tmp_path / ".runs.jsonl.lock"):
        waiting = writer(path, "a", 1)
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(1.0)
        assert not path.exists()
    assert waiting.wait() == 0
    assert len(read_records([path])) == 1


def _nothing(path: Path) -> None:
    del path


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("gone.jsonl", _nothing, r"gone\.jsonl: cannot be read"),
        ("bytes.jsonl", lambda path: path.write_bytes(b'{"kind"\xff\n'), r"bytes\.jsonl: is not UTF-8 at byte 7"),
        ("list.jsonl", lambda path: path.write_text('\n\n["kind"]\n'), r"list\.jsonl:3: not a JSON object"),
        ("kindless.json", lambda path: path.write_text('{"a": 1}'), r"kindless\.json: not a result record"),
        ("broken.json", lambda path: path.write_text("{"), r"broken\.json: not valid JSON"),
    ],
)
def test_unusable_files_are_named(name: str, write: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    write(path)
    with pytest.raises(DataError, match=message):
        read_records([str(path)])


def test_files_are_read_in_the_given_order(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.json"):
        (tmp_path / name).write_text(json.dumps({"kind": "quality", "name": name}) + "\n")
    assert [record["name"] for record in read_records([tmp_path / "b.jsonl", tmp_path / "a.json"])] == [
        "b.jsonl",
        "a.json",
    ]


def test_append_missing_record_appends_once(tmp_path: Path) -> None:
    write_record(tmp_path / "one.json", build())
    [record] = read_records([tmp_path / "one.json"])
    target = tmp_path / "all.jsonl"
    append_missing_record(target, record)
    append_record(target, build(seed=4))
    append_missing_record(target, record)
    assert [each["seed"] for each in read_records([target])] == [3, 4]


def test_write_records_replaces_the_file(tmp_path: Path) -> None:
    target = tmp_path / "all.jsonl"
    append_record(target, build(seed=9))
    records = [build(seed=1), build(seed=2)]
    write_records(target, records)
    assert read_records([target]) == records
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == ["all.jsonl"]


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        (["run.py", "seed=1"], "python run.py seed=1"),
        (["/opt/venv/bin/retention", "run", "a=b c"], "retention run 'a=b c'"),
    ],
)
def test_command_line_repeats_script_or_console_command(argv: list[str], command: str) -> None:
    assert provenance.command_line(argv) == command
