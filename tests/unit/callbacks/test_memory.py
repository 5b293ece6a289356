"""Peak memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from retention.callbacks import Memory, gauges

_BIG = 96 * 2**20

resettable = pytest.mark.skipif(not gauges.ResidentGauge.works(), reason="the system does not reset VmHWM")


def _touch_memory() -> None:
    block = b"x" * _BIG
    assert len(block) == _BIG


def test_logs_and_sums_up_both_stages(
    trainer_with: Callable[..., Any], toy: Any, batch_of: Any, loader_of: Any
) -> None:
    memory, module = Memory(), toy()
    trainer = trainer_with(memory)
    trainer.fit(module, loader_of([batch_of([3])]))
    assert trainer.callback_metrics["perf/peak_mib"] > 10
    trainer.test(module, loader_of([batch_of([3])]), verbose=False)
    assert trainer.callback_metrics["perf/test_peak_mib"] > 10
    summary = memory.summary()
    assert summary["peak_mib"] > 10 and summary["test_peak_mib"] > 10
    assert summary["memory_kind"] in {"resident_peak", "resident_peak_of_process"}


def test_before_any_run_nothing_is_known() -> None:
    assert Memory().summary() == {"peak_mib": None, "test_peak_mib": None, "memory_kind": None}


@resettable
def test_a_peak_belongs_to_its_epoch_and_the_run_keeps_the_highest(
    trainer_with: Callable[..., Any], toy: Any, batch_of: Any, loader_of: Any
) -> None:
    peaks: list[float] = []
    memory, module = Memory(), toy()
    trainer = trainer_with(memory, max_epochs=2)
    module.during = lambda stage: _touch_memory() if trainer.current_epoch == 0 else None
    module.on_train_epoch_start = lambda: peaks.append(float(trainer.callback_metrics.get("perf/peak_mib", 0.0)))
    trainer.fit(module, loader_of([batch_of([3])] * 3))
    first, second = peaks[1], float(trainer.callback_metrics["perf/peak_mib"])
    assert first - second > 80
    assert memory.summary()["peak_mib"] == pytest.approx(first)


@resettable
@pytest.mark.parametrize("stage", ["train", "val"])
def test_validation_is_not_part_of_the_training_peak(
    stage: str, trainer_with: Callable[..., Any], toy: Any, batch_of: Any, loader_of: Any
) -> None:
    memory, module = Memory(), toy()
    before = gauges.ResidentGauge()
    module.during = lambda now: _touch_memory() if now == stage else None
    trainer_with(memory).fit(module, loader_of([batch_of([3])]), loader_of([batch_of([3])]))
    before.reset()
    grown = memory.summary()["peak_mib"] - before.peak_mib()
    assert (grown > 80) == (stage == "train")


def test_falls_back_to_the_mark_of_the_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gauges, "_CLEAR_REFS", tmp_path / "no_such_folder" / "clear_refs")
    gauge = gauges.gauge_for(torch.device("cpu"))
    assert gauge.kind == "resident_peak_of_process"
    first = gauge.peak_mib()
    _touch_memory()
    gauge.reset()
    assert gauge.peak_mib() >= first > 10


def test_cuda_has_its_own_gauge(monkeypatch: pytest.MonkeyPatch) -> None:
    device, resets = torch.device("cuda", 0), []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", resets.append)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda asked: 3 * 2**20 if asked == device else 0)
    gauge = gauges.gauge_for(device)
    gauge.reset()
    assert (gauge.kind, gauge.peak_mib(), resets) == ("cuda_allocated", 3.0, [device])
