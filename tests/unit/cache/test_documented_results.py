"""Check the records of the comparison of cache policies in docs/decoders.md."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from retention.errors import DataError
from retention.records import Decoding, read_objects

ROOT = Path(__file__).parents[3]
RECORDS = ROOT / "results" / "decoders" / "leaderboard_smollm2.jsonl"


def records() -> list[dict[str, Any]]:
    return [row for _, row in read_objects(RECORDS)]


def test_the_schema_describes_the_records() -> None:
    names = {field.name for field in fields(Decoding)}
    origin = {"kind", "command", "commit", "config", "versions", "machine", "date", "seed", "wall_s"}
    for row in records():
        assert set(row) - origin <= names
        result = Decoding(**{name: value for name, value in row.items() if name in names})
        assert (result.kind, result.task, result.loss) == (row["kind"], "text", row["loss"])
    with pytest.raises(DataError, match="needs loss, accuracy or cost"):
        Decoding(model="m", policy="full", size=8, sinks=0, window=1)


def test_all_policies_were_measured_alike() -> None:
    by_size: dict[int, list[dict[str, Any]]] = {}
    for row in records():
        by_size.setdefault(row["size"], []).append(row)
    assert sorted(by_size) == [64, 128, 256]
    for size, rows in by_size.items():
        assert {row["policy"] for row in rows} == {row["policy"] for row in by_size[64]}
        for key in ("model", "texts", "text_lengths", "counted_tokens", "sinks", "window"):
            assert len({str(row[key]) for row in rows}) == 1
        assert rows[0]["window"] == size // 2 and rows[0]["counted_tokens"] == [1024 - size] * 8


def test_distilled_scorers_lose_least_as_the_text_says() -> None:
    rows = {(row["policy"], row["size"]): row for row in records()}
    names = {policy for policy, _ in rows if policy != "full" and not policy.startswith("learned:")}
    for size in (64, 128, 256):
        for seed in range(3):
            ours = rows[f"learned:distilled-seed{seed}", size]
            for name in names:
                theirs = rows[name, size]
                assert ours["loss"] < theirs["loss"]
                pairs = zip(ours["loss_by_text"], theirs["loss_by_text"], strict=True)
                assert size == 256 or all(one < other for one, other in pairs)
