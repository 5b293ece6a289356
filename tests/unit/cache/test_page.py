"""Test the HTML page of held tokens."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from tests.unit.cache.decoders import tiny_decoder
from tests.unit.cache.test_training import save_decoder

from retention.cache import CacheBudget, KeyNorm, StreamingLLM, page
from retention.cache.page import held_tokens, kept_positions_html
from retention.errors import DataError


def test_held_tokens_are_those_of_the_cache() -> None:
    held = held_tokens(
        tiny_decoder("llama"), torch.randint(3, 90, (1, 40)), StreamingLLM(), CacheBudget(size=10, sinks=2, window=3)
    )
    assert held.shape == (3, 40)
    assert all(layer.nonzero().flatten().tolist() == [0, 1, *range(32, 40)] for layer in held)


def test_each_head_has_a_row_of_its_own() -> None:
    budget = CacheBudget(size=10, sinks=2, window=3, per_head=True)
    held = held_tokens(tiny_decoder("llama"), torch.randint(3, 90, (1, 40)), KeyNorm(), budget)
    assert held.shape == (6, 40) and held.sum(1).tolist() == [10] * 6
    assert not torch.equal(held[0], held[1])
    html = kept_positions_html(["a"] * 40, {"key_norm": held}, "Title", "heads")
    assert "6 heads, at most 10 of 40 tokens held in each" in html and "held by 6 of 6 heads" in html


def test_the_page_shows_maps_and_counts() -> None:
    mask = torch.tensor([[True, True, False, True], [True, False, False, False]])
    html = kept_positions_html(["a", " <b>", " c", " d"], {"x & y": mask}, "Title")
    assert re.findall(r'<rect x="(\d+)" y="(\d+)" width="(\d+)"', html) == [
        ("0", "0", "2"),
        ("3", "0", "1"),
        ("0", "1", "1"),
    ]
    assert re.findall(r"held by (\d) of 2 layers", html) == ["2", "1", "0", "1"]
    assert "x &amp; y" in html and "&lt;b&gt;" in html and "<b>" not in html
    assert "1 held by all layers, 1 by none" in html and "http" not in html


def test_a_map_of_another_text_is_refused() -> None:
    with pytest.raises(DataError, match=r"\[layers, 3\].*\[2, 4\]"):
        kept_positions_html(["a", "b", "c"], {"x": torch.ones(2, 4, dtype=torch.bool)}, "Title")


def test_the_command_writes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_decoder(tmp_path / "model")
    (tmp_path / "texts.txt").write_text("thequickbrownfoxjumpsoverthelazydog\n")
    options = ["--model", str(tmp_path / "model"), "--texts", str(tmp_path / "texts.txt"), "--size", "12"]
    output = tmp_path / "kept.html"
    assert page.main([*options, "--output", str(output)]) == 0
    html = output.read_text()
    assert "<h2>key_norm</h2>" in html and "<h2>h2o</h2>" in html and "at most 12 of 35 tokens" in html
    assert page.main([*options, "--output", str(output), "--index", "1"]) == 1
    assert "--index" in capsys.readouterr().err
