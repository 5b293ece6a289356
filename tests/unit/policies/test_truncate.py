"""Test truncation to the budget."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from retention.engine.gate import LayerView
from retention.policies import RetentionPolicy, Truncate


def test_truncate_keeps_the_first_tokens(build_policy: Any, make_view: Any, decide: Any) -> None:
    policy = build_policy(Truncate(rho=0.3, schedule="flat")).eval()
    view = make_view((20, 13, 2))
    keep = decide(policy, view).keep_mask
    assert [row.nonzero().flatten().tolist() for row in keep] == [list(range(6)), [0, 1, 2], [0]]
    view.protected[0, 19] = True
    assert decide(policy, view).keep_mask[0].nonzero().flatten().tolist() == [0, 1, 2, 3, 4, 19]


def test_truncate_ranks_by_original_position(build_policy: Any, make_view: Any, decide: Any) -> None:
    view = make_view((4,), lengths=torch.tensor([8]), positions=torch.tensor([[0, 7, 3, 5]]))
    keep = decide(build_policy(Truncate(rho=0.375, schedule="flat")).eval(), view).keep_mask
    assert keep.tolist() == [[True, False, True, True]]


def test_a_replaced_keep_ratio_is_stored_with_the_policy() -> None:
    policy = Truncate(rho=0.3, slope=0.5)
    policy.set_rho(0.7)
    assert policy.constructor_settings == {"rho": 0.7, "slope": 0.5}
    assert Truncate(**policy.constructor_settings).rho == 0.7


@pytest.mark.parametrize("shape", [None, (1, 20, 4), (1,), (20,)])
def test_a_score_of_another_shape_is_named(
    shape: tuple[int, ...] | None, build_policy: Any, make_view: Any, decide: Any
) -> None:
    class Wrong(RetentionPolicy):
        def score(self, view: LayerView) -> Any:
            return None if shape is None else torch.zeros(shape)

    got = "None" if shape is None else re.escape(str(list(shape)))
    with pytest.raises(TypeError, match=rf"Wrong\.score must return \[batch, tokens\] = \[1, 20\], got {got}"):
        decide(build_policy(Wrong(rho=0.3)).eval(), make_view((20,)))
