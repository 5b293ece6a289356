"""Give every key of the default configuration values that do not belong there: a clear error or a valid run."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from retention.errors import RetentionError
from retention.experiment.config import build_runs

VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 3, 10**22, 0.37, 1e300, float("inf"), float("-inf"), float("nan")),
    *("", "abc", "7", "${no.such.key}", "./\0", [], [1, "a"], {}, {"a": 1}, {"_target_": "builtins.str"}),
)
CASES = 150  # of each recipe, drawn from about 3,000


def keys_of(node: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of all nodes and values."""
    for key, value in node.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from keys_of(value, f"{prefix}{key}.")


def check(config: DictConfig, key: str, value: Any) -> str | None:
    """Return the error that is none of this project, as text; None if the value is refused clearly or valid."""
    changed = config.copy()
    OmegaConf.set_struct(changed, False)
    try:
        OmegaConf.update(changed, key, value, merge=False, force_add=True)
    except OmegaConfBaseException:
        return None  # Hydra refuses it in its own words
    try:
        build_runs(changed, lambda _: config, [])
    except RetentionError as error:
        text = str(error)
        return None if text.count("\n") < 60 and "Traceback" not in text else f"{key}={value!r}: long message"
    except Exception as error:
        return f"{key}={value!r}: {type(error).__name__}: {error}"
    return None


@pytest.mark.parametrize("typed", [(), ("retention=ltp", "dual=ascent"), ("retention=transkimmer", "dual=joint")])
def test_no_value_ends_in_an_error_of_an_inner_library(
    typed: tuple[str, ...], composed: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    config = composed("compare=[]", "distill.teacher=none.ckpt", *typed)
    keys = list(keys_of(OmegaConf.to_container(config, resolve=False)))  # type: ignore[arg-type]
    assert len(keys) > 100
    cases = [(key, value) for key in keys for value in VALUES]
    problems = [check(config, key, value) for key, value in random.Random(0).sample(cases, CASES)]
    found = [problem for problem in problems if problem is not None]
    assert not found, "\n".join(found)


def test_errors_of_inner_libraries_are_found(
    composed: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OverflowError("cannot convert float infinity to integer")

    monkeypatch.setattr("retention.experiment.config.build_parts", fail)
    assert "OverflowError" in str(check(composed("compare=[]"), "seed", 1))
