"""Parts of a model that training leaves as they are."""

from __future__ import annotations

from torch import nn

FREEZE = ("encoder", "model")


def frozen_parts(module: nn.Module, freeze: str | None) -> list[nn.Module]:
    """What is neither trained nor put into training mode, so that its dropout stays off.

    Below the first gate a frozen encoder needs no gradient, so its activations there are not kept.

    Args:
        module: a ``RetentionModule``.
        freeze: ``encoder``: head and policy learn; ``model``: the policy alone; None: everything learns.
    """
    if freeze is None:
        return []
    children = dict(module.named_children())
    return (
        [children["encoder"]] if freeze == "encoder" else [part for name, part in children.items() if name != "policy"]
    )
