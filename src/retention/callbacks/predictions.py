"""What a model said of every test row, written down."""

from __future__ import annotations

import json
from pathlib import Path

from pytorch_lightning import Callback, LightningModule, Trainer

from retention.callbacks.contract import watched
from retention.errors import Checks
from retention.records import write_atomic

FILE_NAME = "predictions.jsonl"


class Predictions(Callback):
    """Writes ``predictions.jsonl`` after a test, one JSON object per row: for paired tests between runs.

    Classification: ``index`` (row number), ``prediction`` and ``label`` (0-based class, or a list of them).
    Summarization: ``index`` and ``chosen`` sentences beside the ``oracle``'s, or the written ``summary``. Question
    answering: one object per question with the keys of the benchmark's own evaluator. A ``score`` in [0, 1] says how
    right a row is: accuracy, F1 of label sets, ROUGE-1, token F1 (none for CUAD's spans, which are ranked together).

    Args:
        dirpath: the run folder.

    Raises:
        ConfigError: ``dirpath`` is empty.
    """

    def __init__(self, *, dirpath: str) -> None:
        checks = Checks()
        checks.require(bool(dirpath), "dirpath", "is empty; give the run folder")
        checks.finish()
        self.dirpath = Path(dirpath)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            lines = [json.dumps(answer) + "\n" for answer in watched(pl_module).last_prediction_rows]
            write_atomic(self.dirpath / FILE_NAME, "".join(lines))
