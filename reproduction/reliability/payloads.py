"""Check that no payload in a checkpoint or run folder is executed: every place, through every way to load."""

from __future__ import annotations

import contextlib
import copy
import io
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from reproduction.reliability.check import Scale
from reproduction.reliability.outcome import WRONG, Tally, classify
from reproduction.reliability.small_runs import SMALL, composed, quiet_libraries, start
from retention.experiment.config import build_runs
from retention.records import Reliability
from retention.trained import load

Payload = Callable[[Path], dict[str, Any]]

# What a hostile configuration may hold in place of a node; each writes the marker file if it is executed.
PAYLOADS: Mapping[str, Payload] = {
    "os.system": lambda marker: {"_target_": "os.system", "command": f"touch {marker}"},
    "eval": lambda marker: {"_target_": "builtins.eval", "_args_": [f"open({str(marker)!r}, 'w')"]},
    "Popen": lambda marker: {"_target_": "subprocess.Popen", "args": ["touch", str(marker)]},
    "through_our_module": lambda marker: {
        "_target_": "retention.records.files.os.system",
        "command": f"touch {marker}",
    },
    "copyfile": lambda marker: {"_target_": "shutil.copyfile", "src": __file__, "dst": str(marker)},
    "our_function": lambda marker: {"_target_": "retention.records.write_record", "path": str(marker), "record": {}},
    "hydra": lambda marker: {
        "_target_": "hydra.utils.instantiate",
        "config": {"_target_": "os.system", "command": f"touch {marker}"},
    },
    "argument": lambda marker: {
        "_target_": "retention.policies.Truncate",
        "_args_": [{"_target_": "os.system", "command": f"touch {marker}"}],
        "rho": 0.5,
    },
    "resolver": lambda marker: {"value": f"${{write_marker:'{marker}'}}"},
}
_ROUTES: Mapping[str, tuple[str, ...]] = {
    "init": ("init={}",),
    "teacher": ("distill.weight=0.5", "distill.teacher={}"),
    "resume": ("ckpt={}", "trainer.max_epochs=2"),
}
_LIMIT_S = 60.0


class Exploit:
    """Object whose pickle writes a marker file when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        """Return a call that writes the marker."""
        return Path.touch, (self.marker,)


@contextlib.contextmanager
def marker_resolver() -> Iterator[None]:
    """Offer an OmegaConf resolver that writes a file."""
    OmegaConf.register_new_resolver("write_marker", lambda path: Path(path).write_text("executed"), replace=True)
    try:
        yield
    finally:
        OmegaConf.clear_resolver("write_marker")


def mapping_nodes(node: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Return the path of every mapping in a configuration."""
    if not isinstance(node, dict):
        return []
    return [path, *(each for key, value in node.items() for each in mapping_nodes(value, (*path, key)))]


def with_payload(
    content: dict[str, Any], path: tuple[str, ...], payload: dict[str, Any], *, inside: bool
) -> dict[str, Any]:
    """Return a checkpoint with a payload in place of a node, or as an additional key inside of it."""
    root: dict[str, Any] = {"config": copy.deepcopy(content["hyper_parameters"]["config"])}
    parent: Any = root
    keys = ("config", *path)
    for key in keys[:-1]:
        parent = parent[key]
    if inside:
        parent[keys[-1]]["extra"] = payload
    else:
        parent[keys[-1]] = payload
    return {**content, "hyper_parameters": root}


def full_content(run_folder: Path) -> dict[str, Any]:
    """Return the checkpoint of a run, with all keys that a checkpoint of any version stores."""
    stored: dict[str, Any] = torch.load(run_folder / "checkpoints" / "last.ckpt", weights_only=True)
    everything: Any = OmegaConf.to_container(composed(SMALL), resolve=False)
    stored["hyper_parameters"]["config"] = {**everything, **stored["hyper_parameters"]["config"]}
    return stored


def check_payloads(scale: Scale, folder: Path) -> Reliability:
    """Put payloads at every place of a checkpoint, and load it in every way."""
    del scale
    tally, marker = Tally("payloads"), folder / "marker"
    with quiet_libraries(folder / "cache"), marker_resolver():
        shutil.rmtree(folder / "run", ignore_errors=True)
        start(folder / "run", *SMALL)
        content = full_content(folder / "run")
        checkpoint = folder / "hostile" / "checkpoints" / "last.ckpt"
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(folder / "run" / "encoder", folder / "hostile" / "encoder", dirs_exist_ok=True)
        tested = composed(["mode=test", f"ckpt={checkpoint}", f"paths.run_dir={folder}/test"])
        loaders: dict[str, Callable[[], object]] = {
            "load": lambda: load(checkpoint),
            "mode=test": lambda: build_runs(tested, lambda _: tested, ["mode=test"]),
        }
        for name, payload in PAYLOADS.items():
            for path in mapping_nodes(content["hyper_parameters"]["config"]):
                for inside in (False, True):
                    torch.save(with_payload(content, path, payload(marker), inside=inside), checkpoint)
                    text = f"{name} {'inside' if inside else 'in place of'} {'.'.join(path) or 'the configuration'}"
                    for route, call in loaders.items():
                        count_attempt(tally, route, text, call, marker)
        for name, payload in PAYLOADS.items():  # at all nodes at once, through the ways that train
            torch.save(_riddled(content, name, payload, marker), checkpoint)
            for route, words in _ROUTES.items():
                typed = [*SMALL, *(word.format(checkpoint) for word in words)]
                count_attempt(tally, route, name, partial(_train, folder / "new", typed), marker)
        for key in ("extra", "state_dict", "hyper_parameters", "callbacks", "loops", "optimizer_states"):
            torch.save({**content, key: Exploit(marker)}, checkpoint)
            for route, call in loaders.items():
                count_attempt(tally, route, f"pickle as {key}", call, marker)
            for route, words in _ROUTES.items():
                typed = [*SMALL, *(word.format(checkpoint) for word in words)]
                count_attempt(tally, route, f"pickle as {key}", partial(_train, folder / "new", typed), marker)
    return tally.result(executed=tally.counts[WRONG])


def count_attempt(tally: Tally, route: str, text: str, call: Callable[[], object], marker: Path) -> None:
    """Load a hostile file; it counts as wrong if the payload wrote its marker."""

    def run() -> None:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            call()

    outcome, reason = classify(run, _LIMIT_S)
    if "Popen" in text or "system" in text:
        time.sleep(0.002)  # for a process that the payload may have started
    if marker.exists():
        marker.unlink()
        outcome, reason = WRONG, "the payload was executed"
    tally.add(outcome, route, f"{text}: {reason}")


def _riddled(content: dict[str, Any], name: str, payload: Payload, marker: Path) -> dict[str, Any]:
    """Return a checkpoint with a payload inside of every node."""
    config = copy.deepcopy(content["hyper_parameters"]["config"])
    for path in mapping_nodes(config):
        node = config
        for key in path:
            node = node[key]
        node[f"extra_{name}"] = payload(marker)
    return {**content, "hyper_parameters": {"config": config}}


def _train(folder: Path, typed: list[str]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    start(folder, *typed)
