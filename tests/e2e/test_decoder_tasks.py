"""Test whole runs of the tasks of decoders: what they write, that they resume exactly, and how they stop."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from tests.e2e.conftest import EVERY_STEP, SIGNAL_SCRIPT
from tests.unit.cache.test_training import save_decoder
from transformers import AutoModelForCausalLM

from retention.cache import LearnedScores, evaluate, train
from retention.cache.phase import TrainingPhase
from retention.cache.small_decoder import DecoderSettings, train_decoder
from retention.cache.symbol_recall import SymbolRecall
from retention.errors import CheckpointError, ConfigError, DataError
from retention.records import read_records
from retention.trained import load

QUIET = ("++callbacks.progress.log_refresh_rate=0", "trainer.log_every_n_steps=1")
SHAPE = ("cache.size=12", "cache.sinks=2", "cache.window=4", "task.train_size=3", "task.val_size=1", "task.test_size=2")
PHASES = ("task.max_length=48", "task.future_attention.epochs=2", "task.distillation.epochs=2")
STEPS = 12  # two phases of two epochs of three texts
KEEP_ALL = ("callbacks.checkpoint.save_top_k=-1", EVERY_STEP)
Run = Callable[..., Any]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Return the overrides that name a tiny decoder and different texts of letters."""
    folder = tmp_path_factory.mktemp("inputs")
    save_decoder(folder / "model")
    generator = torch.Generator().manual_seed(0)
    letters = torch.randint(0, 26, (8, 60), generator=generator) + ord("a")
    (folder / "texts.txt").write_text("\n".join("".join(map(chr, row)) for row in letters.tolist()))
    return ("task=language_modeling", f"backbone.path={folder}/model", f"texts={folder}/texts.txt")


@pytest.fixture
def words(inputs: tuple[str, ...]) -> list[str]:
    """Return the same for the commands of the package."""
    return ["--model", inputs[1].partition("=")[2], "--texts", inputs[2].partition("=")[2]]


@pytest.fixture(scope="module")
def whole(inputs: tuple[str, ...], start_bare: Run, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return folder and records of an uninterrupted run that kept a checkpoint of every step."""
    folder = tmp_path_factory.mktemp("whole")
    options = ("compare=[full,random,h2o]", "task.sizes=[16]", f"record={folder}/records.jsonl", *KEEP_ALL)
    records = start_bare(folder / "run", *inputs, *QUIET, *SHAPE, *PHASES, *options, f"output={folder}/out.safetensors")
    return folder, records


def weights(path: Path) -> dict[str, torch.Tensor]:
    return LearnedScores.load(path).state_dict()


def same(first: Path, second: Path) -> bool:
    one, other = weights(first), weights(second)
    return all(torch.equal(value, other[name]) for name, value in one.items())


def values(records: list[Any]) -> list[tuple[str, int, float]]:
    return [(record["policy"], record["size"], record["loss"]) for record in records]


def test_a_run_compares_all_policies_and_writes_scores_and_records(whole: Any) -> None:
    folder, records = whole
    names = ["full", "random", "h2o", "learned"]
    assert [(record["policy"], record["size"]) for record in records] == [(n, s) for s in (16, 12) for n in names]
    assert read_records([folder / "records.jsonl"]) == records == read_records([folder / "run" / "results.jsonl"])
    assert read_records([folder / "run" / "record.json"]) == records[-1:]
    for record in records:
        assert record["kind"] == "decoding" and record["task"] == "text" and record["model"] == "model"
        assert record["counted_tokens"] == [48 - record["size"]] * 2 and record["window"] == record["size"] // 3
        assert (record["difference"] is None) == (record["policy"] == "random")
        assert (record["scores"] is None) == (record["policy"] != "learned")
    training = records[-1]["training"]
    assert training["steps"] == STEPS and training["phases"] == {"future_attention": 6, "distillation": 6}
    assert training["cost"]["cache_bytes"] < training["cost"]["full_cache_bytes"]
    assert sum(training["kept"]["quarters"]) == pytest.approx(1.0)
    kept = json.loads((folder / "run" / "kept_positions.json").read_text())
    assert kept["tokens"] == 48 and [len(row) for row in kept["kept"].values()] == [6, 6, 6]
    assert same(folder / "out.safetensors", folder / "run" / "scores.safetensors")
    header = (folder / "run" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"val/kl", "val/loss", "distillation/kl", "perf/decode_tokens_per_s"} <= set(header)
    assert "| text   |      12 |" in (folder / "run" / "table.md").read_text()


def test_no_text_is_in_two_splits(inputs: tuple[str, ...], start_bare: Run, tmp_path: Path) -> None:
    texts = Path(inputs[2].partition("=")[2])
    lines = texts.read_text().splitlines()
    repeated = tmp_path / "repeated.txt"
    repeated.write_text("\n".join([lines[0], *lines[:4], lines[3], lines[1]]))
    replaced = (*inputs[:2], f"texts={repeated}", *QUIET, *SHAPE, *PHASES)
    with pytest.raises(ConfigError, match="has 4 different texts of 23 tokens or more, 6 are needed"):
        start_bare(tmp_path / "run", *replaced)
    other = tmp_path / "other.txt"
    other.write_text("\n".join([lines[7], lines[2]]))
    message = (
        "test_texts: .*other.txt: 1 of 2 texts have the first 48 tokens of a training or validation text; give other"
    )
    with pytest.raises(ConfigError, match=message):
        start_bare(tmp_path / "run", *replaced, f"task.test_texts={other}")


def test_checkpoints_leave_out_the_pretrained_decoder(whole: Any) -> None:
    content = torch.load(whole[0] / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["finished"] and content["global_step"] == STEPS
    assert {name.partition(".")[0] for name in content["state_dict"]} == {"scores"}


def test_the_run_gives_the_scores_and_losses_of_the_commands(whole: Any, words: list[str], tmp_path: Path) -> None:
    folder, records = whole
    shape = ["--limit", "3", "--validation", "1", "--length", "48", "--sinks", "2", "--window", "4", "--epochs", "2"]
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    assert train.main([*words, *shape, "--output", str(first)]) == 0
    distilled = ["--loss", "distillation", "--size", "12", "--init", str(first), "--output", str(second)]
    assert train.main([*words, *shape, *distilled]) == 0
    assert same(second, folder / "run" / "scores.safetensors")
    assert not same(first, second), "the second phase changes the scores"
    options = [
        "--sizes",
        "12",
        "--sinks",
        "2",
        "--window-share",
        "0.34",
        "--length",
        "48",
        "--skip",
        "4",
        "--limit",
        "2",
    ]
    options += ["--policies", "full", "random", "h2o", "--scores", str(second), "--record", str(tmp_path / "r.jsonl")]
    assert evaluate.main([*words, *options]) == 0
    expected = {record["policy"].partition(":")[0]: record["loss"] for record in read_records([tmp_path / "r.jsonl"])}
    ours = {record["policy"]: record["loss"] for record in records if record["size"] == 12}
    assert ours == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("step", [2, 8])
def test_a_run_resumed_in_either_phase_equals_the_uninterrupted_one(
    step: int, whole: Any, inputs: tuple[str, ...], start_bare: Run, tmp_path: Path
) -> None:
    [checkpoint] = (whole[0] / "run" / "checkpoints").glob(f"*step={step}.ckpt")
    options = ("compare=[full,random,h2o]", "task.sizes=[16]", f"ckpt='{checkpoint}'")
    records = start_bare(tmp_path, *inputs, *QUIET, *SHAPE, *PHASES, *options)
    assert same(whole[0] / "run" / "scores.safetensors", tmp_path / "scores.safetensors")
    assert values(records) == values(whole[1]) and records[-1]["training"]["steps"] == STEPS


def test_a_resumed_run_differs_if_the_state_of_its_phase_is_lost(
    whole: Any, inputs: tuple[str, ...], start_bare: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control."""
    load_state = TrainingPhase.load_state_dict

    def lose_generator(self: TrainingPhase, state: dict[str, Any]) -> None:
        load_state(self, {**state, "generator": torch.Generator().manual_seed(5).get_state()})

    monkeypatch.setattr(TrainingPhase, "load_state_dict", lose_generator)
    [checkpoint] = (whole[0] / "run" / "checkpoints").glob("*step=8.ckpt")
    start_bare(tmp_path, *inputs, *QUIET, *SHAPE, *PHASES, "compare=[]", "task.baseline=null", f"ckpt='{checkpoint}'")
    assert not same(whole[0] / "run" / "scores.safetensors", tmp_path / "scores.safetensors")


def test_a_stopped_run_saves_its_step_and_goes_on_with_ckpt_last(
    whole: Any, inputs: tuple[str, ...], command_line: Run, start_bare: Run, tmp_path: Path
) -> None:
    folder, script = tmp_path / "run", tmp_path / "send_signal.py"
    text = SIGNAL_SCRIPT.replace("RetentionModule", "DecoderModule").replace(
        "retention.training.module", "retention.tasks.decoding.module"
    )
    command = str(Path(__file__).parents[2] / "run.py")
    script.write_text(text.format(hook="training_step", count=5, number=int(signal.SIGTERM), command=command))
    typed = [*inputs, *QUIET, *SHAPE, *PHASES, "compare=[full,random,h2o]", "task.sizes=[16]"]
    stopped = command_line(*typed, f"hydra.run.dir={folder}", script=script, small=False)
    assert stopped.returncode == 143, stopped.stderr[-2000:]
    assert "Traceback" not in stopped.stderr and f"hydra.run.dir={folder} ckpt=last" in stopped.stderr
    assert not (folder / "record.json").exists() and not (folder / "scores.safetensors").exists()
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 5
    records = start_bare(folder, *typed, "ckpt=last")
    assert same(whole[0] / "run" / "scores.safetensors", folder / "scores.safetensors")
    assert values(records) == values(whole[1])
    assert start_bare(folder, *typed) == records, "a finished run is not repeated"


def test_a_run_without_phases_scores_given_scores(
    whole: Any, inputs: tuple[str, ...], start_bare: Run, tmp_path: Path
) -> None:
    off = ("task.future_attention=null", "task.distillation=null", "task.max_length=48")
    given = (f"init={whole[0]}/out.safetensors", "compare=[random]")
    [_, learned] = start_bare(tmp_path, *inputs, *QUIET, *SHAPE, *off, *given)
    assert learned["loss"] == whole[1][-1]["loss"]
    assert learned["scores"]["loss"] == "none" and learned["scores"]["init"]["loss"] == "ranking, then distillation"


def test_scorers_per_head_need_a_cache_per_head(inputs: tuple[str, ...], start_bare: Run, tmp_path: Path) -> None:
    typed = (*inputs, *QUIET, *SHAPE, *PHASES, "compare=[random]")
    records = start_bare(tmp_path / "run", *typed, "cache.per_head=true")
    assert [record["per_head"] for record in records] == [True, True]
    scores = tmp_path / "run" / "scores.safetensors"
    assert LearnedScores.load(scores).heads == 2
    with pytest.raises(ConfigError, match=r"cache\.per_head: must be true, as for the scorers of init="):
        start_bare(tmp_path / "shared", *typed, f"init={scores}")


def test_adapters_are_trained_and_written(inputs: tuple[str, ...], start_bare: Run, tmp_path: Path) -> None:
    typed = [*inputs, *QUIET, *SHAPE, "task.max_length=48", "task.lora=2", "task.future_attention=null"]
    [_, learned] = start_bare(tmp_path / "run", *typed, "task.distillation.epochs=1", "compare=[random]")
    assert learned["scores"]["lora"] == 2
    assert (tmp_path / "run" / "scores_lora" / "adapter_config.json").is_file()
    content = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    adapters = [value for name, value in content["state_dict"].items() if name.startswith("adapters.")]
    assert adapters and sum(float(value.abs().sum()) for value in adapters[1::2]) > 0, "B of LoRA starts at zero"


@pytest.mark.parametrize(
    ("typed", "error", "message"),
    [
        (("task.train_size=9",), ConfigError, r"has \d different texts of 23 tokens or more, 12 are needed"),
        (("cache.size=60", "task.max_length=70"), DataError, "only 0 texts have 61 tokens or more"),
        (("init=none.safetensors",), ConfigError, "init: none.safetensors: no such file"),
        (("backbone.path=nowhere",), ConfigError, "backbone.path: nowhere: holds no decoder that can be loaded"),
        (("texts=none.txt",), ConfigError, "texts: none.txt: no such file"),
    ],
)
def test_inputs_that_cannot_be_used_are_named_and_nothing_is_written(
    typed: tuple[str, ...], error: type, message: str, inputs: tuple[str, ...], start_bare: Run, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        start_bare(tmp_path, *inputs, *QUIET, *SHAPE, "task.max_length=48", *typed)
    assert not list(tmp_path.rglob("*.safetensors")) and not list(tmp_path.rglob("record.json"))


def test_a_checkpoint_of_a_decoder_is_refused_by_encoders(whole: Any) -> None:
    with pytest.raises(CheckpointError, match=r"is of a decoder .*LearnedScores\.load"):
        load(whole[0] / "run")


def test_recall_trains_a_decoder_and_its_scorers(start_bare: Run, tmp_path: Path) -> None:
    typed = ("experiment=recall_quick", *QUIET, "callbacks.checkpoint.save_top_k=-1")
    records = start_bare(tmp_path / "whole", *typed, "++callbacks.checkpoint.every_n_train_steps=25")
    assert [record["policy"] for record in records] == ["full", "random", "learned"]
    full, _, learned = records
    assert full["accuracy"] >= 0.8 and learned["difference"]["baseline"] == "full"
    phases = learned["training"]["phases"]
    assert phases["decoder"] < 400 and phases["future_attention"] == 8 and phases["distillation"] == 4
    assert learned["training"]["steps"] == sum(phases.values())
    task = OmegaConf.load(tmp_path / "whole" / "config.yaml").task
    contexts, settings = (
        {str(key): value for key, value in node.items() if key != "_target_"} for node in (task.contexts, task.decoder)
    )
    expected = train_decoder(SymbolRecall(**contexts), DecoderSettings(**settings), 0)
    decoder = AutoModelForCausalLM.from_pretrained(tmp_path / "whole" / "decoder").state_dict()
    assert all(torch.equal(value, decoder[name]) for name, value in expected.state_dict().items())
    checkpoints = sorted((tmp_path / "whole" / "checkpoints").glob("*step=25.ckpt"))
    again = start_bare(tmp_path / "again", *typed, f"ckpt='{checkpoints[0]}'")
    assert same(tmp_path / "whole" / "scores.safetensors", tmp_path / "again" / "scores.safetensors")
    assert [record["accuracy_by_text"] for record in again] == [record["accuracy_by_text"] for record in records]
    assert LearnedScores.load(tmp_path / "again" / "scores.safetensors").origin["seed"] == 0


def test_seeds_give_other_scores(inputs: tuple[str, ...], start_bare: Run, tmp_path: Path, whole: Any) -> None:
    typed = (*inputs, *QUIET, *SHAPE, *PHASES, "compare=[]", "task.baseline=null")
    start_bare(tmp_path, *typed, "seed=1")
    assert not same(whole[0] / "run" / "scores.safetensors", tmp_path / "scores.safetensors")
