"""Check the sum of live tensors at inference against numbers worked out by hand, and the command's record."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from retention.bench.inference_memory import main
from retention.bench.live_memory import LiveMemory, LiveTensors, measure_live_memory
from retention.records import read_records

FLOAT = 4


class Network(nn.Module):
    """Two layers; the first widens its input and narrows it again."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Sequential(nn.Linear(5, 70), nn.Linear(70, 5))
        self.narrow = nn.Linear(5, 3)

    def forward(self, states: Tensor) -> Tensor:
        result: Tensor = self.narrow(self.wide(states * 2.0))
        return result


def test_live_tensors_by_layer() -> None:
    network, states = Network(), torch.randn(11, 5)
    memory = measure_live_memory(
        lambda: network(states), [network.wide, network.narrow], [*network.parameters(), states]
    )
    doubled, wide, result = 11 * 5, 11 * 70, 11 * 3
    assert memory.embeddings_mib * 2**20 == FLOAT * doubled
    # the doubled input and the second result are alive beside the wide states
    assert memory.by_layer[0] * 2**20 == FLOAT * (doubled + wide + 11 * 5)
    assert memory.by_layer[1] * 2**20 == pytest.approx(FLOAT * (11 * 5 + result), abs=FLOAT * doubled)
    assert memory.peak_mib == memory.by_layer[0]


def test_views_and_excluded_tensors_do_not_count() -> None:
    states = torch.randn(100)
    with torch.no_grad(), LiveTensors([states]) as live:
        halves = states.view(50, 2)
        assert live.peak_bytes == 0
        copied = halves.clone()
        view = copied[0]
        assert live.live_bytes() == FLOAT * 100, "a storage counts once"
        del copied
        assert live.live_bytes() == FLOAT * 100, "the view keeps the storage"
        del view
        assert live.live_bytes() == 0 and live.peak_bytes == FLOAT * 100
        assert live.restart() == FLOAT * 100 and live.peak_bytes == 0


def test_peak_is_the_largest_part() -> None:
    assert LiveMemory(3.0, (1.0, 2.0)).peak_mib == 3.0 and LiveMemory(1.0, (1.0, 2.0)).peak_mib == 2.0


def test_command_writes_a_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a gate before layer 0 the peak falls by little, with one by much; later layers always need less."""
    target = tmp_path / "memory.jsonl"
    typed = ["--shape", "minilm", "--length", "32", "--batch", "2", "--rho", "0.5", "--schedule", "flat"]
    assert main([*typed, "--prune-at", "after_layer", "--record", str(target)]) == 0
    [record] = read_records([target])
    assert (record["kind"], record["length"]) == ("inference_memory", 32)
    without, before = record["pruned"]
    assert (without["gate_before_layer_0"], before["gate_before_layer_0"]) == (False, True)
    assert without["change"] > -0.12 and before["change"] < -0.35
    dense = record["dense"]["by_layer"]
    assert without["by_layer"][0] >= dense[0] and before["by_layer"][0] < dense[0]
    assert all(
        0.4 * full < pruned < 0.7 * full for full, pruned in zip(dense[1:], without["by_layer"][1:], strict=True)
    )
    assert "gate before 0" in capsys.readouterr().out


def test_invalid_arguments_end_with_a_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--rho", "1.5", "--shape", "minilm", "--length", "8", "--record", str(tmp_path / "r.jsonl")]) == 2
    assert "rho: the target keep ratio must be in (0, 1]" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--length", "0"])
