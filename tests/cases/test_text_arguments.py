"""Test what people pass to trained models: arrays, tables, NumPy numbers, short paths and long texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retention.errors import ConfigError
from retention.trained import Classifier, load

TEXTS = ["river forest stone", "market price goal team"]


@pytest.fixture(scope="module")
def model(trained_run: Path) -> Classifier:
    model = load(trained_run)
    assert isinstance(model, Classifier)
    return model


def as_series(texts: list[str]) -> Any:
    return pytest.importorskip("pandas").Series(texts, index=[7, 3])


@pytest.mark.parametrize("container", [np.array, tuple, iter, as_series], ids=["array", "tuple", "iterator", "series"])
def test_texts_in_any_container_give_the_same_predictions(container: Any, model: Classifier) -> None:
    assert model.predict(container(TEXTS)) == model.predict(TEXTS)
    assert model.predict(container(TEXTS), passages=container(TEXTS)) == model.predict(TEXTS, passages=TEXTS)


@pytest.mark.parametrize(
    "texts",
    ["good film", {"text": TEXTS}, np.array([TEXTS]), 3, None],
    ids=["string", "dict", "table", "number", "none"],
)
def test_anything_else_is_refused(texts: Any, model: Classifier) -> None:
    with pytest.raises(ConfigError, match="texts: "):
        model.predict(texts)


def test_data_frame_is_refused(model: Classifier) -> None:
    """Iterating over it would give the names of its columns."""
    frame = pytest.importorskip("pandas").DataFrame({"text": TEXTS})
    with pytest.raises(ConfigError, match="got a DataFrame"):
        model.predict(frame)


def test_long_text_is_marked_as_truncated(model: Classifier) -> None:
    long, short = model.predict([" ".join(["river"] * 5000), "river"])
    assert long.truncated and not short.truncated
    assert len(long.tokens) == model.max_length


@pytest.mark.parametrize("rho", [np.linspace(0.1, 0.5, 3)[1], np.float32(0.3), 1], ids=["float64", "float32", "int"])
def test_numbers_of_any_kind_are_accepted_as_keep_ratio(rho: Any, trained_run: Path) -> None:
    assert load(trained_run, rho=rho).policy.rho == pytest.approx(float(rho))


@pytest.mark.parametrize("rho", ["0.3", True, [0.3], 1.7, float("nan")])
def test_other_keep_ratios_are_refused(rho: Any, trained_run: Path) -> None:
    from retention.policies import Truncate

    with pytest.raises(ConfigError, match="rho: "):
        load(trained_run, rho=rho)
    with pytest.raises(ConfigError, match="rho: "):
        Truncate(rho=rho)


def test_home_folder_is_expanded(trained_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(trained_run.parent))
    assert load(f"~/{trained_run.name}").policy.rho == load(trained_run).policy.rho
