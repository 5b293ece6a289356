"""Attach a retention policy to a Hugging Face encoder with one call."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from retention.engine import Retainer, adapter_for, encoder_of
from retention.policies.bases.retention_policy import RetentionPolicy


def retain(
    model: nn.Module,
    policy: RetentionPolicy,
    *,
    protected_ids: Iterable[int] = (),
    dropped: str = "forward",
    prune_at: str = "after_layer",
) -> Retainer:
    """Return a context in which ``model`` drops tokens between its layers, as ``policy`` ranks them.

    Builds the policy for the encoder if it has not been built. The policy follows its own training mode: call
    ``policy.eval()`` for inference.

    Args:
        model: a Hugging Face encoder, with or without a head.
        policy: a retention policy.
        protected_ids: token ids that are never removed, such as CLS and SEP.
        dropped: ``forward`` = dropped tokens return with their last state, ``cut`` = the output holds kept tokens only.
        prune_at: ``after_layer``, or ``after_attention`` = dropped tokens skip the feed-forward part of their last
            layer.

    Raises:
        ConfigError: the family, its attention, or a layer is not supported.

    Examples:
        >>> with retain(model, Truncate(rho=0.3).eval(), protected_ids=[101, 102]) as retainer:   # doctest: +SKIP
        ...     output = model(**batch)
        ...     retainer.report.kept
    """
    config = encoder_of(model).config
    if not policy.built:
        policy.build(adapter_for(str(config.model_type)).shape(config), str(config.model_type))  # type: ignore[union-attr]
    return Retainer(
        model, policy, layers=policy.layers, dropped=dropped, prune_at=prune_at, protected_ids=protected_ids
    )
