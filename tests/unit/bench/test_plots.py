"""Check panels, curves and figures of made-up records."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from retention.bench.curves import SpeedPanel, SpeedPoint, break_even, group_into_panels
from retention.bench.plots import draw_all, main
from retention.errors import DataError
from retention.records import Record, read_records

ROOT = Path(__file__).resolve().parents[3]


def record(length: int, rho: float, speedup: float, **changes: Any) -> Record:
    return {
        "kind": "speed",
        "phase": "inference",
        "backbone": "small",
        "device": "cpu",
        "dtype": "float32",
        "policy": "adaptive",
        "prune_at": "after_layer",
        "batch": 4,
        "length": length,
        "rho": rho,
        "speedup": {"median": speedup, "low": 0.9 * speedup, "high": 1.2 * speedup},
        "ideal_speedup": 1.25 * speedup,
        "keep_ratio": {"mean": rho, "by_layer": {"0": 1.5 * rho, "1": 0.5 * rho}},
        "data": {"source": "synthetic (random ids)"},
        **changes,
    }


RECORDS = [record(length, rho, speed / rho) for rho in (0.5, 0.3) for length, speed in ((64, 0.25), (256, 1.0))]


def test_records_are_grouped_into_panels() -> None:
    after_attention = record(64, 0.5, 2.0, prune_at="after_attention")
    training = record(64, 0.5, 1.5, phase="train")
    grouped = group_into_panels([*RECORDS, after_attention, training])
    assert [panel.key.phase for panel in grouped] == ["inference", "train"]
    inference = grouped[0]
    assert (inference.rhos(), inference.lengths()) == ([0.5, 0.3], [64, 256])
    assert inference.prune_points() == ["after_layer", "after_attention"]
    assert [point.speedup[0] for point in inference.at(prune_at="after_layer", rho=0.5)] == [0.5, 2.0]
    assert [point.rho for point in inference.at(prune_at="after_layer", length=64)] == [0.3, 0.5]
    assert inference.key.title == "small, inference\nadaptive, synthetic, float32 on cpu"


def test_newer_record_replaces_older_one() -> None:
    [panel] = group_into_panels([record(64, 0.5, 1.0), record(64, 0.5, 3.0)])
    assert [point.speedup[0] for point in panel.points] == [3.0]


def test_several_batch_sizes_get_separate_panels() -> None:
    grouped = group_into_panels([record(64, 0.5, 1.0), record(64, 0.5, 2.0, batch=1)])
    assert sorted(panel.key.batch for panel in grouped) == [1, 4]
    assert "batch 1" in grouped[0].key.title


def points(*speeds: float) -> list[SpeedPoint]:
    [panel] = group_into_panels([record(64 * 2**index, 0.5, speed) for index, speed in enumerate(speeds)])
    return panel.at(prune_at="after_layer", rho=0.5)


@pytest.mark.parametrize(
    ("speeds", "length", "kind"),
    [
        ((0.5, 1.5), 64 * 2**0.5, "crosses"),  # half-way, on a logarithmic axis
        ((0.5, 0.75, 1.25, 2.0), 128 * 2**0.5, "crosses"),
        ((1.2, 0.5, 1.5), 128 * 2**0.5, "crosses"),  # the last crossing counts
        ((1.1, 1.5), 64, "below"),
        ((0.5, 0.9), 128, "above"),
    ],
)
def test_break_even(speeds: tuple[float, ...], length: float, kind: str) -> None:
    assert break_even(points(*speeds)) == (pytest.approx(length), kind)


def test_records_without_speed_are_an_error() -> None:
    with pytest.raises(DataError, match="no speed record"):
        group_into_panels([{"kind": "quality"}])


def test_missing_field_is_reported() -> None:
    broken = {key: value for key, value in record(64, 0.5, 1.0, date="yesterday").items() if key != "rho"}
    with pytest.raises(DataError, match=r"yesterday: no field 'rho'"):
        group_into_panels([broken])


@pytest.fixture
def trained() -> Record:
    saved = {"saved_by_layer": [2.0, 3.0], "dense_saved_by_layer": [2.0, 4.0]}
    return record(64, 0.5, 1.5, phase="train", activations=saved)


def test_every_figure_is_drawn_as_png_and_svg(trained: Record, tmp_path: Path) -> None:
    files = draw_all(group_into_panels([*RECORDS, trained]), tmp_path)
    names = ("speedup_by_rho", "speedup_by_length", "break_even", "share_of_ideal", "tokens_by_depth")
    expected = {f"{name}.{kind}" for name in (*names, "memory_by_depth") for kind in ("png", "svg")}
    assert {file.name for file in files} == {file.name for file in tmp_path.iterdir()} == expected
    drawing = (tmp_path / "memory_by_depth.svg").read_text()
    assert "small, training step" in drawing and "saved for backward" in drawing and "inference" not in drawing
    assert (tmp_path / "break_even.png").read_bytes().startswith(b"\x89PNG")


def test_figures_are_reproducible(tmp_path: Path) -> None:
    first, second = (
        next(
            file for file in draw_all(group_into_panels(RECORDS), tmp_path / name) if file.name == "speedup_by_rho.svg"
        )
        for name in "ab"
    )
    assert first.read_bytes() == second.read_bytes()


def test_single_length_has_no_figures_over_length(tmp_path: Path) -> None:
    names = {file.stem for file in draw_all(group_into_panels(RECORDS[:1]), tmp_path)}
    assert names == {"speedup_by_rho", "share_of_ideal", "tokens_by_depth"}


def test_keep_ratio_with_missing_lengths_is_drawn(tmp_path: Path) -> None:
    [panel] = group_into_panels([*RECORDS, record(64, 0.1, 2.0), record(64, 0.3, 2.0, prune_at="after_attention")])
    assert isinstance(panel, SpeedPanel) and panel.at(prune_at="after_attention", rho=0.5) == []
    assert draw_all([replace(panel)], tmp_path)


def test_committed_records_can_be_read() -> None:
    grouped = group_into_panels(read_records(sorted((ROOT / "results" / "speed").glob("*.jsonl"))))
    assert all(panel.points for panel in grouped)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "speed.jsonl"
    source.write_text("".join(json.dumps(each) + "\n" for each in RECORDS))
    assert main([str(source), "--out", str(tmp_path / "figures")]) == 0
    assert "break_even.svg" in capsys.readouterr().out
    source.write_text('{"kind": "quality"}\n')
    assert main([str(source), "--out", str(tmp_path / "none")]) == 2
    assert "DataError: there is no speed record" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
