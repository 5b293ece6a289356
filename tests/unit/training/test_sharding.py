"""Tests of the units that a sharded model consists of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from retention.training.sharding import shard, sharded_layers


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Any]:
    """Return the mesh of a group of one process."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


def test_each_layer_and_the_rest_is_a_unit(make_model: Callable[..., Any], mesh: Any) -> None:
    model = make_model()
    shard(model, mesh)
    units = {name for name, module in model.named_modules() if isinstance(module, FSDPModule)}
    assert units == {"", "encoder.encoder.layer.0", "encoder.encoder.layer.1", "encoder.encoder.layer.2"}
    assert len(sharded_layers(model)) == 3
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    shard(model, mesh)  # a second call, as before a test, changes nothing


def test_sharded_model_computes_the_same(make_model: Callable[..., Any], make_batch: Any, mesh: Any) -> None:
    whole, sharded, batch = make_model().eval(), make_model().eval(), make_batch(9, 6)
    expected = whole.outputs(batch).logits
    expected.square().sum().backward()
    gradients = {name: value.grad for name, value in whole.named_parameters()}
    shard(sharded, mesh)
    result = sharded.outputs(batch).logits
    torch.testing.assert_close(result, expected)
    result.square().sum().backward()
    reached = [name for name, value in gradients.items() if value is not None]
    assert any(name.startswith("head.") for name in reached) and any("layer.1." in name for name in reached)
    for name, value in sharded.named_parameters():
        if name in reached:
            torch.testing.assert_close(value.grad.full_tensor(), gradients[name])
