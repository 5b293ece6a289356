"""Select the parts of a model that are not trained."""

from __future__ import annotations

from torch import nn

from retention.models.retention_model import RetentionModel

FREEZE = ("encoder", "model")


def frozen_parts(model: RetentionModel, freeze: str | None) -> list[nn.Module]:
    """Return the parts that are neither trained nor set to training mode, so that their dropout stays off.

    Below the first gate a frozen encoder needs no gradient, so its activations there are not kept.

    Args:
        model: encoder, policy and head.
        freeze: ``encoder`` = head and policy are trained; ``model`` = only the policy is trained; None = all parts are.
    """
    if freeze is None:
        return []
    return [model.encoder] if freeze == "encoder" else [model.encoder, model.head]
