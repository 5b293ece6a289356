"""Gates that are trained on a finished model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from retention.tasks.classification.head import ClassificationModule

ModuleOf = Callable[..., ClassificationModule]


class Look(pl.Callback):
    """What is trained, and in which mode."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *given: Any) -> None:
        self.modes = {name: child.training for name, child in pl_module.named_children()}
        [optimizer] = trainer.optimizers
        self.optimized = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}


@pytest.mark.parametrize(("freeze", "learning"), [("encoder", {"head", "policy"}), ("model", {"policy"})])
def test_what_is_frozen_stays_to_the_bit(
    freeze: str, learning: set[str], module_of: ModuleOf, batch_of: Any, trained: Any
) -> None:
    module, curve_style = module_of(freeze=freeze), Look()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    trained(module, [batch_of(9, 7), batch_of(8, 5), batch_of(12, 6)], curve_style)
    changed = {
        name.split(".")[0] for name, value in module.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed == learning
    assert {name for name, training in curve_style.modes.items() if training} == learning, "its dropout stays off"
    own = {id(p) for name, p in module.named_parameters() if name.split(".")[0] in learning}
    assert curve_style.optimized == own, "no optimiser state for what does not learn"


def test_nothing_below_the_first_gate_is_kept_for_the_backward_pass(module_of: ModuleOf, batch_of: Any) -> None:
    saved = {}
    for freeze in (None, "encoder"):
        module = module_of(freeze=freeze)
        module.setup("fit")
        module.train()
        module.policy.phase = "hard"
        kept: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, k=kept: (k.append(t.nbytes), t)[1], lambda t: t):
            module(batch_of(20, 20))
        saved[freeze] = sum(kept)
    assert saved["encoder"] < 0.7 * saved[None]
