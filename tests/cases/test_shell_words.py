"""Test words of the command line that Hydra cannot read, or whose folders it cannot create."""

from __future__ import annotations

from pathlib import Path

import pytest

from retention.errors import ConfigError
from retention.experiment.entry import check_folders, check_overrides


@pytest.mark.parametrize("key", ["ckpt", "init", "+distill.teacher", "data.dir"])
@pytest.mark.parametrize("value", ["sweeps/retention.rho=0.3,retention=truncate/last.ckpt", "a (copy)/b", "~/runs/a"])
def test_value_that_needs_quotes_is_shown_with_them(key: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_overrides([f"{key}={value}"])
    [problem] = caught.value.problems
    assert problem.key == key.lstrip("+") and f"\"{key}='{value}'\"" in problem.message
    check_overrides([f"{key}='{value}'"])


@pytest.mark.parametrize(
    "word", ["retention.rho=0.5,0.3", "task.data.labels=[a,'b']", "+a={b: c}", "data.dir=/a b", 'x="a=b"', "-m", "a="]
)
def test_values_that_hydra_reads_are_left_alone(word: str) -> None:
    check_overrides([word])


@pytest.mark.parametrize("key", ["hydra.run.dir", "hydra.sweep.dir"])
@pytest.mark.parametrize("folder", ["{file}/runs/a", "{file}", "{parent}/" + "n" * 300, "a\0b"])
def test_folder_that_cannot_be_created_is_refused(key: str, folder: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("a file")
    with pytest.raises(ConfigError) as caught:
        check_folders([f"{key}={folder.format(file=file, parent=tmp_path)}"])
    assert [problem.key for problem in caught.value.problems] == [key]


def test_default_folder_is_checked_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_folders([])
    assert not list(tmp_path.iterdir()), "nothing is created"
    (tmp_path / "outputs").write_text("a file")
    with pytest.raises(ConfigError, match=r"hydra\.run\.dir"):
        check_folders(["task=sst2"])
    check_folders([f"hydra.run.dir={tmp_path}/new", "task=sst2"])
