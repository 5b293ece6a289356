"""Test that protected tokens are found, or that the call is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from retention.errors import ConfigError
from retention.policies import Random, Truncate, retain


def test_embeddings_with_protected_ids_are_refused(tiny: Callable[..., Any], ids: Tensor) -> None:
    model = tiny()
    embedded = model.get_input_embeddings()(ids)
    with (
        retain(model, Random(rho=0.3).eval(), protected_ids=[1]),
        pytest.raises(ValueError, match=r"protected_ids .* inputs_embeds.*retainer\.protect\(mask\)"),
    ):
        model(inputs_embeds=embedded)


@pytest.mark.parametrize("seed", range(5))
def test_embeddings_with_a_protected_mask_keep_its_tokens(seed: int, tiny: Callable[..., Any], ids: Tensor) -> None:
    model = tiny()
    embedded, mask = model.get_input_embeddings()(ids), ids == 1
    with retain(model, Random(rho=0.2, seed=seed).eval(), protected_ids=[1]) as retainer, torch.no_grad():
        with retainer.protect(mask):
            model(inputs_embeds=embedded)
        assert all(0 in row for row in retainer.report.keep_indices[2].tolist())


def test_random_selection_removes_the_token_without_protection(tiny: Callable[..., Any], ids: Tensor) -> None:
    """Negative control: protection is what keeps it."""
    model, lost = tiny(), 0
    for seed in range(5):
        with retain(model, Random(rho=0.2, seed=seed).eval()) as retainer, torch.no_grad():
            model(input_ids=ids)
        lost += sum(0 not in row for row in retainer.report.keep_indices[2].tolist())
    assert lost > 0


@pytest.mark.parametrize(
    ("protected_ids", "key"),
    [([2, None], "protected_ids[1]"), ([1.5], "protected_ids[0]"), ("12", "protected_ids"), (7, "protected_ids")],
)
def test_ids_that_are_no_token_ids_are_refused_at_construction(
    protected_ids: Any, key: str, tiny: Callable[..., Any]
) -> None:
    with pytest.raises(ConfigError, match="all_special_ids") as caught:
        retain(tiny(), Truncate(rho=0.3), protected_ids=protected_ids)
    assert [problem.key for problem in caught.value.problems] == [key]


@pytest.mark.parametrize("protected_ids", [np.array([1, 2]), torch.tensor([1, 2]), (1, 2), {1, 2}])
def test_ids_in_any_container_are_accepted(protected_ids: Any, tiny: Callable[..., Any]) -> None:
    assert sorted(retain(tiny(), Truncate(rho=0.3), protected_ids=protected_ids).protected_ids) == [1, 2]


def test_protected_mask_of_another_shape_is_refused(tiny: Callable[..., Any], ids: Tensor) -> None:
    model = tiny()
    with (
        retain(model, Truncate(rho=0.3).eval()) as retainer,
        retainer.protect(torch.zeros(2, 5, dtype=torch.bool)),
        pytest.raises(ValueError, match=r"\[2, 20\], got \[2, 5\]"),
    ):
        model(input_ids=ids)
