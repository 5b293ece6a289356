"""Make the table of docs/reliability.md from the latest record of each check."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from retention.errors import DataError
from retention.report.grouping import Record
from retention.report.tables import markdown_table, text_frame

RECORDS = Path("results") / "reliability"
_HEADER = ("check", "tried", "handled", "wrong", "library tracebacks", "hangs", "details", "record")
# Row of a check: what is tried, and a function of its details.
_Describe = Callable[[Mapping[str, Any]], str]
_ROWS: Mapping[str, tuple[str, _Describe]] = {
    "reported_cases": (
        "tests of reported kinds of trouble (tests/cases)",
        lambda details: f"{details['skipped']} skipped",
    ),
    "fuzzed_configurations": (
        "fuzzed configurations; a sample of the valid ones is trained",
        lambda details: f"{details['accepted']} valid, {details['trained']} trained",
    ),
    "damaged_checkpoints": (
        "damaged checkpoints and encoder folders",
        lambda details: f"{_right(details)} with the intact model's answers",
    ),
    "damaged_data_files": (
        "damaged data files: CSV, JSON Lines, Parquet, JSON, gzip",
        lambda details: f"{_right(details)} still usable",
    ),
    "payloads": (
        "payloads at every place of a checkpoint, through every way to load it",
        lambda details: f"{details['executed']} run",
    ),
    "kill": ("kill -9 at a random moment, then resumed", lambda details: _lost(details)),
    "stop_signals": ("SIGTERM or Ctrl-C at a random moment, then resumed", lambda details: _lost(details)),
    "work_lost": (
        "a kill at the end of each step, with the default interval of checkpoints (simulated clock)",
        lambda details: (
            f"every {details['every_n_minutes']:g} minutes; most work lost {details['most_work_lost_s']:.0f} s"
        ),
    ),
    "threads": (
        "calls of one model from several threads",
        lambda details: f"{details['threads']} threads; {', '.join(details['policies'])}",
    ),
    "server_load": (
        "requests of mixed lengths to examples/serve.py",
        lambda details: (
            f"{details['truncated']} truncated (up to {details['longest_characters']:,} characters), memory "
            f"{details['memory_growth_mib']:+.1f} MiB"
        ),
    ),
}
_TWO_PROCESSES = {  # checks of reproduction.distributed
    "distributed_equal_ranks": "equal weights, dual variables and thresholds on both ranks",
    "distributed_learned_budgets": "dual variables, thresholds and offsets are learned",
    "distributed_sampled_budgets": "equal draws of sampled budgets on both ranks",
    "distributed_resume": "resumed training equals the uninterrupted one",
    "distributed_other_number_of_processes": "resuming on another number of processes is refused",
    "distributed_metrics": "metrics of 33 rows, which two ranks cannot share equally",
    "distributed_one_record": "exactly one record",
    "distributed_same_batch_on_one_process": "weights of one process with the same rows per step",
    "distributed_signals": "SIGTERM to one rank, and to the launcher",
    "distributed_error_on_one_rank": "error on one rank",
    "distributed_fsdp": "FSDP ends with the weights of DDP",
    "distributed_fsdp_resume": "resumed training with FSDP equals the uninterrupted one",
}


def reliability_table(records: Iterable[Record]) -> str:
    """Return the table of the latest record of each check.

    ``clear`` counts right results and clear errors; a check without a record has no row.

    Raises:
        DataError: there is no reliability record.
    """
    latest = {str(record["check"]): record for record in records if record["kind"] == "reliability"}
    if not latest:
        raise DataError("reliability: there is no record; run python -m reproduction reliability")
    listed = [*_ROWS, *_TWO_PROCESSES]
    names = [*(name for name in listed if name in latest), *sorted(latest.keys() - set(listed))]
    return markdown_table(text_frame(_HEADER, [_row(name, latest[name]) for name in names]))


def reliability_page(records: Iterable[Record]) -> str:
    """Return docs/reliability.md with its table."""
    return _PAGE.format(table=reliability_table(records))


def _row(name: str, record: Record) -> list[str]:
    title, describe = _ROWS.get(name, (f"two processes: {_TWO_PROCESSES.get(name, name)}", _faults))
    details = record["details"]
    outcomes = details.get("outcomes", {})
    inner, hangs = outcomes.get("inner_traceback", 0), outcomes.get("hang", 0)
    numbers = [f"{number:,}" for number in (record["tried"], record["clear"], record["wrong"], inner, hangs)]
    source = f"{record['date'][:10]}, {_short(str(record['commit']))}"
    return [title, *numbers, describe(details), source]


def _right(details: Mapping[str, Any]) -> int:
    return int(details["outcomes"]["right"])


def _faults(details: Mapping[str, Any]) -> str:
    """Describe a check of two processes."""
    injected = [holds for case, holds in details.get("cases", {}).items() if case.startswith("injected fault")]
    text = f"{sum(injected)} of {len(injected)} injected faults noticed" if injected else ""
    difference = details.get("largest_difference")
    largest = max(difference.values()) if isinstance(difference, Mapping) else difference
    return "; ".join(each for each in (text, "" if largest is None else f"largest difference {largest:.0e}") if each)


def _lost(details: Mapping[str, Any]) -> str:
    return f"runs of {details['run_s']} s, most work lost {details['most_work_lost_s']} s"


def _short(commit: str) -> str:
    digits, dash, dirty = commit.partition("-")
    return digits[:8] + dash + dirty


_PAGE = """\
# Reliability

Many faulty inputs, interruptions and loads were tried. The table is made from the records in `results/reliability`;
`make reliability` runs all checks again, appends a record of each when it is done, and writes the table anew;
`python -m reproduction reliability --only kill threads` runs some of them. `make distributed` does the same for the
checks of [two processes](distributed.md).

<!-- generated: reliability -->
{table}
<!-- end -->

- *clear*: the right result, or an error of this project (or of Hydra) that names what is wrong.
- *wrong*: a wrong answer, no error where one was due, or foreign code that was run.
- *inner errors*: a traceback of an inner library reached the user. *hangs*: over the time limit.

How each check decides:

- **Tests of reported kinds of trouble** reproduce what users of similar libraries have reported, with sister heads,
  families and formats.
- **Fuzzed configurations** change, delete or add keys of every recipe (policies, duals, loggers, distillation). Numbers
  that are not finite, unknown keys, classes in places that build none, and references to nothing must be refused. Of
  the valid ones a sample is trained, and its metrics must be finite.
- **Damaged checkpoints** are cut, have bytes changed, keys removed, values of other types, or weights that are not
  finite. A model that loads must answer exactly like the intact one. A checkpoint whose training state (loops,
  optimizers, schedules, callbacks, random state) was changed must not be resumed.
- **Damaged data files** are read, encoded and batched as in a run. Changes that leave a valid file may be accepted.
- **Payloads** write a marker file if they are executed; without the allow-list each of them does.
- **Interrupted runs** are repeated with `ckpt=last`. Metrics, keep ratios and predictions must equal those of the
  uninterrupted run, with exactly one record and no temporary file.
- **Threads and the server**: each answer is compared with that of a single text in a single thread: labels,
  probabilities within 1e-5, kept tokens and the flag `truncated`. Memory is the growth of the resident set after the
  first fifth of the requests.

How to read the figures:

- An attempt is *clear* if nothing misleading happened, not if the input was accepted. A check that refuses everything
  would have as many; the column *details* and `by_kind` in the records tell how many were accepted.
- The damaged configurations, checkpoints and files are drawn from the kinds of damage listed here, with a fixed seed.
  Other kinds were not tried. Changes whose effect nobody can tell from the file, such as another valid number in a
  weight with a matching checksum, or another label in a data file, are not among them.
- Interrupted runs last seconds, so they write a checkpoint every 0.3 s; their work lost shows the order of events, not
  the bound. The bound comes from the default of 4 minutes between checkpoints and the end of the step in which they
  are due; the row with the simulated clock measures it on steps of 0.5 to 20 s.
- Answers of threads and server are compared within 1e-5, not bit for bit: sums of matrix products depend on the width
  of the batch. Kept tokens must be the same; ToMe orders similarities by four decimals for that reason.
- The server is called inside the process, without a network. A test starts it under uvicorn and stops it by SIGTERM
  with requests in flight.
- Two processes are two CPU processes (gloo) on one machine.
"""
