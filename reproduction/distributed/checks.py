"""List the checks; most have a case with an injected fault, in which they must fail."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from reproduction.distributed.conditions import (
    difference,
    drawn,
    ended_with_message,
    is_like_ddp,
    is_one_process,
    learned,
    lines,
    ranks_agree,
    resumed_is_whole,
    rows_are_exact,
    stopped_by_launcher,
)
from reproduction.distributed.jobs import COMPARED, FAILED, JOBS, TERMINATED, TESTED
from reproduction.distributed.runs import RESUMED, Runs
from retention.records import Reliability

Case = tuple[str, Callable[[Runs], bool]]


def _sharded_is_whole(runs: Runs, name: str, folder: str | None = None) -> bool:
    return resumed_is_whole(runs, name, folder, whole="sharded_ascent")


_TRAINED = [job.name for job in JOBS if job.change is None and job is not TESTED]

# check -> its cases, and the cases with an injected fault, in which it must fail
CHECKS: dict[str, tuple[Sequence[Case], Sequence[Case]]] = {
    "distributed_equal_ranks": (
        [(name, lambda runs, name=name: ranks_agree(runs, name)) for name in _TRAINED],  # type: ignore[misc]
        [("slack of each rank alone", lambda runs: ranks_agree(runs, "sharded_slack_of_each_rank"))],
    ),
    "distributed_learned_budgets": (
        [
            ("multipliers of dual=ascent", lambda runs: learned(runs, "ascent", "dual.multipliers")),
            ("thresholds of ltp", lambda runs: learned(runs, "thresholds", "raw_thresholds")),
            ("threshold offset of ltp", lambda runs: learned(runs, "thresholds", "threshold_offset")),
            ("threshold offset of transkimmer", lambda runs: learned(runs, "calibration", "threshold_offset")),
        ],
        [("multipliers of dual=exact", lambda runs: learned(runs, "exact", "dual.multipliers"))],
    ),
    "distributed_sampled_budgets": (
        [("budgets", lambda runs: drawn(runs, "budgets"))],
        [("budgets of each rank", lambda runs: drawn(runs, "budgets_of_each_rank"))],
    ),
    "distributed_resume": (
        [
            ("after an epoch", lambda runs: resumed_is_whole(runs, "resumed_after_epoch")),
            ("within an epoch", lambda runs: resumed_is_whole(runs, "resumed_in_epoch")),
            ("after SIGTERM to rank 1", lambda runs: resumed_is_whole(runs, "went_on", "stopped")),
        ],
        [
            (
                "random state of rank 0 on all ranks",
                lambda runs: resumed_is_whole(runs, "resumed_with_the_state_of_rank_0"),
            )
        ],
    ),
    "distributed_other_number_of_processes": (
        [("refused", lambda runs: "on 2 processes" in (runs.refused or ""))],
        [],
    ),
    "distributed_metrics": (
        [("33 rows on 2 ranks", lambda runs: rows_are_exact(runs, "tested"))],
        [("rows of each rank alone", lambda runs: rows_are_exact(runs, "tested_by_each_rank"))],
    ),
    "distributed_one_record": ([("one line", lambda runs: lines(runs.two.folder) == 1)], []),
    "distributed_same_batch_on_one_process": (
        [(job.name, lambda runs, name=job.name: is_one_process(runs, name)) for job in COMPARED],  # type: ignore[misc]
        [
            ("another dual", lambda runs: is_one_process(runs, "exact64", "ascent64")),
            ("slack of each rank alone", lambda runs: is_one_process(runs, "slack_of_each_rank", "ascent64")),
        ],
    ),
    "distributed_signals": (
        [
            ("SIGTERM to rank 1", lambda runs: [each["status"] for each in runs.two.ranks("stopped")] == [143, 143]),
            ("SIGTERM to the launcher", stopped_by_launcher),
        ],
        [],
    ),
    "distributed_error_on_one_rank": (
        [("status, message, no record", lambda runs: ended_with_message(runs.failed))],
        [],
    ),
    "distributed_fsdp": (
        [("weights of DDP", lambda runs: is_like_ddp(runs, "exact"))],
        [("another dual", lambda runs: is_like_ddp(runs, "ascent"))],
    ),
    "distributed_fsdp_resume": (
        [
            ("after an epoch", lambda runs: _sharded_is_whole(runs, "sharded_resumed_after_epoch")),
            ("within an epoch", lambda runs: _sharded_is_whole(runs, "sharded_resumed_in_epoch")),
            ("after SIGTERM to rank 1", lambda runs: _sharded_is_whole(runs, "sharded_went_on", "sharded_stopped")),
        ],
        [("position in the epoch lost", lambda runs: _sharded_is_whole(runs, "sharded_resumed_from_first_batch"))],
    ),
}
# Jobs of the checks that do not need all of them.
JOBS_OF: dict[str, tuple[str, ...]] = {
    "distributed_learned_budgets": ("ascent", "thresholds", "calibration", "exact"),
    "distributed_sampled_budgets": ("budgets", "budgets_of_each_rank"),
    "distributed_resume": (
        *("ascent", "resumed_after_epoch", RESUMED, "resumed_with_the_state_of_rank_0", "stopped", "went_on"),
    ),
    "distributed_other_number_of_processes": ("ascent", RESUMED),
    "distributed_metrics": ("ascent", "tested", "tested_by_each_rank"),
    "distributed_one_record": ("ascent",),
    "distributed_same_batch_on_one_process": (*(job.name for job in COMPARED), "slack_of_each_rank"),
    "distributed_signals": ("stopped", TERMINATED.name),
    "distributed_error_on_one_rank": (FAILED.name,),
    "distributed_fsdp": ("ascent", "exact", "sharded"),
    "distributed_fsdp_resume": (
        *("sharded_ascent", "sharded_resumed_after_epoch", "sharded_resumed_in_epoch"),
        *("sharded_resumed_from_first_batch", "sharded_stopped", "sharded_went_on"),
    ),
}


def jobs_of(checks: Iterable[str]) -> set[str]:
    """Return the names of the jobs that checks need."""
    every = {job.name for job in (*JOBS, TERMINATED, FAILED)}
    return {name for check in checks for name in JOBS_OF.get(check, every - {TERMINATED.name, FAILED.name})}


def evaluate(check: str, runs: Runs) -> Reliability:
    """Return the outcome of a check; a case with an injected fault counts as wrong if the check does not notice it."""
    cases, controls = CHECKS[check]
    results = {label: _holds(case, runs) for label, case in cases}
    results |= {f"injected fault: {label}": not _holds(case, runs) for label, case in controls}
    clear = sum(results.values())
    details: dict[str, Any] = {"ranks": 2, "cases": results}
    if check == "distributed_same_batch_on_one_process" and runs.one:
        details["largest_difference"] = {
            job.name: difference(runs.one[job.name]["state"], runs.two.ranks(job.name)[0]["state"]) for job in COMPARED
        }
    if check == "distributed_fsdp" and runs.two.ranks("sharded"):
        states = [runs.two.ranks(name)[0]["state"] for name in ("sharded", "exact")]
        details["largest_difference"] = difference(*states)
    if check == "distributed_error_on_one_rank":
        details["launcher_status"] = runs.failed.status
    return Reliability(check=check, tried=len(results), clear=clear, wrong=len(results) - clear, details=details)


def _holds(case: Callable[[Runs], bool], runs: Runs) -> bool:
    try:
        return bool(case(runs))
    except (KeyError, IndexError, ValueError, OSError):  # a run is missing
        return False
