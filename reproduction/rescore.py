"""Compute scores that were added later, from the predictions of finished runs; no model is run.

    python -m reproduction.rescore <run folder> <run folder> --record results/rescore/<name>.jsonl
    python -m reproduction.rescore <run folder> --data <SST-2>     (also groups of test rows, which need the texts)

Reads record.json and predictions.jsonl of classification runs, and appends one record per run: calibration error and
log-likelihood of its probabilities, the recall of its weakest class, and with --data the accuracy of sentences with a
negation, with a contrast, and with neither.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from retention.data.base import RetentionData
from retention.errors import DataError, RetentionError, option_names
from retention.records import Rescore, append_record, build_record, read_objects, read_records
from retention.records.targets import resolve_class
from retention.report.group_scores import group_scores
from retention.tasks.classification.calibration import class_scores, label_set_scores
from retention.tasks.classification.data import TextClassificationData
from retention.tasks.classification.sentiment_groups import SENTIMENT_CLASSES, sentiment_groups

_RUN = ("task", "policy", "rho", "seed", "backbone", "commit", "date")


def rescore(folder: Path, data: Path | None = None) -> Rescore:
    """Score the predictions of a run.

    Args:
        folder: run folder.
        data: folder with the files of the task; None = no groups of rows.

    Raises:
        DataError: a file is missing, the predictions have no probabilities, or the rows of ``data`` are others.
    """
    [record] = read_records([folder / "record.json"])
    rows = [row for _, row in read_objects(folder / "predictions.jsonl")]
    if not rows or any("probabilities" not in row for row in rows):
        raise DataError(f"{folder}/predictions.jsonl: has no probabilities; give runs of a classification task")
    columns = [[row[name] for row in rows] for name in ("probabilities", "prediction", "label")]
    score = label_set_scores if isinstance(rows[0]["label"], list) else class_scores
    texts = [] if data is None else _test_texts(record["config"]["task"]["data"], data, rows)
    return Rescore(
        of={name: record.get(name) for name in _RUN},
        data=record["data"],
        metrics=score(*columns),
        groups=group_scores(rows, sentiment_groups(texts) if texts else {}),
    )


def _test_texts(settings: Mapping[str, Any], folder: Path, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the texts of the test rows of a sentiment task; [] for other tasks.

    Raises:
        DataError: the rows have other labels than the predictions.
    """
    if frozenset(settings.get("label_names", ())) != SENTIMENT_CLASSES:
        return []
    arguments = {key: value for key, value in settings.items() if key != "_target_"} | {"dir": str(folder)}
    data_class: Any = resolve_class(settings["_target_"], RetentionData)
    module: Any = data_class(**arguments)
    if not isinstance(module, TextClassificationData):
        return []
    documents = module.read(("test",))["test"]
    labels = dict(enumerate(documents["label"]))
    if len(labels) != len(rows) or any(labels.get(row["index"]) != row["label"] for row in rows):
        raise DataError(
            f"{folder}: its test rows are not those of the predictions; give the files the run was tested on"
        )
    return [str(text) for text in documents["text"]]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the scores of each run; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m reproduction.rescore", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", help="run folders")
    parser.add_argument("--data", type=Path, help="folder with the files of the task, for groups of test rows")
    parser.add_argument("--record", type=Path, help="JSON Lines file to append the results to")
    arguments = parser.parse_args(argv)
    try:
        for folder in arguments.runs:
            started = time.perf_counter()
            with option_names({"data.dir": "--data"}):
                result = rescore(folder, arguments.data)
            scores = {**result.metrics, **{name: each["score"] for name, each in result.groups.items()}}
            print(f"{folder.name}: " + ", ".join(f"{name} {value:.4f}" for name, value in scores.items()))
            if arguments.record is not None:
                config, seed = {"run": folder.name}, int(result.of["seed"])
                wall_s = time.perf_counter() - started
                append_record(arguments.record, build_record(result, config=config, seed=seed, wall_s=wall_s))
    except RetentionError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
