"""Check the peak memory of training and testing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from retention.callbacks import Memory, memory_gauges

_BIG = 96 * 2**20

resettable = pytest.mark.skipif(
    not memory_gauges.ResidentMemoryGauge.is_supported(), reason="the system does not reset VmHWM"
)


def _allocate_memory() -> None:
    block = b"x" * _BIG
    assert len(block) == _BIG


def test_both_stages_are_logged(
    trainer_with: Callable[..., Any], replay_module: Any, batch_of: Any, loader_of: Any
) -> None:
    memory, module = Memory(), replay_module()
    trainer = trainer_with(memory)
    trainer.fit(module, loader_of([batch_of([3])]))
    assert trainer.callback_metrics["perf/peak_mib"] > 10
    trainer.test(module, loader_of([batch_of([3])]), verbose=False)
    assert trainer.callback_metrics["perf/test_peak_mib"] > 10
    summary = memory.summary()
    assert summary["peak_mib"] > 10 and summary["test_peak_mib"] > 10
    assert summary["memory_kind"] in {"resident_peak", "resident_peak_of_process"}


def test_summary_before_any_run() -> None:
    assert Memory().summary() == {"peak_mib": None, "test_peak_mib": None, "memory_kind": None}


@resettable
def test_peak_is_per_epoch_and_summary_has_the_highest(
    trainer_with: Callable[..., Any], replay_module: Any, batch_of: Any, loader_of: Any
) -> None:
    peaks: list[float] = []
    memory, module = Memory(), replay_module()
    trainer = trainer_with(memory, max_epochs=2)
    module.during = lambda stage: _allocate_memory() if trainer.current_epoch == 0 else None
    module.on_train_epoch_start = lambda: peaks.append(float(trainer.callback_metrics.get("perf/peak_mib", 0.0)))
    trainer.fit(module, loader_of([batch_of([3])] * 3))
    first, second = peaks[1], float(trainer.callback_metrics["perf/peak_mib"])
    assert first - second > 80
    assert memory.summary()["peak_mib"] == pytest.approx(first)


@resettable
@pytest.mark.parametrize("stage", ["train", "val"])
def test_validation_is_not_part_of_the_training_peak(
    stage: str, trainer_with: Callable[..., Any], replay_module: Any, batch_of: Any, loader_of: Any
) -> None:
    memory, module = Memory(), replay_module()
    before = memory_gauges.ResidentMemoryGauge()
    module.during = lambda now: _allocate_memory() if now == stage else None
    trainer_with(memory).fit(module, loader_of([batch_of([3])]), loader_of([batch_of([3])]))
    before.reset()
    grown = memory.summary()["peak_mib"] - before.peak_mib()
    assert (grown > 80) == (stage == "train")


def test_fallback_to_the_peak_of_the_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory_gauges, "_CLEAR_REFS", tmp_path / "no_such_folder" / "clear_refs")
    gauge = memory_gauges.gauge_for(torch.device("cpu"))
    assert gauge.kind == "resident_peak_of_process"
    first = gauge.peak_mib()
    _allocate_memory()
    gauge.reset()
    assert gauge.peak_mib() >= first > 10


def test_cuda_gauge(monkeypatch: pytest.MonkeyPatch) -> None:
    device, resets = torch.device("cuda", 0), []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", resets.append)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda given: 3 * 2**20 if given == device else 0)
    gauge = memory_gauges.gauge_for(device)
    gauge.reset()
    assert (gauge.kind, gauge.peak_mib(), resets) == ("cuda_allocated", 3.0, [device])
