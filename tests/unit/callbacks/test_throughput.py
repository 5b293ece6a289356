"""Check tokens per second, with a clock that only the steps advance."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl

from retention.callbacks import Throughput, throughput
from retention.errors import ConfigError

_SECONDS = {"train": 2.0, "val": 1000.0, "test": 0.5}


class Clock:
    def __init__(self) -> None:
        self.now = 0.0
        self.waits = 0

    def pass_time(self, stage: str) -> None:
        self.now += _SECONDS[stage]

    def wait(self, device: object) -> None:
        self.waits += 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(throughput, "perf_counter", lambda: clock.now)
    monkeypatch.setattr(throughput, "_synchronize", clock.wait)
    return clock


def test_real_tokens_after_the_warmup_are_counted(
    clock: Clock, trainer_with: Callable[..., Any], replay_module: Any, batch_of: Any, loader_of: Any
) -> None:
    watch, module = Throughput(warmup_steps=2), replay_module()
    module.during = clock.pass_time
    trainer = trainer_with(watch)
    batches = [batch_of([9, 9, 9])] * 2 + [batch_of([4, 2]), batch_of([6, 5]), batch_of([1, 2])]
    trainer.fit(module, loader_of(batches))
    # three timed batches of 2 s: 6 + 11 + 3 real tokens, 2 samples each
    assert trainer.callback_metrics["perf/tokens_per_s"] == pytest.approx(20 / 6)
    assert trainer.callback_metrics["perf/samples_per_s"] == pytest.approx(1.0)
    assert clock.waits == 2
    assert watch.summary()["timed_batches"] == 3


def test_validation_inside_an_epoch_is_not_timed(
    clock: Clock, trainer_with: Callable[..., Any], replay_module: Any, batch_of: Any, loader_of: Any
) -> None:
    watch, module = Throughput(warmup_steps=0), replay_module()
    module.during = clock.pass_time
    trainer = trainer_with(watch, val_check_interval=2)
    trainer.fit(module, loader_of([batch_of([4, 2])] * 4), loader_of([batch_of([3])]))
    assert trainer.callback_metrics["perf/tokens_per_s"] == pytest.approx(3.0)
    assert clock.now == pytest.approx(2008.0)
    assert clock.waits == 4  # two windows, not one wait per step


def test_writing_a_checkpoint_is_not_timed(
    clock: Clock, trainer_with: Callable[..., Any], replay_module: Any, batch_of: Any, loader_of: Any, tmp_path: Path
) -> None:
    class Saves(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            trainer.save_checkpoint(tmp_path / "now.ckpt")

    class Slow(replay_module):  # type: ignore[misc]
        def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            clock.now += 500.0

    watch, module = Throughput(warmup_steps=0), Slow()
    module.during = clock.pass_time
    trainer_with(watch, Saves()).fit(module, loader_of([batch_of([4, 2])] * 2))
    assert clock.now == pytest.approx(1004.0)
    assert watch.summary()["tokens_per_s"] == pytest.approx(3.0)


def test_summary_covers_all_epochs_with_one_warmup(
    clock: Clock, trainer_with: Callable[..., Any], replay_module: Any, batch_of: Any, loader_of: Any
) -> None:
    watch, module = Throughput(warmup_steps=1), replay_module()
    module.during = clock.pass_time
    trainer_with(watch, max_epochs=2).fit(module, loader_of([batch_of([8]), batch_of([4]), batch_of([2])]))
    # 4 + 2 in the first epoch, 8 + 4 + 2 in the second, 2 s a batch
    assert watch.summary()["timed_batches"] == 5
    assert watch.summary()["tokens_per_s"] == pytest.approx(20 / 10)


def test_testing_is_timed_separately(
    clock: Clock, trainer_with: Callable[..., Any], replay_module: Any, batch_of: Any, loader_of: Any
) -> None:
    watch, module = Throughput(warmup_steps=1), replay_module()
    module.during = clock.pass_time
    trainer = trainer_with(watch)
    trainer.test(module, loader_of([batch_of([9]), batch_of([3, 2]), batch_of([4, 1])]), verbose=False)
    assert trainer.callback_metrics["perf/test_tokens_per_s"] == pytest.approx(10.0)
    assert trainer.callback_metrics["perf/test_samples_per_s"] == pytest.approx(4.0)
    assert watch.summary()["tokens_per_s"] is None
    assert watch.summary()["test_timed_batches"] == 2


def test_run_shorter_than_the_warmup_reports_nothing(
    clock: Clock, trainer_with: Callable[..., Any], replay_module: Any, batch_of: Any, loader_of: Any
) -> None:
    watch, module = Throughput(), replay_module()
    module.during = clock.pass_time
    trainer = trainer_with(watch)
    trainer.fit(module, loader_of([batch_of([4])] * 3))
    assert "perf/tokens_per_s" not in trainer.callback_metrics
    assert watch.summary()["tokens_per_s"] is None and watch.summary()["timed_batches"] == 0


def test_ranks_add_tokens_over_the_time_of_the_slowest(
    clock: Clock, batch_of: Any, two_ranks: Callable[..., Any]
) -> None:
    watch = throughput.ThroughputTimer(0)
    watch.start_batch(None)  # type: ignore[arg-type]
    clock.now = 2.0
    watch.end_batch(batch_of([4, 2]))
    watch.close(None)  # type: ignore[arg-type]
    assert watch.read_and_reset(two_ranks(3.0)) == {"tokens_per_s": 4.0, "samples_per_s": pytest.approx(4 / 3)}


def test_negative_warmup_is_an_error() -> None:
    with pytest.raises(ConfigError, match="warmup_steps: must be >= 0 batches, got -1"):
        Throughput(warmup_steps=-1)
