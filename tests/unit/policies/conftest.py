"""A batch as the engine shows it to a policy, without an encoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from retention.core.flops import EncoderShape
from retention.engine import Decision, ForwardReport, LayerView
from retention.policies import RetentionPolicy

SHAPE = EncoderShape(num_layers=4, hidden_size=16, intermediate_size=32)


@pytest.fixture
def built() -> Callable[[RetentionPolicy], Any]:
    """``built(policy)``: the policy, sized for a four-layer encoder, from a fixed seed."""

    def make(policy: RetentionPolicy) -> Any:
        torch.manual_seed(3)
        policy.build(SHAPE)
        return policy

    return make


@pytest.fixture
def make_view() -> Callable[..., LayerView]:
    """``make_view(real, **changes)``: states of right-padded texts whose first token is protected."""

    def make(real: tuple[int, ...] = (20, 13), *, width: int | None = None, **changes: Any) -> LayerView:
        size, width = len(real), width or max(real)
        generator = torch.Generator().manual_seed(17)
        valid = torch.arange(width).unsqueeze(0) < torch.tensor(real).unsqueeze(1)
        protected = torch.zeros(size, width, dtype=torch.bool)
        protected[:, 0] = True
        everything: dict[str, Any] = {
            "layer_idx": 0,
            "hidden_states": torch.randn(size, width, 16, generator=generator),
            "valid": valid,
            "protected": protected,
            "positions": torch.arange(width).expand(size, width),
            "lengths": torch.tensor(real),
            "survival": valid.float(),
            "weights": valid.float(),
            "input_ids": torch.randint(5, 999, (size, width), generator=generator),
        }
        return LayerView(**{**everything, **changes})

    return make


@pytest.fixture
def ask() -> Callable[[RetentionPolicy, LayerView], Decision | None]:
    """``ask(policy, view)``: starts a pass and returns the decision."""

    def decide(policy: RetentionPolicy, view: LayerView) -> Decision | None:
        policy.begin(ForwardReport(lengths=view.lengths))
        return policy.decide(view)

    return decide
