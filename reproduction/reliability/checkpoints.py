"""Check damaged checkpoints and encoder folders: they are refused, or give the answers of the intact model.

A checkpoint whose training state is damaged must not be resumed.
"""

from __future__ import annotations

import copy
import random
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from reproduction.reliability.check import Scale
from reproduction.reliability.outcome import Tally, WrongAnswer
from reproduction.reliability.small_runs import SMALL, quiet_libraries, start
from retention.experiment.checkpoints import read_checkpoint
from retention.experiment.training_state import check_training_state
from retention.records import Reliability
from retention.trained import Classifier, load

TEXTS = ("river forest stone " * 5, "market price goal team " * 9, "ballot senate")
_LIMIT_S = 30.0
_MODEL = ("state_dict", "hyper_parameters", "training_state_digest")  # damaged by the other functions
_VALUES: tuple[Any, ...] = (None, [], "text", 7, {"a": 1}, {}, True, 1.5, [1, "a"])
Damage = Callable[[Path, dict[str, Any], random.Random], str]


def cut_file(folder: Path, content: dict[str, Any], draw: random.Random) -> str:
    """Cut the checkpoint at a random byte."""
    path = _checkpoint(folder)
    raw = path.read_bytes()
    size = draw.randrange(len(raw))
    path.write_bytes(raw[:size])
    return f"cut at byte {size}"


def flip_bytes(folder: Path, content: dict[str, Any], draw: random.Random) -> str:
    """Change random bytes of the checkpoint."""
    count = draw.choice((1, 1, 8, 64, 4096))
    raw = bytearray(_checkpoint(folder).read_bytes())
    positions = [draw.randrange(len(raw)) for _ in range(count)]
    for position in positions:
        raw[position] ^= draw.randrange(1, 256)
    _checkpoint(folder).write_bytes(bytes(raw))
    return f"{count} bytes changed, the first at {positions[0]}"


def missing_key(folder: Path, content: dict[str, Any], draw: random.Random) -> str:
    """Delete a random key at any depth of the checkpoint."""
    parent, key = draw.choice([*_keys(content["state_dict"], 1), *_needed_keys(content)])
    del parent[key]
    torch.save(content, _checkpoint(folder))
    return f"without {key}"


def wrong_type(folder: Path, content: dict[str, Any], draw: random.Random) -> str:
    """Replace a random value of the checkpoint by one of another type."""
    parent, key = draw.choice([*_keys(content["state_dict"], 1), *_needed_keys(content)])
    value = draw.choice([each for each in _VALUES if type(each) is not type(parent[key])])
    parent[key] = value
    torch.save(content, _checkpoint(folder))
    return f"{key}={value!r}"


def other_tensor(folder: Path, content: dict[str, Any], draw: random.Random) -> str:
    """Give a weight values that are not finite, another dtype or another shape."""
    state = content["state_dict"]
    name = draw.choice([key for key, value in state.items() if value.is_floating_point()])
    changes: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "nan": lambda weight: torch.full_like(weight, float("nan")),
        "inf": lambda weight: torch.full_like(weight, float("inf")),
        "int8": lambda weight: (weight * 100).to(torch.int8),
        "bool": lambda weight: weight > 0,
        "complex": lambda weight: weight.to(torch.complex64) + 1j,
        "empty": lambda weight: weight[:0] if weight.dim() else weight.new_zeros(0),
        "transposed": lambda weight: weight[None],
        "sparse": lambda weight: weight.to_sparse(),
        "meta": lambda weight: torch.empty_like(weight, device="meta"),
    }
    change = draw.choice(list(changes))
    state[name] = changes[change](state[name])
    torch.save(content, _checkpoint(folder))
    return f"{name} {change}"


def encoder_file(folder: Path, content: dict[str, Any], draw: random.Random) -> str:
    """Damage a file of the folder ``encoder`` beside the checkpoint."""
    path = draw.choice(sorted((folder / "encoder").iterdir()))
    raw = path.read_bytes()
    change = draw.choice(("missing", "empty", "cut", "latin1", "list", "text", "nested", "folder"))
    path.unlink()
    replaced = {
        "empty": b"",
        "cut": raw[: draw.randrange(1, len(raw) - 2)],
        "latin1": b'{"model_type": "\xe9"}',
        "list": b"[1, 2]",
        "text": b"no JSON at all",
        "nested": b"[" * 100_000,
    }
    if change == "folder":
        path.mkdir()
    elif change != "missing":
        path.write_bytes(replaced[change])
    return f"{path.name} {change}"


def no_checkpoint(folder: Path, content: dict[str, Any], draw: random.Random) -> str:
    """Replace the checkpoint by a file of another kind."""
    path = _checkpoint(folder)
    change = draw.choice(("text", "tensor", "list", "missing", "folder", "pickle", "state_dict"))
    path.unlink()
    if change == "folder":
        path.mkdir()
    elif change == "text":
        path.write_text("no checkpoint\n" * 100)
    elif change == "pickle":
        path.write_bytes(b"\x80\x04cposix\nsystem\n(S'true'\ntR.")
    elif change != "missing":
        torch.save({"tensor": torch.ones(2), "list": [1], "state_dict": content["state_dict"]}[change], path)
    return change


def training_state(folder: Path, content: dict[str, Any], draw: random.Random) -> str:
    """Delete, replace or change a random part of what a resumed training reads: loops, optimizers, random state."""
    state = {key: value for key, value in content.items() if key not in _MODEL}
    parent, key = draw.choice(_parts(state, content))
    value = parent[key]
    if draw.random() < 0.3:
        del parent[key]
        change = "deleted"
    elif isinstance(value, torch.Tensor) and value.numel() and draw.random() < 0.5:
        flat = value.reshape(-1).clone()
        flat[draw.randrange(len(flat))] += 1
        parent[key] = flat.reshape(value.shape)
        change = "one number changed"
    elif isinstance(value, int) and draw.random() < 0.5:
        parent[key] = int(value) + 1
        change = "plus 1"
    else:
        parent[key] = draw.choice([each for each in _VALUES if type(each) is not type(value)])
        change = f"={parent[key]!r}"
    torch.save(content, _checkpoint(folder))
    return f"{key} {change}"


DAMAGES: tuple[Damage, ...] = (
    cut_file,
    flip_bytes,
    missing_key,
    wrong_type,
    other_tensor,
    encoder_file,
    no_checkpoint,
    training_state,
)


def answers(folder: Path) -> list[list[float]]:
    """Return what a run's model predicts for ``TEXTS``: probabilities and kept tokens."""
    model = load(folder)
    if not isinstance(model, Classifier):
        raise WrongAnswer(f"loaded a {type(model).__name__}")
    return [[*each.probabilities.values(), *each.depth] for each in model.predict(TEXTS)]


def check_checkpoints(scale: Scale, folder: Path, damages: Sequence[Damage] = DAMAGES) -> Reliability:
    """Damage checkpoints in all ways in turn, and load them."""
    draw, tally = random.Random(scale.seed), Tally("damaged_checkpoints")
    with quiet_libraries(folder / "cache"):
        intact = folder / "run"
        shutil.rmtree(intact, ignore_errors=True)
        start(intact, *SMALL)
        content = torch.load(_checkpoint(intact), weights_only=True)
        expected = answers(intact)
        for number in range(scale.checkpoints):
            damaged = folder / "damaged"
            shutil.rmtree(damaged, ignore_errors=True)
            (damaged / "checkpoints").mkdir(parents=True)
            shutil.copytree(intact / "encoder", damaged / "encoder")
            shutil.copy(_checkpoint(intact), _checkpoint(damaged))
            damage = damages[number % len(damages)]
            text = damage(damaged, copy.deepcopy(content), draw)
            attempt = partial(_resume, damaged) if damage is training_state else partial(_compare, damaged, expected)
            tally.attempt(damage.__name__, text, attempt, _LIMIT_S)
    return tally.result()


def _compare(folder: Path, expected: list[list[float]]) -> None:
    """Raise ``WrongAnswer`` if a loaded model answers differently from the intact one."""
    if answers(folder) != expected:
        raise WrongAnswer("was loaded, and answers differently")


def _resume(folder: Path) -> None:
    """Read a checkpoint as a resumed training does; raise ``WrongAnswer`` if it is not refused."""
    check_training_state(read_checkpoint(_checkpoint(folder)), _checkpoint(folder))
    raise WrongAnswer("a training would go on from it")


def _parts(node: Any, owner: Any) -> list[tuple[Any, Any]]:
    """Return (container, key) for every value at any depth; those of the first level with ``owner`` as container."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    pairs = [(owner, key) for key, _ in items]
    nested = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return pairs + [pair for value in nested for pair in _parts(value, value)]


def _checkpoint(folder: Path) -> Path:
    return folder / "checkpoints" / "last.ckpt"


def _keys(node: Any, depth: int) -> list[tuple[dict[str, Any], str]]:
    """Return the (mapping, key) pairs down to a depth."""
    if not isinstance(node, dict) or depth == 0:
        return []
    pairs = [(node, key) for key in node]
    return pairs + [pair for value in node.values() for pair in _keys(value, depth - 1)]


def _needed_keys(content: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    """Return the keys of the configuration that decide what a loaded model answers, and those above them."""
    parameters = content["hyper_parameters"]
    config = parameters["config"]
    nodes = [config["retention"], config["task"]["data"], config["task"]["head"]]
    return [
        *((content, key) for key in ("state_dict", "hyper_parameters")),
        (parameters, "config"),
        *((config, key) for key in ("retention", "task")),
        *((config["task"], key) for key in ("data", "head")),
        *((node, key) for node in nodes for key in node),
    ]
