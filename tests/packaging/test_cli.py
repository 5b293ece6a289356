"""Check the console command: its help, its errors, and that it passes arguments on."""

from __future__ import annotations

import json
import re
import sys
from importlib import import_module
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from retention import __version__, cli
from retention.experiment.distill import USAGE, with_recipe


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in cli.COMMANDS)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"adaptive-retention {__version__}\n"


@pytest.mark.parametrize("command", cli.COMMANDS.values(), ids=list(cli.COMMANDS))
def test_every_command_has_a_function(command: cli.Command) -> None:
    assert callable(getattr(import_module(command.module), command.function))


def test_unknown_command_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["trian"]) == 2
    assert "unknown command 'trian'; choose from run, distill, bench" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "passed"),
    [
        (["run", "task=sst2"], ["task=sst2"]),
        (["run"], []),
        (["task=sst2", "-m"], ["task=sst2", "-m"]),
        (["-m", "sweep=table1"], ["-m", "sweep=table1"]),
        (["+data.extra=1"], ["+data.extra=1"]),
    ],
)
def test_settings_go_to_run(typed: list[str], passed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[list[str]] = []
    monkeypatch.setattr("retention.experiment.entry.main", received.append)
    assert cli.main(typed) == 0
    assert received == [passed]


@pytest.mark.parametrize(
    ("typed", "passed"),
    [
        (["distill", "texts=a.txt"], ["experiment=embedding_distill", "texts=a.txt"]),
        (["distill", "experiment=[embedding_distill,mine]"], ["experiment=[embedding_distill,mine]"]),
        (["distill", "+experiment=mine", "-m"], ["+experiment=mine", "-m"]),
    ],
)
def test_distill_adds_its_recipe(typed: list[str], passed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[list[str]] = []
    monkeypatch.setattr("retention.experiment.entry.main", received.append)
    assert cli.main(typed) == 0
    assert received == [passed]


@pytest.mark.parametrize(
    ("classes", "recipe"),
    [
        (["BertForSequenceClassification"], "classifier_distill"),
        (["BertModel"], "embedding_distill"),
        (None, "embedding_distill"),
    ],
)
def test_distill_chooses_the_recipe_by_the_model(classes: list[str] | None, recipe: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "architectures": classes}))
    typed = ["texts=a.txt", f"backbone.path={tmp_path}"]
    assert with_recipe(typed) == [f"experiment={recipe}", *typed]
    assert with_recipe([f"backbone.path={tmp_path}/missing"])[0] == "experiment=embedding_distill"


@pytest.mark.parametrize("typed", [["distill"], ["distill", "--help"], ["distill", "texts=a.txt", "-h"]])
def test_distill_prints_its_usage(typed: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(typed) == 0
    assert capsys.readouterr().out == f"{USAGE}\n"


def test_distill_usage_names_settings_that_exist() -> None:
    conf = Path(__file__).parents[2] / "conf"
    with initialize_config_dir(str(conf), version_base="1.3"):
        config = compose("config", overrides=["experiment=embedding_distill"])
    keys = re.findall(r"^  ([\w.]+)=", USAGE, re.M)
    assert len(keys) == 9
    assert all(OmegaConf.select(config, key, default="missing") != "missing" for key in keys)


def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delitem(sys.modules, "retention.bench.plots", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert cli.main(["bench-plots"]) == 2
    assert "retention bench-plots needs matplotlib" in capsys.readouterr().err


def test_missing_module_of_the_user_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(arguments: list[str]) -> None:
        raise ModuleNotFoundError("No module named 'my_policies'", name="my_policies")

    monkeypatch.setattr("retention.experiment.entry.main", fail)
    with pytest.raises(ModuleNotFoundError, match="my_policies"):
        cli.main(["run"])


def test_bench_writes_below_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny = ["--set", "backbone.fields.hidden_size=24", "backbone.fields.num_hidden_layers=2"]
    sizes = ["--length", "8", "--batch", "2", "--batches", "1", "--rounds", "1", "--warmup", "1", "--device", "cpu"]
    assert cli.main(["bench", "--policy", "truncate", "--rho", "0.5", *sizes, *tiny]) == 0
    assert "truncate 0.5" in capsys.readouterr().out
    assert (tmp_path / "results" / "speed" / "minilm-random_synthetic.jsonl").is_file()
