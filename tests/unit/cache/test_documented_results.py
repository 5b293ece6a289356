"""Check the measurement in docs/decoders.md against its records."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from retention.errors import DataError
from retention.records import Decoding, read_objects

ROOT = Path(__file__).parents[3]
LABELS = {
    "full cache": "full",
    "learned scores (`gated`)": "learned:gated",
    "`StreamingLLM`": "streaming_llm",
    "`KeyNorm`": "key_norm",
    "`RandomBank`": "random",
}


def records() -> dict[tuple[str, int], dict[str, Any]]:
    rows = [row for _, row in read_objects(ROOT / "results" / "decoders" / "pubmed_smollm2.jsonl")]
    return {(row["policy"], row["size"]): row for row in rows}


def test_the_table_shows_the_recorded_losses() -> None:
    rows = re.findall(r"^\| (.+?) \| (\d\.\d{3}) \| (\d\.\d{3}) \|$", (ROOT / "docs" / "decoders.md").read_text(), re.M)
    shown = {LABELS[label]: (small, large) for label, small, large in rows}
    losses = {
        policy: tuple(f"{records()[policy, size]['loss']:.3f}" for size in (48, 96)) for policy in LABELS.values()
    }
    assert shown == losses


def test_the_text_counts_articles_as_recorded() -> None:
    better = {}
    for size in (48, 96):
        ours = records()["learned:gated", size]["loss_by_text"]
        for policy in ("random", "streaming_llm"):
            theirs = records()[policy, size]["loss_by_text"]
            better[policy, size] = sum(first < second for first, second in zip(ours, theirs, strict=True))
    assert better == {("random", 48): 4, ("random", 96): 4, ("streaming_llm", 48): 3, ("streaming_llm", 96): 4}


def test_the_schema_describes_the_records() -> None:
    names = {field.name for field in fields(Decoding)}
    origin = {"kind", "command", "commit", "versions", "machine", "date", "seed", "wall_s"}
    for row in records().values():
        assert set(row) - origin <= names
        result = Decoding(**{name: value for name, value in row.items() if name in names})
        assert (result.kind, result.task, result.loss) == (row["kind"], "text", row["loss"])
    with pytest.raises(DataError, match="needs loss, accuracy or cost"):
        Decoding(model="m", policy="full", size=8, sinks=0, window=1)


def test_all_policies_were_measured_alike() -> None:
    for size in (48, 96):
        rows = [records()[policy, size] for policy in LABELS.values()]
        for key in ("model", "texts", "text_lengths", "counted_tokens", "sinks", "window"):
            assert len({str(row[key]) for row in rows}) == 1
        assert rows[0]["window"] == size // 2 and rows[0]["text_lengths"] == [768] * 4
