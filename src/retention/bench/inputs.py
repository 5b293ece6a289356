"""Build the batches that every variant is timed on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from retention.bench.plan import BenchPlan
from retention.bench.settings import VOCABULARY
from retention.data.base import RetentionData
from retention.errors import ConfigError, Problem

Batch = dict[str, Tensor]
_KEYS = ("input_ids", "attention_mask", "protected_mask")


@dataclass(frozen=True)
class Inputs:
    """Batches of one length and batch size.

    Attributes:
        bucketed: batches of sequences with similar length, padded to the longest of the batch.
        padded: the same sequences padded to the full length; None where all have the full length anyway.
        vocab_size: token ids are below it.
        description: what the sequences are, for the record.
    """

    bucketed: list[Batch]
    padded: list[Batch] | None
    vocab_size: int
    description: dict[str, Any]

    def to(self, device: str) -> Inputs:
        """Copy the batches to a device."""
        padded = None if self.padded is None else [_to_device(batch, device) for batch in self.padded]
        bucketed = [_to_device(batch, device) for batch in self.bucketed]
        return Inputs(bucketed, padded, self.vocab_size, self.description)


def make_inputs(plan: BenchPlan, length: int, batch_size: int) -> Inputs:
    """Build the batches of one case on the CPU: test data of the task, or random ids without one.

    Raises:
        ConfigError: the task has fewer batches than requested, or there is no tokenizer.
        DataError: the data cannot be used.
    """
    count = plan.settings.batches
    if plan.settings.task is None:
        vocab_size = int(plan.backbone.config(VOCABULARY).vocab_size)
        batches = synthetic_batches(length, batch_size, count, vocab_size, plan.settings.seed)
        source = "synthetic (random ids, all of the full length)"
        return Inputs(batches, None, vocab_size, _describe_batches(source, batches))
    data = plan.data(length, batch_size)
    tokenizer = _tokenizer(plan, data)
    data.attach(tokenizer)
    data.setup("test")
    batches = select_test_batches(data, count)
    padded = [pad_batch(batch, length, int(tokenizer.pad_token_id)) for batch in batches]
    description = _describe_batches(data.source_name(), batches)
    return Inputs(batches, padded, len(tokenizer), description)


def synthetic_batches(length: int, batch_size: int, count: int, vocab_size: int, seed: int) -> list[Batch]:
    """Draw random ids without padding; first and last token of each sequence are protected, as CLS and SEP are."""
    generator = torch.Generator().manual_seed(seed)
    lowest_id = min(1000, vocab_size // 2)  # lower ids are special tokens, some of which count as padding
    protected = torch.zeros(batch_size, length, dtype=torch.bool)
    protected[:, 0] = protected[:, -1] = True
    return [
        {
            "input_ids": torch.randint(lowest_id, vocab_size, (batch_size, length), generator=generator),
            "attention_mask": torch.ones(batch_size, length, dtype=torch.long),
            "protected_mask": protected.clone(),
        }
        for _ in range(count)
    ]


def select_test_batches(data: RetentionData, count: int) -> list[Batch]:
    """Select ``count`` batches of the test loader, evenly spaced; the loader goes from long to short sequences.

    Raises:
        ConfigError: the loader has fewer batches.
    """
    loader = data.test_dataloader()
    batches_of_rows: Sequence[list[int]] = list(loader.batch_sampler or ())
    if len(batches_of_rows) < count:
        available = len(batches_of_rows)
        message = f"got {count}, but the test data of {data.name} make {available}; lower --batches or --batch"
        raise ConfigError([Problem("--batches", message)])
    collate = data.collator()
    selected = [batches_of_rows[int((index + 0.5) * len(batches_of_rows) / count)] for index in range(count)]
    batches = [collate([loader.dataset[row] for row in rows]) for rows in selected]
    return [{key: batch[key] for key in _KEYS} for batch in batches]


def pad_batch(batch: Batch, length: int, pad_token_id: int) -> Batch:
    """Pad a batch [B, N] to [B, length]."""
    missing = length - batch["input_ids"].shape[1]
    fill: dict[str, int | bool] = {"input_ids": pad_token_id, "attention_mask": 0, "protected_mask": False}
    return {key: F.pad(values, (0, missing), value=fill[key]) for key, values in batch.items()}


def _tokenizer(plan: BenchPlan, data: RetentionData) -> Any:
    tokenizer = plan.backbone.tokenizer() or data.build_tokenizer()
    if tokenizer is None:
        message = f"{plan.backbone.name} has no tokenizer for real data; use --backbone, --path or --synthetic"
        raise ConfigError([Problem("--task", message)])
    return tokenizer


def _describe_batches(source: str, batches: Sequence[Batch]) -> dict[str, Any]:
    real = sum(int(batch["attention_mask"].sum()) for batch in batches)
    rows = sum(len(batch["input_ids"]) for batch in batches)
    slots = sum(batch["input_ids"].numel() for batch in batches)
    return {"source": source, "rows": rows, "mean_length": real / rows, "padding": 1.0 - real / slots}


def _to_device(batch: Batch, device: str) -> Batch:
    return {key: values.to(device) for key, values in batch.items()}
