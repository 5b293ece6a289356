"""Check fuzzed configurations: values that do not belong, deleted and unknown keys; some valid ones are trained."""

from __future__ import annotations

import contextlib
import io
import math
import random
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from reproduction.reliability.check import Scale
from reproduction.reliability.outcome import RIGHT, Tally, WrongAnswer
from reproduction.reliability.small_runs import SMALL, composed, quiet_libraries
from retention.experiment.config import build_runs
from retention.experiment.hydra_setup import config_dir
from retention.experiment.run import run
from retention.records import Reliability

VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 3, 10**22, 0.37, 1e300, float("inf"), float("-inf"), float("nan")),
    *("", "abc", "7", "${no.such.key}", "./\0", [], [1, "a"], "\ud800", {}, {"a": 1}, {"_target_": "builtins.str"}),
)
_TEXT_KEYS = ("provenance", "source")  # any text describes the data
_OBJECTS = ("logger.", "callbacks.")  # classes of other libraries, whose arguments may be objects
_LIMIT_S = 30.0


@dataclass(frozen=True)
class Change:
    """Change of one key of a configuration.

    Attributes:
        kind: ``value``, ``deleted`` or ``unknown``.
        key: dotted key.
        value: its new value.
    """

    kind: str
    key: str
    value: Any = None

    def apply(self, config: DictConfig) -> None:
        """Make the change in place."""
        OmegaConf.set_struct(config, False)
        if self.kind == "deleted":
            parent, _, name = self.key.rpartition(".")
            node: Any = OmegaConf.select(config, parent) if parent else config
            node.pop(name, None)
        else:
            OmegaConf.update(config, self.key, self.value, merge=False, force_add=True)

    @property
    def never_valid(self) -> bool:
        """Return True if no configuration with this change may be accepted."""
        if self.kind == "unknown":
            return True
        infinite = isinstance(self.value, float) and not math.isfinite(self.value)
        foreign = isinstance(self.value, Mapping) and "_target_" in self.value and not self.key.startswith(_OBJECTS)
        return self.kind == "value" and (infinite or foreign or self.value in ("${no.such.key}", "./\0", "\ud800"))


def keys_of(node: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of all nodes and values."""
    for key, value in node.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from keys_of(value, f"{prefix}{key}.")


def recipes() -> list[tuple[str, ...]]:
    """Return command lines that together use every policy, dual, logger and distillation, on the built-in task."""
    options = {
        group: sorted(path.stem for path in (config_dir() / group).glob("*.yaml"))
        for group in ("retention", "dual", "distillation", "logger")
    }
    lines: list[tuple[str, ...]] = [()]
    for group, names in options.items():
        lines += [(f"{group}={name}",) for name in names if name != "default"]
    return lines


def draw_changes(config: DictConfig, draw: random.Random) -> list[Change]:
    """Draw one change of a configuration, sometimes two."""
    plain = OmegaConf.to_container(config, resolve=False)
    keys = list(keys_of(plain))  # type: ignore[arg-type]
    changes = []
    for _ in range(1 + (draw.random() < 0.2)):
        kind = draw.choices(("value", "deleted", "unknown"), (0.85, 0.075, 0.075))[0]
        key = draw.choice(keys)
        if kind == "unknown":
            parents = [
                each for each in keys if OmegaConf.is_dict(OmegaConf.select(config, each, throw_on_missing=False))
            ]
            changes.append(Change(kind, f"{draw.choice(parents)}.no_such_key", 1))
        else:
            changes.append(Change(kind, key, draw.choice(VALUES)))
    return changes


def check_change(config: DictConfig, changes: Sequence[Change]) -> DictConfig:
    """Check a changed configuration as a run does before it loads data or weights; return it.

    Raises:
        WrongAnswer: a change that can never be valid was accepted.
    """
    changed = config.copy()
    for change in changes:
        change.apply(changed)
    build_runs(changed, lambda _: config, [])
    for change in changes:
        lost = not _holds(changed, change)  # a later change replaced the node around it
        if change.never_valid and not lost and not _is_unused(changed, change.key):
            raise WrongAnswer("was accepted")
    return changed


def check_configurations(scale: Scale, folder: Path) -> Reliability:
    """Fuzz configurations; train a sample of those that are accepted."""
    draw, tally = random.Random(scale.seed), Tally("fuzzed_configurations")
    with quiet_libraries(folder / "cache"):
        lines = recipes()
        configs = [composed([*SMALL, *line, f"paths.run_dir={folder}/run"]) for line in lines]
        accepted: list[tuple[str, DictConfig]] = []
        for number in range(scale.configurations):
            line, config = lines[number % len(lines)], configs[number % len(lines)]
            changes = draw_changes(config, draw)
            text = " ".join([*line, *(f"{each.kind} {each.key}={each.value!r}" for each in changes)])
            found: list[DictConfig] = []
            check = _collect(found, config, changes)
            if tally.attempt("/".join(sorted({each.kind for each in changes})), text, check, _LIMIT_S) == RIGHT:
                accepted.append((text, found[0]))
        sample = draw.sample(accepted, min(scale.trained, len(accepted)))
        for text, config in sample:
            tally.attempt("trained", text, _training(config, folder / "run"), 4 * _LIMIT_S)
    return tally.result(accepted=len(accepted), trained=len(sample))


def _collect(found: list[DictConfig], config: DictConfig, changes: Sequence[Change]) -> Callable[[], None]:
    return lambda: found.append(check_change(config, changes))


def _training(config: DictConfig, folder: Path) -> Callable[[], None]:
    """Return a function that trains with a configuration and checks that the record's numbers are finite."""

    def train() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        limited = config.copy()
        limited.paths.run_dir = str(folder)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            [record] = run(limited, [], lambda _: limited)
        scores = record["metrics"].values()
        if not all(score is not None and math.isfinite(score) for score in scores):
            raise WrongAnswer(f"metrics are {record['metrics']}")

    return train


def _holds(config: DictConfig, change: Change) -> bool:
    """Return True if a configuration still has the change."""
    if change.kind == "deleted":
        return False
    parent, _, name = change.key.rpartition(".")
    node = OmegaConf.select(config, parent, throw_on_resolution_failure=False) if parent else config
    if not isinstance(node, DictConfig) or name not in node:
        return False
    value = OmegaConf.to_container(node, resolve=False)[name]  # type: ignore[index, call-overload]
    return repr(value) == repr(change.value)


def _is_unused(config: DictConfig, key: str) -> bool:
    """Return True if no part of a run reads a key with this configuration."""
    policy: Any = OmegaConf.to_container(config.retention, resolve=False)
    unused_dual = key.startswith("dual") and policy.get("dual") != "${dual}"
    return unused_dual or key.rpartition(".")[2] in _TEXT_KEYS
