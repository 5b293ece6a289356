r"""Compare the steps of the ladder, from the paper's method to our recipe, and make their table.

    python -m reproduction.series sst2_small ... --list reproduction/ladder.yaml --record results/ladder/sst2.jsonl
    python -m reproduction.ladder outputs/quality/sst2_small --record results/ladder/sst2.jsonl
    python -m reproduction readme

The second command compares the runs of each two steps that follow each other, row by row over all seeds; --list names
another list of steps, such as reproduction/ladder_ingredients.yaml.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from reproduction.comparison import interval, signed
from reproduction.pooling import pooled, seed_differences
from reproduction.series import Entry, read_list
from retention.errors import DataError
from retention.records import Paired, Quality, read_records
from retention.report import paired_comparison
from retention.report.grouping import Record, mean_and_deviation, percent
from retention.report.tables import markdown_table, text_frame

LADDER = Path(__file__).with_name("ladder.yaml")
INGREDIENTS = LADDER.with_name("ladder_ingredients.yaml")
LONG_TEXT = LADDER.with_name("ladder_long_text.yaml")
_COLUMNS = ("step", "score", "change from the row above", "slack in training", "FLOPs ratio")


def ladder_table(root: Path, task: str, path: Path = LADDER) -> str:
    """Return the table of a task as Markdown: score of each step and its difference from the step before, in points.

    The slack is the share of the tokens that the gates were expected to keep beyond the budget, mean over the steps of
    the training and its gates: where it is large, the model was hardly trained with removal.

    Args:
        root: folder with ``results/ladder/<task>.jsonl``: the runs of the steps and their comparisons. Runs with the
            paper's method and its references may stand in ``results/quality/<task>_paper.jsonl``, where claims find
            them.
        task: name of the file.
        path: list of the steps.

    Raises:
        DataError: a step was not run, or not compared with the one before.
    """
    file = root / "results" / "ladder" / f"{task}.jsonl"
    as_in_paper = root / "results" / "quality" / f"{task}_paper.jsonl"
    records = read_records([file, *([as_in_paper] if as_in_paper.exists() else [])])
    rows: list[list[str]] = []
    before: Entry | None = None
    for entry in read_list(path):
        runs = [each for each in records if each["kind"] == Quality.kind and entry.job(each["seed"]).matches(each)]
        if not runs:
            raise DataError(f"{file}: has no run of step {entry.name!r}")
        scores = [100.0 * run["metrics"][run["monitor"]] for run in runs]
        change = "-" if before is None else _change(records, entry, before)
        flops = percent(fmean(run["flops_ratio"] for run in runs))
        rows.append([entry.name, mean_and_deviation(scores), change, _slack(runs), flops])
        before = entry
    return markdown_table(text_frame(_COLUMNS, rows), labels=1)


def _change(records: Sequence[Record], entry: Entry, before: Entry) -> str:
    """Format the difference of a step from the one before, with its interval over seeds and rows."""
    names = {"run": _pattern(entry), "other": _pattern(before)}
    compared = [
        seed_differences(record)
        for record in records
        if record["kind"] == Paired.kind and all(record["config"][key] == name for key, name in names.items())
    ]
    if not compared:
        raise DataError(f"there is no comparison of {names['run']} with {names['other']}")
    difference = pooled(compared)
    return f"{signed(difference.mean)} {interval(difference)}"


def _slack(runs: Sequence[Record]) -> str:
    slacks: list[Any] = [((run.get("training") or {}).get("slack") or {}).get("slack") for run in runs]
    return "-" if None in slacks else percent(round(fmean(slacks), 4) + 0.0)  # without the sign of a rounded -0


def _pattern(entry: Entry) -> str:
    """Return the names of a step's run folders, with ``{seed}`` for the seed, as given to ``retention compare``."""
    return entry.job(0).name.replace("-seed0", "-seed{seed}", 1)


def main(argv: Sequence[str] | None = None) -> int:
    """Compare each step with the one before; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m reproduction.ladder", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="folder of the runs, outputs/quality/<experiment>")
    parser.add_argument("--list", type=Path, default=LADDER, help="YAML file of the steps")
    parser.add_argument("--seeds", nargs="+", default=["0", "1", "2"])
    parser.add_argument("--record", type=Path, required=True, help="JSON Lines file that the results are appended to")
    arguments = parser.parse_args(argv)
    status = 0
    for before, entry in pairwise(read_list(arguments.list)):
        print(entry.name)
        folders = [str(arguments.folder / _pattern(each)) for each in (entry, before)]
        words = [*folders, "--seeds", *arguments.seeds, "--record", str(arguments.record)]
        status = max(status, paired_comparison.main(words))
    return status


if __name__ == "__main__":
    sys.exit(main())
