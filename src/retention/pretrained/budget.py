"""Check and use the target keep ratio of one call."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from numbers import Real

from retention.errors import require, require_number
from retention.policies.bases.retention_policy import RetentionPolicy


def budget_of_call(policy: RetentionPolicy, rho: float | None) -> AbstractContextManager[None]:
    """Return a context with the target keep ratio of one call, for this thread; None = as the policy stands.

    Args:
        policy: a built policy.
        rho: result of ``check_rho``.
    """
    return nullcontext() if rho is None else policy.at_budget(rho)


def check_rho(policy: RetentionPolicy, rho: float | None) -> float | None:
    """Return a target keep ratio as a float if a built policy can use it; None is passed through.

    Raises:
        ConfigError: it is not in (0, 1]; the policy removes no tokens, or its counts do not follow the budget; or the
            policy has no scorers for gates that remove tokens at this keep ratio.
    """
    if rho is None:
        return None
    rho = float(rho) if isinstance(rho, Real) and not isinstance(rho, bool) else rho
    require_number("rho", rho, above=0, high=1, name="the target keep ratio")
    if not policy.layers:
        require(rho == 1, "rho", f"{policy.name} removes no tokens, got {rho}; leave it None, or load a retained model")
        return None
    policy.check_followed(rho)
    return None if rho == policy.rho else rho
