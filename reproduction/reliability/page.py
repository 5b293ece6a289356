"""Make the table of docs/reliability.md from the latest record of each check."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from retention.errors import DataError
from retention.report.grouping import Record
from retention.report.tables import markdown_table, text_frame

RECORDS = Path("results") / "reliability"
_HEADER = ("check", "tried", "clear", "wrong", "inner errors", "hangs", "details", "record")
# Row of a check: what is tried, and a function of its details.
_ROWS: Mapping[str, tuple[str, Callable[[Mapping[str, Any]], str]]] = {
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


def reliability_table(records: Iterable[Record]) -> str:
    """Return the table of the latest record of each check.

    ``clear`` counts right results and clear errors; a check without a record has no row, others than those above get
    one without details.

    Raises:
        DataError: there is no reliability record.
    """
    latest = {str(record["check"]): record for record in records if record["kind"] == "reliability"}
    if not latest:
        raise DataError("reliability: there is no record; run python -m reproduction reliability")
    names = [*(name for name in _ROWS if name in latest), *sorted(latest.keys() - _ROWS.keys())]
    return markdown_table(text_frame(_HEADER, [_row(name, latest[name]) for name in names]))


def reliability_page(records: Iterable[Record]) -> str:
    """Return docs/reliability.md with its table."""
    return _PAGE.format(table=reliability_table(records))


def _row(name: str, record: Record) -> list[str]:
    title, describe = _ROWS.get(name, (name.replace("_", " "), lambda details: ""))
    details = record["details"]
    outcomes = details.get("outcomes", {})
    inner, hangs = outcomes.get("inner_traceback", 0), outcomes.get("hang", 0)
    numbers = [f"{number:,}" for number in (record["tried"], record["clear"], record["wrong"], inner, hangs)]
    source = f"{record['date'][:10]}, {_short(str(record['commit']))}"
    return [title, *numbers, describe(details), source]


def _right(details: Mapping[str, Any]) -> int:
    return int(details["outcomes"]["right"])


def _lost(details: Mapping[str, Any]) -> str:
    return f"runs of {details['run_s']} s, most work lost {details['most_work_lost_s']} s"


def _short(commit: str) -> str:
    digits, dash, dirty = commit.partition("-")
    return digits[:8] + dash + dirty


_PAGE = """\
# Reliability

Many faulty inputs, interruptions and loads were tried. The table is made from the records in `results/reliability`;
`make reliability` runs all checks again, appends their records and writes it anew.

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
  finite. A model that loads must answer exactly like the intact one.
- **Damaged data files** are read, encoded and batched as in a run. Changes that leave a valid file may be accepted.
- **Payloads** write a marker file if they are executed; without the allow-list each of them does.
- **Interrupted runs** are repeated with `ckpt=last`. Metrics, keep ratios and predictions must equal those of the
  uninterrupted run, with exactly one record and no temporary file. Work lost is the time since the last checkpoint, or
  since the start; a run writes a checkpoint at least every 5 minutes by default.
- **Threads and the server**: each answer is compared with that of a single call: labels, probabilities within 1e-5,
  kept tokens and the flag `truncated`. Memory is the growth of the resident set after the first fifth of the requests.
"""
