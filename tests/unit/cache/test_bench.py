"""Test the measurement of memory and time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.unit.cache.decoders import tiny_decoder
from tests.unit.cache.test_training import save_decoder

from retention.cache import H2O, CacheBudget, CachePolicy, StreamingLLM, bench
from retention.cache.bench import decoding_cost
from retention.errors import ConfigError

BUDGET = CacheBudget(size=16, sinks=2, window=4)
# 3 layers, keys and values, 2 key-value heads of width 8, float32
BYTES_PER_TOKEN = 3 * 2 * 2 * 8 * 4


@pytest.mark.parametrize("policy", [StreamingLLM(), H2O()], ids=["on_arrival", "rescoring"])
def test_memory_is_bounded_whatever_the_length(policy: CachePolicy) -> None:
    model = tiny_decoder("llama", "eager")
    for length in (30, 90):
        cost = decoding_cost(model, torch.randint(3, 90, (1, length)), policy, BUDGET, new_tokens=4, chunk=20)
        assert cost.cache_bytes == 16 * BYTES_PER_TOKEN and cost.peak_tokens == 16
        assert cost.length == length and 0 < cost.ms_per_token["low"] <= cost.ms_per_token["high"]


def test_the_full_cache_grows() -> None:
    """Negative control: the measure does see growth."""
    model = tiny_decoder("llama")
    for length in (30, 90):
        cost = decoding_cost(model, torch.randint(3, 90, (1, length)), None, BUDGET, new_tokens=4, chunk=20)
        assert cost.cache_bytes == (length + 5) * BYTES_PER_TOKEN and cost.peak_tokens == length + 5


def test_the_command_records_costs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from retention.records import read_objects

    save_decoder(tmp_path / "model")
    options = ["--lengths", "20", "40", "--size", "16", "--new-tokens", "3", "--policies", "full", "key_norm", "tova"]
    record = tmp_path / "records.jsonl"
    assert bench.main(["--model", str(tmp_path / "model"), *options, "--record", str(record)]) == 0
    rows = [row for _, row in read_objects(record)]
    assert [(row["policy"], row["cost"]["length"]) for row in rows] == [
        (policy, length) for length in (20, 40) for policy in ("full", "key_norm", "tova")
    ]
    assert all(row["kind"] == "decoding" and row["task"] == "cost" and row["size"] == 16 for row in rows)
    assert "| key_norm | dynamic | 40 |" in capsys.readouterr().out


@torch.no_grad()
def test_fixed_slots_take_the_memory_of_m_tokens_from_the_start() -> None:
    model = tiny_decoder("llama")
    for length in (10, 90):
        cost = decoding_cost(
            model, torch.randint(3, 90, (1, length)), StreamingLLM(), BUDGET, new_tokens=4, chunk=20, form="fixed"
        )
        assert (cost.form, cost.cache_bytes) == ("fixed", 16 * BYTES_PER_TOKEN)
    with pytest.raises(ConfigError, match="form: must be one of dynamic, fixed, compiled"):
        decoding_cost(model, torch.randint(3, 90, (1, 10)), StreamingLLM(), BUDGET, form="static")
    with pytest.raises(ConfigError, match="form: the full cache grows"):
        decoding_cost(model, torch.randint(3, 90, (1, 10)), None, BUDGET, form="fixed")


@pytest.mark.slow
def test_the_command_records_compiled_decoding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from retention.records import read_objects

    save_decoder(tmp_path / "model")
    options = ["--lengths", "40", "--size", "16", "--new-tokens", "3", "--policies", "full", "key_norm", "tova"]
    record = tmp_path / "records.jsonl"
    options += ["--forms", "dynamic", "fixed", "compiled", "--per-head", "--record", str(record)]
    assert bench.main(["--model", str(tmp_path / "model"), *options]) == 0
    rows = [row for _, row in read_objects(record)]
    assert [(row["policy"], row["cost"]["form"]) for row in rows] == [
        ("full", "dynamic"),
        *(("key_norm", form) for form in ("dynamic", "fixed", "compiled")),
        ("tova", "dynamic"),
    ]
    assert all(row["per_head"] for row in rows)
    assert "| key_norm | compiled | 40 |" in capsys.readouterr().out


def test_prompts_beyond_the_positions_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_decoder(tmp_path / "model")
    assert bench.main(["--model", str(tmp_path / "model"), "--lengths", "128", "--policies", "full"]) == 1
    assert "--lengths" in capsys.readouterr().err
