"""The batches that every variant is timed on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from retention.bench.plan import Plan
from retention.bench.settings import VOCABULARY
from retention.data.base import RetentionData
from retention.errors import ConfigError, Problem

Batch = dict[str, Tensor]
_KEYS = ("input_ids", "attention_mask", "protected_mask")


@dataclass(frozen=True)
class Inputs:
    """Batches of one length and batch size.

    Attributes:
        bucketed: texts of similar length together, padded to the longest of the batch.
        padded: the same texts padded to the full length; None where they all have it anyway.
        vocab_size: ids are below it.
        note: what the rows are, for the record.
    """

    bucketed: list[Batch]
    padded: list[Batch] | None
    vocab_size: int
    note: dict[str, Any]

    def to(self, device: str) -> Inputs:
        """The same batches on a device."""
        padded = None if self.padded is None else [_moved(batch, device) for batch in self.padded]
        return Inputs([_moved(batch, device) for batch in self.bucketed], padded, self.vocab_size, self.note)


def make_inputs(plan: Plan, length: int, batch_size: int) -> Inputs:
    """The batches of one case, real or synthetic, on the CPU.

    Raises:
        ConfigError: the task has fewer batches than asked for, or nobody brings a tokenizer.
        DataError: the data cannot be used.
    """
    count = plan.settings.batches
    if plan.settings.task is None:
        vocab_size = int(plan.backbone.config(VOCABULARY).vocab_size)
        batches = synthetic_batches(length, batch_size, count, vocab_size, plan.settings.seed)
        return Inputs(batches, None, vocab_size, _note("synthetic (random ids, all of the full length)", batches))
    data = plan.data(length, batch_size)
    tokenizer = _tokenizer(plan, data)
    data.attach(tokenizer)
    data.setup("test")
    batches = spread_batches(data, count)
    padded = [padded_to(batch, length, int(tokenizer.pad_token_id)) for batch in batches]
    note = _note(data.settings.source_note, batches)
    return Inputs(batches, padded, len(tokenizer), note)


def synthetic_batches(length: int, batch_size: int, count: int, vocab_size: int, seed: int) -> list[Batch]:
    """Random ids, no padding; the first and the last token of each text are protected, as CLS and SEP are."""
    generator = torch.Generator().manual_seed(seed)
    first = min(1000, vocab_size // 2)  # below are special tokens, some of which mean padding to position counters
    protected = torch.zeros(batch_size, length, dtype=torch.bool)
    protected[:, 0] = protected[:, -1] = True
    return [
        {
            "input_ids": torch.randint(first, vocab_size, (batch_size, length), generator=generator),
            "attention_mask": torch.ones(batch_size, length, dtype=torch.long),
            "protected_mask": protected.clone(),
        }
        for _ in range(count)
    ]


def spread_batches(data: RetentionData, count: int) -> list[Batch]:
    """``count`` batches of the test loader, evenly spread over it: it goes from long texts to short ones.

    Raises:
        ConfigError: the loader has fewer.
    """
    loader = data.test_dataloader()
    orders: Sequence[list[int]] = list(loader.batch_sampler or ())
    if len(orders) < count:
        message = f"{count} asked, the test rows of {data.name} make {len(orders)}; lower --batches or --batch"
        raise ConfigError([Problem("--batches", message)])
    collate = data.collator()
    chosen = [orders[int((place + 0.5) * len(orders) / count)] for place in range(count)]
    batches = [collate([loader.dataset[row] for row in rows]) for rows in chosen]
    return [{key: batch[key] for key in _KEYS} for batch in batches]


def padded_to(batch: Batch, length: int, pad_token_id: int) -> Batch:
    """The same batch, [B, length]."""
    missing = length - batch["input_ids"].shape[1]
    fill: dict[str, int | bool] = {"input_ids": pad_token_id, "attention_mask": 0, "protected_mask": False}
    return {key: F.pad(values, (0, missing), value=fill[key]) for key, values in batch.items()}


def _tokenizer(plan: Plan, data: RetentionData) -> Any:
    tokenizer = plan.backbone.tokenizer() or data.build_tokenizer()
    if tokenizer is None:
        message = f"{plan.backbone.name} has no tokenizer for real texts; use --backbone, --path or --synthetic"
        raise ConfigError([Problem("--task", message)])
    return tokenizer


def _note(source: str, batches: Sequence[Batch]) -> dict[str, Any]:
    real = sum(int(batch["attention_mask"].sum()) for batch in batches)
    rows = sum(len(batch["input_ids"]) for batch in batches)
    slots = sum(batch["input_ids"].numel() for batch in batches)
    return {"source": source, "rows": rows, "mean_length": real / rows, "padding": 1.0 - real / slots}


def _moved(batch: Batch, device: str) -> Batch:
    return {key: values.to(device) for key, values in batch.items()}
