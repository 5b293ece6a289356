"""Test texts without tokens, batches without texts, and masks that do not fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.equivalence.conftest import TINY
from torch import Tensor

from retention.engine import adapters, encoder_of
from retention.policies import Adaptive, AttentionTopK, KeyNorm, RetentionPolicy, ToMe, Truncate, retain


@pytest.mark.parametrize("dropped", ["forward", "cut"])
@pytest.mark.parametrize("family", sorted(adapters()))
def test_batch_of_empty_texts_gives_finite_states(family: str, dropped: str) -> None:
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(0)
    model: Any = encoder_of(AutoModel.from_config(AutoConfig.for_model(family, **TINY[family]))).eval()
    ids = torch.randint(5, 50, (2, 18))
    with torch.no_grad(), retain(model, Truncate(rho=0.3).eval(), dropped=dropped) as retainer:
        output = model(input_ids=ids, attention_mask=torch.zeros_like(ids)).last_hidden_state
    assert torch.isfinite(output).all() and output.shape[1] == (18 if dropped == "forward" else 1)
    assert all(kept.tolist() == [0, 0] for kept in retainer.report.kept.values())


@pytest.mark.parametrize("policy", [Truncate, Adaptive, AttentionTopK, KeyNorm, ToMe])
def test_empty_text_among_others_changes_nothing_for_them(
    policy: type[RetentionPolicy], tiny: Callable[..., Any], ids: Tensor, states: Callable[..., Tensor]
) -> None:
    model = tiny(attn_implementation="eager")
    mask = torch.ones_like(ids)
    mask[1] = 0
    with retain(model, policy(rho=0.3).eval()):
        together = states(model, input_ids=ids, attention_mask=mask)
        alone = states(model, input_ids=ids[:1])
    torch.testing.assert_close(together[:1], alone, atol=1e-4, rtol=1e-4)
    assert torch.isfinite(together).all()


def test_empty_text_gives_finite_losses_in_training(tiny: Callable[..., Any], ids: Tensor) -> None:
    model, policy = tiny().train(), Adaptive(rho=0.5).train()
    mask = torch.ones_like(ids)
    mask[1] = 0
    for phase in ("soft", "hard"):
        policy.phase = phase
        with retain(model, policy):
            loss = model(input_ids=ids, attention_mask=mask).last_hidden_state[:1].sum() + policy.budget_loss()
        assert torch.isfinite(loss)


@pytest.mark.parametrize("shape", [(2, 0), (0, 20)])
def test_batch_without_tokens_is_refused(shape: tuple[int, int], tiny: Callable[..., Any]) -> None:
    model = tiny()
    with retain(model, Truncate(rho=0.3).eval()), pytest.raises(ValueError, match="the batch holds no token"):
        model(input_ids=torch.zeros(shape, dtype=torch.long))


@pytest.mark.parametrize("shape", [(2, 19), (1, 20), (2, 1, 20)])
def test_mask_of_another_shape_is_refused(shape: tuple[int, ...], tiny: Callable[..., Any], ids: Tensor) -> None:
    model = tiny()
    with retain(model, Truncate(rho=0.3).eval()), pytest.raises(ValueError, match=r"must be \[B, T\] = \[2, 20\]"):
        model(input_ids=ids, attention_mask=torch.ones(shape, dtype=torch.long))


def test_call_without_input_is_refused(tiny: Callable[..., Any]) -> None:
    model = tiny()
    with retain(model, Truncate(rho=0.3).eval()), pytest.raises(ValueError, match="neither input_ids nor"):
        model()
