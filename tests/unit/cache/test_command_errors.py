"""Test that the commands of the cache name the option that is wrong, before they load a model."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.cache.test_training import save_decoder

from retention.cache import bench, evaluate
from retention.cache.policies.named import build_policies
from retention.errors import ConfigError

RECALL = ["--tasks", "recall", "--limit", "1", "--pairs", "3"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sizes", "4"], "--sizes: must leave room for 4 first tokens (--sinks) and a window of 2"),
        (["--sizes", "16", "--window-share", "0"], "--window-share: must be in (0, 1], got 0.0"),
        (["--sizes", "16", "--sinks", "-1"], "--sinks: must be 0 or more, got -1"),
        (["--policies", "tova", "--baseline", "h2o"], "--baseline: must be one of the policies to compare, tova;"),
        (["--sizes", "16"], "none: neither a folder nor a hub model within reach"),
    ],
)
def test_evaluate_names_the_option(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main(["--model", "none", *RECALL, *options]) == 1
    assert message in capsys.readouterr().err


def test_bench_names_its_own_option_of_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_decoder(tmp_path / "model")
    assert bench.main(["--model", str(tmp_path / "model"), "--lengths", "20", "--size", "4", "--new-tokens", "3"]) == 1
    assert "--size: must leave room" in capsys.readouterr().err


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main(["--model", str(tmp_path), *RECALL, "--sizes", "16"]) == 1
    assert f"{tmp_path}: the folder holds no usable tokenizer" in capsys.readouterr().err


def test_damaged_weights_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "model"
    save_decoder(folder)
    (folder / "model.safetensors").write_bytes(b"damaged")
    assert evaluate.main(["--model", str(folder), *RECALL, "--sizes", "16"]) == 1
    assert f"{folder}: the folder holds no usable decoder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tasks", "text", "--limit", "0"], "limit: must be >= 1, got 0"),
        (["--tasks", "text", "--skip", "-1"], "skip: must be >= 0, got -1"),
    ],
)
def test_numbers_of_texts_are_checked(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_decoder(tmp_path / "model")
    (tmp_path / "texts.txt").write_text("some text\n")
    typed = ["--model", str(tmp_path / "model"), "--texts", str(tmp_path / "texts.txt"), "--sizes", "16", *options]
    assert evaluate.main(typed) == 1
    assert message in capsys.readouterr().err


def test_score_files_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="scores: files of different names are told apart"):
        build_policies([], [tmp_path / "a" / "scores.safetensors", tmp_path / "b" / "scores.safetensors"], 0)
