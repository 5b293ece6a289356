"""Write the predictions of a test run to a file."""

from __future__ import annotations

import json
from pathlib import Path

from pytorch_lightning import Callback, LightningModule, Trainer
from typing_extensions import override

from retention.callbacks.watched_module import as_watched
from retention.errors import require
from retention.records import write_atomic

FILE_NAME = "predictions.jsonl"


class Predictions(Callback):
    """Write ``predictions.jsonl`` after a test, one JSON object per row, for paired comparisons of runs.

    Classification: ``index`` (row number), ``prediction`` and ``label`` (0-based class, or a list of them).
    Summarization: ``index`` and the ``chosen`` sentences beside those of the ``oracle``, or the generated ``summary``.
    Question answering: one object per question with the keys of the benchmark's evaluator. ``score`` in [0, 1] is the
    quality of a row: accuracy, F1 of label sets, ROUGE-1, token F1 (absent for CUAD spans, which are ranked together).
    ``document``, where several rows come from one, names the contract, paragraph or paper of a row.

    Args:
        dirpath: the run folder.

    Raises:
        ConfigError: ``dirpath`` is empty.
    """

    def __init__(self, *, dirpath: str) -> None:
        require(bool(dirpath), "dirpath", "is empty; give the run folder")
        self.dirpath = Path(dirpath)

    @override
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            lines = [json.dumps(row) + "\n" for row in as_watched(pl_module).last_prediction_rows]
            write_atomic(self.dirpath / FILE_NAME, "".join(lines))
