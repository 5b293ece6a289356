"""Check how the limits of a machine are computed, and the record of the command."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from retention.bench.limits import Limit, main, measure_limits
from retention.core.flops import EncoderShape
from retention.records import read_records


def test_intensity_is_flops_per_byte() -> None:
    shape = EncoderShape(num_layers=1, hidden_size=8, intermediate_size=16)
    bandwidth, [limit] = measure_limits(shape, [4], device=torch.device("cpu"), dtype=torch.float32)
    flops = 2 * 4 * (4 * 8 * 8 + 2 * 8 * 16)
    moved = 4 * (4 * (4 * 16 + 2 * 24) + 4 * 64 + 2 * 128)
    assert limit.intensity == pytest.approx(flops / moved)
    assert limit.traffic_gflops == pytest.approx(limit.intensity * bandwidth)
    assert limit.gflops > 0 and bandwidth > 0.1


def test_bound_names_the_lower_limit() -> None:
    assert Limit(8, gflops=50.0, intensity=1.0, traffic_gflops=80.0).bound == "arithmetic"
    assert Limit(8, gflops=90.0, intensity=1.0, traffic_gflops=80.0).bound == "memory traffic"


def test_command_writes_a_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "limits.jsonl"
    assert main(["--tokens", "8", "16", "--record", str(target)]) == 0
    [record] = read_records([target])
    assert (record["kind"], record["backbone"]) == ("limits", "minilm-random")
    assert [row["tokens"] for row in record["limits"]] == [8, 16]
    assert capsys.readouterr().out.count("GF/s") == 4
