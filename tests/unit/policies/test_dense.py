"""Test the dense baseline."""

from __future__ import annotations

from typing import Any

import pytest

from retention.errors import ConfigError
from retention.policies import Dense


def test_dense_gates_no_layer(build_policy: Any) -> None:
    policy = build_policy(Dense())
    assert policy.layers == () and policy.active == () and policy.rho == 1.0
    assert policy.multipliers_by_layer() == {} and policy.scorer_macs() == {} and not list(policy.parameters())
    with pytest.raises(ConfigError, match="rho"):
        Dense(rho=0.0)
