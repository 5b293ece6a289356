"""Keep the rows of ``metrics.csv`` that a training logged before it was interrupted."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import CSVLogger


def keep_logged_rows(loggers: Iterable[Any], content: Mapping[str, Any], *, complete: bool) -> None:
    """Keep the rows of a resumed training in the files of its CSV loggers, which otherwise start with empty files.

    Rows of steps that the checkpoint does not have are left out: they are logged again.

    Args:
        loggers: of the run that goes on.
        content: checkpoint that it goes on from, see ``read_checkpoint``.
        complete: True if nothing is left to train, so that every row is kept.
    """
    for logger in loggers:
        if isinstance(logger, CSVLogger):
            _keep_rows(logger, None if complete else _logged_steps(content))


def _keep_rows(logger: CSVLogger, steps: int | None) -> None:
    file = Path(logger.log_dir) / "metrics.csv"
    if not file.is_file():
        return
    with file.open(newline="", encoding="utf-8") as rows:
        reader = csv.DictReader(rows)
        names = list(reader.fieldnames or ())
        kept = [row for row in reader if steps is None or _step(row) < steps]
    writer: Any = logger.experiment  # removes the file
    if not kept:
        return
    with file.open("w", newline="", encoding="utf-8") as rows:
        output = csv.DictWriter(rows, names, extrasaction="ignore")
        output.writeheader()
        output.writerows(kept)
    writer.metrics_keys = names


def _logged_steps(content: Mapping[str, Any]) -> int:
    """Return the number of steps of a checkpoint as loggers count them, from 0 on."""
    with suppress(KeyError, TypeError):
        return int(content["loops"]["fit_loop"]["epoch_loop.state_dict"]["_batches_that_stepped"])
    return int(content.get("global_step", 0))


def _step(row: Mapping[str, Any]) -> float:
    try:
        return float(row["step"])
    except (KeyError, TypeError, ValueError):  # a line that its writer did not complete
        return float("inf")
