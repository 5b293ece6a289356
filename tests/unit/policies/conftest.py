"""Provide batches as the engine passes them to a policy, without an encoder."""

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
def build_policy() -> Callable[[RetentionPolicy], Any]:
    """Return ``build_policy(policy)``, which builds a policy for a four-layer encoder, from a fixed seed."""

    def build(policy: RetentionPolicy) -> Any:
        torch.manual_seed(3)
        policy.build(SHAPE)
        return policy

    return build


@pytest.fixture
def in_training(build_policy: Callable[[RetentionPolicy], Any]) -> Callable[[RetentionPolicy, str], Any]:
    """Return ``in_training(policy, phase)``, which builds a policy and puts it into a training phase."""

    def build(policy: RetentionPolicy, phase: str) -> Any:
        built = build_policy(policy).train()
        built.phase = phase
        return built

    return build


@pytest.fixture
def make_view() -> Callable[..., LayerView]:
    """Return ``make_view(real, **changes)``, a view of right-padded samples whose first token is protected."""

    def make(real: tuple[int, ...] = (20, 13), *, width: int | None = None, **changes: Any) -> LayerView:
        size, width = len(real), width or max(real)
        generator = torch.Generator().manual_seed(17)
        valid = torch.arange(width).unsqueeze(0) < torch.tensor(real).unsqueeze(1)
        protected = torch.zeros(size, width, dtype=torch.bool)
        protected[:, 0] = True
        fields: dict[str, Any] = {
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
        return LayerView(**{**fields, **changes})

    return make


@pytest.fixture
def make_attention_view(make_view: Callable[..., LayerView]) -> Callable[..., LayerView]:
    """Return ``make_attention_view(real, **changes)``, a view with received attention that is 1 on average."""

    def make(real: tuple[int, ...] = (20, 13), **changes: Any) -> LayerView:
        view = make_view(real, **changes)
        received = torch.rand(view.valid.shape, generator=torch.Generator().manual_seed(5)) * view.valid
        statistics = received * view.lengths[:, None] / received.sum(1, True)
        return make_view(real, attention_statistics=statistics, **changes)

    return make


@pytest.fixture
def decide() -> Callable[[RetentionPolicy, LayerView], Decision | None]:
    """Return ``decide(policy, view)``, which starts a forward pass and returns the decision."""

    def decide(policy: RetentionPolicy, view: LayerView) -> Decision | None:
        policy.begin(ForwardReport(lengths=view.lengths))
        return policy.decide(view)

    return decide
