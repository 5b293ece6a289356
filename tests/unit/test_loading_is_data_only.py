"""Checkpoints and run folders are data: whatever their configuration names, nothing of it is executed."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import get_object, instantiate
from omegaconf import OmegaConf
from reproduction.reliability.payloads import PAYLOADS, mapping_nodes, marker_resolver, with_payload

from retention.errors import CheckpointError, ConfigError, RetentionError
from retention.experiment.config import build_runs
from retention.experiment.hydra_setup import config_dir
from retention.experiment.resume import finished_record
from retention.experiment.run import run
from retention.experiment.stored import EXPECTED_CLASSES, FROM_COMMAND, storable_config, stored_config
from retention.policies import Truncate
from retention.records.legacy import RENAMED_TARGETS
from retention.records.targets import resolve_class
from retention.trained import load

SMALL = (
    *("data.train_size=32", "data.test_size=16", "task.data.val_size=8", "task.data.batch_size=16", "compare=[]"),
    *("retention.rho=0.5", "trainer.max_epochs=1", "trainer.accelerator=cpu", "trainer.log_every_n_steps=1"),
    "++callbacks.progress.log_refresh_rate=0",
)


@pytest.fixture(scope="module", autouse=True)
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep tokenized rows in a temporary folder, and offer a resolver that writes a file."""
    before = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets")
    with marker_resolver():
        yield
    datasets.config.HF_DATASETS_CACHE = before


def start(folder: Path, *overrides: str) -> Any:
    """Run what ``python run.py <overrides>`` runs."""
    words = [f"paths.run_dir={folder}", *overrides]
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return run(compose("config", overrides=words), words, lambda extra: compose("config", overrides=extra))


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished run."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    start(folder, *SMALL)
    return folder


@pytest.fixture(scope="module")
def content(run_folder: Path) -> dict[str, Any]:
    """Return the checkpoint of the run, with all keys that a checkpoint of any version stores."""
    stored: dict[str, Any] = torch.load(run_folder / "checkpoints" / "last.ckpt", weights_only=True)
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        everything = OmegaConf.to_container(compose("config", overrides=list(SMALL)), resolve=False)
    stored["hyper_parameters"]["config"] = {**everything, **stored["hyper_parameters"]["config"]}  # type: ignore[dict-item]
    return stored


def write_run(folder: Path, run_folder: Path, content: dict[str, Any]) -> Path:
    """Write a run folder with this checkpoint and return the path of the checkpoint."""
    if not (folder / "encoder").exists():
        shutil.copytree(run_folder / "encoder", folder / "encoder")
    (folder / "checkpoints").mkdir(exist_ok=True)
    torch.save(content, folder / "checkpoints" / "last.ckpt")
    return folder / "checkpoints" / "last.ckpt"


def naive_instantiate(node: Any) -> Any:
    """Build ``_target_`` nodes without any check, as Hydra did before it had a list of forbidden targets."""
    if not isinstance(node, dict):
        return node
    if node.get("_target_") == "hydra.utils.instantiate":
        return naive_instantiate(node["config"])
    values = {key: naive_instantiate(value) for key, value in node.items() if key not in ("_target_", "_args_")}
    arguments = [naive_instantiate(value) for value in node.get("_args_", [])]
    return get_object(node["_target_"])(*arguments, **values) if "_target_" in node else values


@pytest.mark.parametrize("name", PAYLOADS)
def test_payloads_do_harm_without_an_allow_list(name: str, tmp_path: Path) -> None:
    """Negative control: what the other tests see refused is dangerous."""
    marker = tmp_path / "marker"
    node = OmegaConf.create({"node": PAYLOADS[name](marker)})
    if name in ("copyfile", "our_function", "resolver"):  # Hydra itself refuses the others
        instantiate(node)
    else:
        with contextlib.suppress(TypeError):  # after the payload ran
            naive_instantiate(OmegaConf.to_container(node))
    deadline = time.monotonic() + 10.0
    while not marker.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert marker.exists(), "it does nothing, so refusing it proves nothing"


@pytest.mark.parametrize("inside", [False, True], ids=["replaced", "inside"])
@pytest.mark.parametrize("name", PAYLOADS)
def test_no_node_of_a_stored_configuration_is_executed(
    name: str, inside: bool, content: dict[str, Any], run_folder: Path, tmp_path: Path
) -> None:
    nodes = mapping_nodes(content["hyper_parameters"]["config"])
    assert {"retention", "task.data", "task.head", "optimizer", "callbacks.memory"} <= {
        ".".join(path) for path in nodes
    }
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        composed = compose("config", overrides=["mode=test", "ckpt=x", f"paths.run_dir={tmp_path}/test"])
    for number, path in enumerate(nodes):
        marker = tmp_path / f"marker{number}"
        checkpoint = write_run(
            tmp_path / "run", run_folder, with_payload(content, path, PAYLOADS[name](marker), inside=inside)
        )
        from_command = bool(path) and path[0] in FROM_COMMAND
        try:
            load(checkpoint if number % 2 else tmp_path / "run")
            assert from_command, f"{'.'.join(path)}: was accepted"
        except RetentionError:
            assert not from_command, f"{'.'.join(path)}: is not read from a checkpoint, so it cannot be a fault"
        composed.ckpt = str(checkpoint)
        try:
            build_runs(composed, lambda extra: composed, ["mode=test"])
            assert from_command, f"{'.'.join(path)}: was accepted by mode=test"
        except RetentionError:
            assert not from_command
    time.sleep(0.3)  # for processes that a payload may have started
    assert not list(tmp_path.glob("marker*"))


@pytest.fixture
def riddled(content: dict[str, Any], run_folder: Path, tmp_path: Path) -> Path:
    """Return a checkpoint with payloads at all nodes."""
    config = copy.deepcopy(content["hyper_parameters"]["config"])
    for path in mapping_nodes(config):
        node = config
        for key in path:
            node = node[key]
        node.update({f"extra_{name}": payload(tmp_path / "marker") for name, payload in PAYLOADS.items()})
    return write_run(tmp_path / "riddled", run_folder, {**content, "hyper_parameters": {"config": config}})


@pytest.mark.parametrize(
    "overrides",
    [
        ["init={}"],
        ["distill.weight=0.5", "distill.teacher={}"],
        ["ckpt={}", "trainer.max_epochs=2"],
        ["mode=test", "ckpt={}"],
    ],
    ids=["init", "teacher", "resume", "test"],
)
def test_no_route_executes_a_checkpoint(overrides: list[str], riddled: Path, tmp_path: Path) -> None:
    words = [word.format(riddled) for word in overrides]
    reads_configuration = any(word.startswith(("mode=test", "distill.teacher", "ckpt=")) for word in words)
    if reads_configuration:
        with pytest.raises(RetentionError):
            start(tmp_path / "new", *(words if "mode=test" in words else [*SMALL, *words]))
    else:  # takes weights from the checkpoint and nothing else
        start(tmp_path / "new", *SMALL, *words)
    time.sleep(0.3)
    assert not (tmp_path / "marker").exists()


def test_a_pickled_object_is_refused(run_folder: Path, content: dict[str, Any], tmp_path: Path) -> None:
    class Exploit:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path}/marker",)

    checkpoint = write_run(tmp_path / "run", run_folder, {**content, "extra": Exploit()})
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        load(checkpoint)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    "value", ["${oc.env:HOME}", "${oc.decode:x}", "${hydra:runtime.cwd}", "${${seed}:x}", "a${oc.env:HOME}"]
)
def test_interpolations_of_a_checkpoint_refer_to_its_own_keys_only(
    value: str, content: dict[str, Any], run_folder: Path, tmp_path: Path
) -> None:
    changed = copy.deepcopy(content)
    changed["hyper_parameters"]["config"]["task"]["data"]["name"] = value
    with pytest.raises(CheckpointError, match=r"task\.data\.name: .*only references to keys"):
        load(write_run(tmp_path / "run", run_folder, changed))


def test_resolvers_of_the_own_configuration_are_replaced_before_it_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_FOLDER", "/data")
    config = OmegaConf.create(
        {"seed": 1, "data": {"dir": "${oc.env:DATA_FOLDER}/sst2", "seed": "${seed}"}, "paths": {"x": 1}}
    )
    assert storable_config(config) == {"seed": 1, "data": {"dir": "/data/sst2", "seed": "${seed}"}}


def test_a_hostile_run_folder_configuration_is_only_compared(run_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(run_folder, tmp_path / "run")
    marker = tmp_path / "marker"
    config = OmegaConf.load(run_folder / "config.yaml")
    config.paths.run_dir = str(folder)
    assert finished_record(config) is not None  # type: ignore[arg-type]
    for text in (
        f"seed: !!python/object/apply:os.system ['touch {marker}']\n",
        f"paths:\n  run_dir: ${{write_marker:'{marker}'}}\n",
        "paths: [1]\n",
        "- 1\n",
        "a: [\n",
    ):
        (folder / "config.yaml").write_text(text)
        assert finished_record(config) is None  # type: ignore[arg-type]
    assert not marker.exists()


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_beside_the_encoder_is_not_imported(
    file: str, content: dict[str, Any], run_folder: Path, tmp_path: Path
) -> None:
    checkpoint = write_run(tmp_path / "run", run_folder, content)
    encoder = tmp_path / "run" / "encoder"
    (encoder / "evil.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w')\nclass Evil: pass\n")
    settings = json.loads((encoder / file).read_text())
    names = {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil", "AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    for model_type in (settings.get("model_type"), "evil"):
        changed = {**settings, "auto_map": names, **({"model_type": model_type} if model_type else {})}
        changed |= {"tokenizer_class": "Evil"} if file == "tokenizer_config.json" else {}
        (encoder / file).write_text(json.dumps(changed))
        with contextlib.suppress(RetentionError):
            load(checkpoint)
    assert not (tmp_path / "marker").exists()


def test_code_beside_the_encoder_cannot_be_fetched_as_a_kernel(
    content: dict[str, Any], run_folder: Path, tmp_path: Path
) -> None:
    checkpoint = write_run(tmp_path / "run", run_folder, content)
    file = tmp_path / "run" / "encoder" / "config.json"
    settings = json.loads(file.read_text())
    for key in ("attn_implementation", "_attn_implementation"):
        file.write_text(json.dumps({**settings, key: "somebody/kernel"}))
        with pytest.raises(CheckpointError, match="attn_implementation 'somebody/kernel'"):
            load(checkpoint)


def test_classes_from_outside_need_the_users_consent(content: dict[str, Any], run_folder: Path, tmp_path: Path) -> None:
    class Outside(Truncate):
        """A policy that belongs to no package."""

    changed = copy.deepcopy(content)
    target = f"{Outside.__module__}.{Outside.__qualname__}"
    changed["hyper_parameters"]["config"]["retention"] = {"_target_": target, "rho": 0.5}
    changed["state_dict"] = {k: v for k, v in changed["state_dict"].items() if ".policy." not in k}
    checkpoint = write_run(tmp_path / "run", run_folder, changed)
    with pytest.raises(ConfigError, match=r"retention\._target_"):
        load(checkpoint)
    assert isinstance(load(checkpoint, classes=[Outside]).policy, Outside)


@pytest.mark.parametrize(
    "target", [None, 3, ["os.system"], {"a": 1}, "", ".", "os", "retention", "retention.policies", "..os"]
)
def test_malformed_targets_are_refused(target: Any, content: dict[str, Any], run_folder: Path, tmp_path: Path) -> None:
    changed = copy.deepcopy(content)
    changed["hyper_parameters"]["config"]["retention"]["_target_"] = target
    with pytest.raises(RetentionError):
        load(write_run(tmp_path / "run", run_folder, changed))


@pytest.mark.parametrize(
    "target",
    [
        "retention.tasks.classification.head.ClassificationHead",
        "retention.core.duals.ExactDual",
        "retention.models.head.Head",
    ],
)
def test_classes_of_the_package_are_refused_where_they_do_not_belong(
    target: str, content: dict[str, Any], run_folder: Path, tmp_path: Path
) -> None:
    changed = copy.deepcopy(content)
    changed["hyper_parameters"]["config"]["retention"]["_target_"] = target
    with pytest.raises(ConfigError, match="is not a RetentionPolicy"):
        load(write_run(tmp_path / "run", run_folder, changed))


def test_stored_keys_that_are_missing_have_defaults_and_unknown_ones_are_named(
    content: dict[str, Any], run_folder: Path, tmp_path: Path
) -> None:
    changed = copy.deepcopy(content)
    config = changed["hyper_parameters"]["config"]
    for key in ("prune_at", "freeze", "budgets"):
        del config[key]
    del config["distill"]["token_states"]
    loaded = stored_config(changed, "old.ckpt")
    assert (loaded.prune_at, loaded.freeze, loaded.budgets.sampled, loaded.distill.token_states) == (
        "after_layer",
        None,
        0,
        0.0,
    )
    load(write_run(tmp_path / "run", run_folder, changed))
    config["later_key"], config["data"]["later"] = 1, 2
    with pytest.raises(CheckpointError, match=r"unknown keys \(later_key\)"):
        load(write_run(tmp_path / "run", run_folder, changed))
    del config["later_key"]
    with pytest.raises(CheckpointError, match=r"data: unknown keys .*later"):
        load(write_run(tmp_path / "run", run_folder, changed))


def test_values_that_are_not_plain_data_are_refused(content: dict[str, Any]) -> None:
    nested: dict[str, Any] = {}
    for _ in range(100):
        nested = {"a": nested}
    for value in (torch.ones(2), {1: 2}, nested, {"_convert_": "all"}):
        changed = copy.deepcopy(content)
        changed["hyper_parameters"]["config"]["task"]["data"]["name"] = value
        with pytest.raises(CheckpointError, match=r"x\.ckpt"):
            stored_config(changed, "x.ckpt")
    with pytest.raises(CheckpointError, match="not a mapping"):
        stored_config({"hyper_parameters": {"config": []}}, "x.ckpt")


@pytest.mark.parametrize("target", sorted(set(RENAMED_TARGETS.values())))
def test_every_renamed_class_leads_to_a_class(target: str) -> None:
    cls = resolve_class(target, object)
    assert any(issubclass(cls, expected) for expected in EXPECTED_CLASSES.values())
    assert all(
        resolve_class(earlier, object) is cls for earlier, present in RENAMED_TARGETS.items() if present == target
    )


def test_listed_keep_ratios_load_at_their_mean_and_at_no_other(
    run_folder: Path, content: dict[str, Any], tmp_path: Path
) -> None:
    listed = copy.deepcopy(content)
    listed["hyper_parameters"]["config"]["retention"]["schedule"] = [1.0, 0.5, 0.1]  # its rho is 0.5
    path = write_run(tmp_path, run_folder, listed)
    assert load(path).policy.rho == 0.5333 and load(path, rho=0.53).policy.rho == 0.53
    with pytest.raises(ConfigError, match=r"retention\.rho: is 0\.3, but .* have the mean 0\.5333"):
        load(path, rho=0.3)
