"""Attach a retention policy to a Hugging Face encoder with one call."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from retention.engine import Retainer, adapter_for, encoder_of
from retention.engine.adapters import has_decoder
from retention.engine.training_watch import TrainingWatch
from retention.errors import require, require_object
from retention.policies.bases.retention_policy import RetentionPolicy
from retention.policies.early_exit import EarlyExit
from retention.policies.registry import available_policies


def retain(
    model: nn.Module,
    policy: RetentionPolicy,
    *,
    protected_ids: Iterable[int] = (),
    dropped: str = "forward",
    prune_at: str = "after_layer",
    protect_query: bool = False,
) -> Retainer:
    """Return a context in which ``model`` drops tokens between its layers, as ``policy`` ranks them.

    Builds the policy for the encoder, on its device, if it has not been built. The policy follows its own training
    mode: call ``policy.eval()`` for inference. To train it, give ``policy.parameters()`` to the optimizer as well: a
    trainer that gets the model alone does not know them. A warning says so if a policy in training mode is not trained,
    or runs without gradients.

    The context applies to calls of the model from every thread, see ``Retainer``; ``policy.at_budget`` to those of its
    own thread.

    Args:
        model: a Hugging Face encoder, with or without a head; also inside a PEFT or compiled model.
        policy: a retention policy, an object such as ``Adaptive(rho=0.3)``.
        protected_ids: token ids that are never removed, such as ``tokenizer.all_special_ids``.
        dropped: ``forward`` = dropped tokens return with their last state, ``cut`` = the output holds kept tokens only,
            which a model with a decoder cannot read.
        prune_at: ``after_layer``, or ``after_attention`` = dropped tokens skip the feed-forward part of their last
            layer.
        protect_query: True to never remove the first text of a pair, such as the query of a reranker or a question:
            the tokens up to the first of ``protected_ids`` after the start.

    Raises:
        ConfigError: ``policy`` is a class or a name; the family, its attention, a layer or a setting is not supported,
            see ``Retainer``; the policy was built for an encoder of another shape, or needs more than the encoder
            (``EarlyExit``).

    Examples:
        >>> with retain(model, Truncate(rho=0.3).eval(), protected_ids=[101, 102]) as retainer:   # doctest: +SKIP
        ...     output = model(**batch)
        ...     retainer.report.kept
    """
    require_object("policy", policy, RetentionPolicy, _example(policy))
    message = "early_exit needs a trained model with its heads, which retention.load returns; it removes no token"
    require(not isinstance(policy, EarlyExit), "policy", message)
    message = (
        f"cut would shorten the output of the encoder, beside which the decoder of {type(model).__name__} reads the "
        "attention mask of the whole input; use dropped='forward'"
    )
    require(dropped != "cut" or not has_decoder(model), "dropped", message)
    encoder: Any = encoder_of(model)
    if not policy.built:
        name = str(encoder.config.model_type)
        with torch.inference_mode(False):  # parameters made in inference mode could never be trained
            policy.build(adapter_for(name).shape(encoder.config), name)
            policy.to(next(encoder.parameters()).device)
    retainer = Retainer(
        model,
        policy,
        layers=policy.layers,
        dropped=dropped,
        prune_at=prune_at,
        protected_ids=protected_ids,
        protect_query=protect_query,
    )
    retainer.training_watch = TrainingWatch(encoder, policy)
    return retainer


def _example(given: object) -> str:
    """Return how an object is made of a policy class, or of the name of one; of ``Truncate`` for anything else."""
    named = available_policies().get(given) if isinstance(given, str) else given
    name = named.__name__ if isinstance(named, type) and issubclass(named, RetentionPolicy) else "Truncate"
    return f"{name}(rho=0.3).eval()"
