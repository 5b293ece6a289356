"""Give every key of the default configuration values that do not belong there: a clear error or a valid run."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf
from reproduction.reliability.configurations import VALUES, Change, check_change, keys_of
from reproduction.reliability.outcome import CLEAR, INNER, RIGHT, classify

from retention.errors import ConfigError

CASES = 150  # of each recipe, drawn from about 3,000


@pytest.mark.parametrize("typed", [(), ("retention=ltp", "dual=ascent"), ("retention=transkimmer", "dual=joint")])
def test_no_value_ends_in_an_error_of_an_inner_library_or_is_accepted_wrongly(
    typed: tuple[str, ...], composed: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    config = composed("compare=[]", "distill.teacher=none.ckpt", *typed)
    keys = list(keys_of(OmegaConf.to_container(config, resolve=False)))  # type: ignore[arg-type]
    assert len(keys) > 100
    changes = [Change("value", key, value) for key in keys for value in VALUES]
    found = []
    for change in random.Random(0).sample(changes, CASES):
        outcome, reason = classify(lambda change=change: check_change(config, [change]))  # type: ignore[misc, arg-type]
        if outcome not in (RIGHT, CLEAR):
            found.append(f"{change.key}={change.value!r}: {outcome}: {reason}")
    assert not found, "\n".join(found)


def test_errors_of_inner_libraries_are_found(
    composed: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OverflowError("cannot convert float infinity to integer")

    monkeypatch.setattr("retention.experiment.config.build_parts", fail)
    config = composed("compare=[]")
    outcome, reason = classify(lambda: check_change(config, [Change("value", "seed", 1)]))  # type: ignore[arg-type]
    assert outcome == INNER and "OverflowError" in reason


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("task.rho", float("nan"), "must be a finite number, got nan"),
        ("retention.keep_bias", 1e300, "must be a finite number, got 1e+300"),
        ("trainer.precision", float("-inf"), "must be a finite number"),
        ("logger.version", "./\0", "has a null character"),
        ("task.name", "\ud800", "half a character"),
        ("task.epochs", "${no.such.key}", "no.such.key"),
        ("trainer.devices", {"_target_": "builtins.str"}, "no object is built here"),
        ("task.epochs", {"_target_": "builtins.str"}, "no object is built here"),
        ("dual._target_", {"_target_": "builtins.str"}, "must be the path of a class"),
        ("retention.dual", {"_target_": "builtins.str"}, "must name a Dual, got a str"),
    ],
)
def test_value_that_no_setting_can_have_is_refused_by_key(
    key: str, value: Any, message: str, composed: Callable[..., DictConfig]
) -> None:
    with pytest.raises(ConfigError) as caught:
        check_change(composed("compare=[]", "trainer.max_epochs=1"), [Change("value", key, value)])
    assert any(each.key.startswith(key) and message in each.message for each in caught.value.problems)
