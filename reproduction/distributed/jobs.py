"""Define the small runs that are trained on two processes, and the single-process runs they are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

TRAIN, VALIDATION, TEST = 63, 17, 33  # rows: none of these can be divided by two
EPOCHS = 2
STEPS = 4  # optimizer steps per epoch: 63 rows in batches of 2 x 8
RECORDS = "records.jsonl"
_SMALL = (
    f"data.test_size={TEST}",
    f"task.data.val_size={VALIDATION}",
    "retention.rho=0.25",
    f"trainer.max_epochs={EPOCHS}",
    "trainer.accelerator=cpu",
    "trainer.log_every_n_steps=1",
    "++callbacks.progress.log_refresh_rate=0",
    "callbacks.profile.examples=2",
    "compare=[]",
)
TWO = ("trainer.devices=2", "trainer.strategy=ddp", "task.data.batch_size=8")
ONE = ("trainer.devices=1", "task.data.batch_size=16")  # the same rows in each step
_EVERY_STEP = (
    "callbacks.checkpoint.save_top_k=-1",
    "++callbacks.checkpoint.every_n_train_steps=1",
    "++callbacks.checkpoint.filename='{step}'",
)
ASCENT = ("dual=ascent", "dual.eta=0.5")
_DISTILLED = ("distill.weight=0.9", "init={folder}/dense/checkpoints/last.ckpt")
_RESUMED = "ckpt='{folder}/ascent/checkpoints/step=%d.ckpt'"
_SHARDED = (*ASCENT, "trainer.strategy=fsdp")
_SHARDED_RESUMED = "ckpt='{folder}/sharded_ascent/checkpoints/step=%d.ckpt'"
# Nothing random and no padding row: sums in another order are the only difference between one process and two.
_EXACT = (f"data.train_size={TRAIN + 1}", "trainer.precision=64-true", "+task.head.dropout=0.0")


@dataclass(frozen=True)
class Job:
    """Run of the command ``retention run``.

    Attributes:
        name: of its run folder, and of the files that its ranks write.
        typed: overrides; ``{folder}`` stands for the folder of all jobs.
        change: fault that is injected, a key of ``reproduction.distributed.faults.FAULTS``; None = none.
        run: name of the run folder if it is another one.
    """

    name: str
    typed: tuple[str, ...]
    change: str | None = None
    run: str | None = None

    def overrides(self, folder: Path, layout: tuple[str, ...]) -> list[str]:
        """Return the full command line.

        Args:
            folder: folder of all jobs.
            layout: ``TWO`` or ``ONE``.
        """
        run_dir = f"paths.run_dir={folder / (self.run or self.name)}"
        typed = [each.replace("{folder}", str(folder)) for each in self.typed]
        if "mode=test" in typed:
            return [run_dir, *layout, *typed]
        return [run_dir, f"data.train_size={TRAIN}", *_SMALL, *layout, *typed]

    def plain(self) -> dict[str, Any]:
        """Return the job as JSON values."""
        return asdict(self)


def read_job(values: Mapping[str, Any]) -> Job:
    """Return the job of ``Job.plain``."""
    return Job(values["name"], tuple(values["typed"]), values["change"], values["run"])


_ASCENT_64 = ("retention=adaptive_no_relaxation", *ASCENT, "dual.augmented=0", *_EXACT)

COMPARED = (  # trained on two processes and on one
    Job("truncate64", ("retention=truncate", *_EXACT)),
    Job("exact64", ("retention=adaptive_no_relaxation", "dual=exact", *_EXACT)),
    Job("ascent64", _ASCENT_64),
)
TESTED = Job("tested", ("mode=test", "ckpt={folder}/ascent/checkpoints/last.ckpt"))
JOBS = (
    Job("ascent", (*ASCENT, *_EVERY_STEP, "record={folder}/" + RECORDS)),
    Job("resumed_after_epoch", (*ASCENT, _RESUMED % STEPS)),
    Job("resumed_in_epoch", (*ASCENT, _RESUMED % (STEPS + 2))),
    Job("resumed_with_the_state_of_rank_0", (*ASCENT, _RESUMED % (STEPS + 2)), "state_of_rank_0"),
    Job("stopped", ASCENT, "signal_to_rank_1"),
    Job("went_on", (*ASCENT, "ckpt=last"), run="stopped"),
    Job("exact", ("dual=exact",)),
    Job("thresholds", ("retention=ltp",)),
    Job("calibration", ("retention=transkimmer",)),
    Job("sharded", ("dual=exact", "trainer.strategy=fsdp")),
    Job("sharded_ascent", (*_SHARDED, *_EVERY_STEP)),  # unlike DDP, no rank gets the buffers of rank 0
    Job("sharded_slack_of_each_rank", _SHARDED, "slack_of_each_rank"),
    Job("sharded_resumed_after_epoch", (*_SHARDED, _SHARDED_RESUMED % STEPS)),
    Job("sharded_resumed_in_epoch", (*_SHARDED, _SHARDED_RESUMED % (STEPS + 2))),
    Job("sharded_resumed_from_first_batch", (*_SHARDED, _SHARDED_RESUMED % (STEPS + 2)), "position_in_epoch_lost"),
    Job("sharded_stopped", _SHARDED, "signal_to_rank_1"),
    Job("sharded_went_on", (*_SHARDED, "ckpt=last"), run="sharded_stopped"),
    Job("budgets", ("dual=exact", "budgets.sampled=1")),
    Job("budgets_of_each_rank", ("dual=exact", "budgets.sampled=1"), "budgets_of_each_rank"),
    Job("dense", ("retention=dense", "retention.rho=1.0")),
    Job("saliency", (*_DISTILLED, "distillation=saliency")),
    Job("token_states", (*_DISTILLED, "distillation=saliency_and_states")),
    *COMPARED,
    Job("slack_of_each_rank", _ASCENT_64, "slack_of_each_rank"),
    TESTED,
    Job("tested_by_each_rank", TESTED.typed, "rows_of_each_rank"),
)
TERMINATED = Job("terminated", (*ASCENT, "record={folder}/" + RECORDS), "signal_to_launcher")
FAILED = Job("failed", (*ASCENT, "record={folder}/" + RECORDS), "error_on_rank_1")
