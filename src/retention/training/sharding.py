"""Shard a retention model over the ranks with PyTorch's fully sharded data parallelism (FSDP2)."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

from retention.engine.adapters.base import transformer_layers
from retention.models.retention_model import RetentionModel


def shard(model: RetentionModel, mesh: Any) -> None:
    """Shard parameters, gradients and optimizer states over the ranks; a model that is sharded already is left alone.

    Each encoder layer is a unit of its own: its parameters are gathered when it runs, and given back afterwards. All
    other parameters (embeddings, policy, head) are one more unit, gathered for the whole step, since the engine calls
    scorers between the layers. Buffers, such as dual variables, stay whole on every rank.

    Args:
        model: encoder, policy and head.
        mesh: one-dimensional device mesh of the ranks, see ``torch.distributed.device_mesh.init_device_mesh``.
    """
    if isinstance(model, FSDPModule):
        return
    for layer in sharded_layers(model):
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    fully_shard(model, mesh=mesh, reshard_after_forward=False)
    # The one call of every pass, in training and evaluation; a call inside another one would give the parameters back.
    register_fsdp_forward_method(model, "encode")


def sharded_layers(model: RetentionModel) -> list[nn.Module]:
    """Return the encoder layers, each of which is sharded as a unit."""
    retainer = model.retainer
    return list(transformer_layers(retainer.adapter, retainer.encoder, retainer.shape.num_layers))
