"""Tests of frozen parts: gates that are trained on a finished model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from retention.policies import Truncate
from retention.tasks.question_answering.head import QuestionAnsweringHead
from retention.training.freezing import frozen_parts
from retention.training.module import RetentionModule

MakeModule = Callable[..., RetentionModule]


class Recorder(pl.Callback):
    """Records which parts are in training mode and which parameters are optimized."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
        self.modes = {name: child.training for name, child in pl_module.model.named_children()}
        [optimizer] = trainer.optimizers
        self.optimized = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}


@pytest.mark.parametrize(("freeze", "trained"), [("encoder", {"head", "policy"}), ("model", {"policy"})])
def test_frozen_parts_stay_bit_identical(
    freeze: str, trained: set[str], make_module: MakeModule, make_batch: Any, fit: Any
) -> None:
    module, recorder = make_module(freeze=freeze), Recorder()
    model = module.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fit(module, [make_batch(9, 7), make_batch(8, 5), make_batch(12, 6)], recorder)
    changed = {name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == trained
    assert {name for name, training in recorder.modes.items() if training} == trained, "dropout of frozen parts is off"
    expected = {id(p) for name, p in model.named_parameters() if name.split(".")[0] in trained}
    assert recorder.optimized == expected, "no optimizer state for frozen parameters"


def test_frozen_model_includes_parameters_of_head_itself(make_model: Callable[..., Any]) -> None:
    model = make_model(Truncate(rho=0.5), QuestionAnsweringHead, num_types=4, metrics_fn=lambda stage, rows: {})
    frozen: list[nn.Parameter] = [p for part in frozen_parts(model, "model") for p in part.parameters()]
    assert any(parameter is model.head.dropped_offset for parameter in frozen)


def test_frozen_encoder_keeps_no_activations_below_first_gate(make_module: MakeModule, make_batch: Any) -> None:
    saved = {}
    for freeze in (None, "encoder"):
        module = make_module(freeze=freeze)
        module.setup("fit")
        module.train()
        module.policy.phase = "hard"
        kept: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, k=kept: (k.append(t.nbytes), t)[1], lambda t: t):
            module(make_batch(20, 20))
        saved[freeze] = sum(kept)
    assert saved["encoder"] < 0.7 * saved[None]
