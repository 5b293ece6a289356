"""Build batches of question answering rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from retention.data.batching import Batch, EncodedRow, integer_column, pad_inputs


@dataclass(frozen=True)
class QuestionCollate:
    """Pad rows of questions.

    Adds, all long but the mask: ``labels`` [B] answer type, -100 = unknown; ``spans`` [B, K, 2] positions of the
    answers in the row (first, last), -1 = none; ``evidence`` [B, E, 2] likewise, the part of the evidence in the row;
    ``context`` [B, 2] positions [start, end) of the text; ``shift`` [B], position + shift = token of the text;
    ``question`` [B, 2] index of the passage in its split and of the question in the passage; ``index`` [B];
    ``global_mask`` [B, T] bool, True on the first token and the question, for encoders with global attention.
    """

    pad_token_id: int

    def __call__(self, rows: Sequence[EncodedRow]) -> Batch:
        """Build one batch."""
        batch = pad_inputs(rows, self.pad_token_id)
        for name, column in (("labels", "answer_type"), ("shift", "shift"), ("index", "index")):
            batch[name] = integer_column(rows, column)
        for name in ("context", "question"):
            batch[name] = torch.tensor([row[name] for row in rows], dtype=torch.long)
        for name in ("spans", "evidence"):
            most = max(1, *(len(row[name]) for row in rows))
            padded = [[*row[name], *[[-1, -1]] * (most - len(row[name]))] for row in rows]
            batch[name] = torch.tensor(padded, dtype=torch.long)
        positions = torch.arange(batch["input_ids"].shape[1])
        batch["global_mask"] = positions < batch["context"][:, :1]
        return batch
