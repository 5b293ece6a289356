"""Tests of recorded token states and of their distance to the teacher's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from retention.core.duals import ExactDual
from retention.core.hard_concrete import GateConfig
from retention.errors import ConfigError
from retention.models.retention_model import RetentionModel
from retention.policies import Adaptive, Random, Truncate
from retention.policies.tome import ToMe
from retention.training.distillation import Distillation
from retention.training.module import RetentionModule
from retention.training.phases import TrainingPhases
from retention.training.teacher import Teacher
from retention.training.token_states import TokenStates, record_token_states, token_state_loss

MakeModel = Callable[..., RetentionModel]
MakeModule = Callable[..., RetentionModule]


def states_of(model: RetentionModel, batch: Any) -> list[TokenStates]:
    with torch.no_grad(), record_token_states(model.retainer) as states:
        model(batch)
    return states


def test_loss_by_hand() -> None:
    full = TokenStates(torch.tensor([[[3.0, 4.0], [0.0, 2.0], [1.0, 0.0]]]), torch.ones(1, 3), torch.arange(3)[None])
    kept = TokenStates(torch.tensor([[[0.0, 3.0], [1.0, 1.0]]]), torch.tensor([[1.0, 0.5]]), torch.tensor([[1, 2]]))
    total = 1 / 4 + 0.5 * (0.0 + 1.0)  # [0, 3] against [0, 2], and half of [1, 1] against [1, 0]
    assert token_state_loss([kept], [full]).item() == pytest.approx(total / 1.5)
    assert token_state_loss([kept, full], [full, full]).item() == pytest.approx(total / 1.5 / 2)


def test_each_layer_records_tokens_that_reach_it(
    make_model: MakeModel, dense_model: RetentionModel, make_batch: Any
) -> None:
    batch = make_batch(8, 6)
    student = make_model(Truncate(rho=0.5, schedule="flat")).eval()
    kept, full = states_of(student, batch), states_of(dense_model.eval(), batch)
    assert [int(layer.weights.sum()) for layer in full] == [14] * len(full)
    assert [int(layer.weights.sum()) for layer in kept] == [14, 7, 7]
    torch.testing.assert_close(kept[0].hidden_states, full[0].hidden_states, msg="equal before the first gate")
    assert token_state_loss(kept[:1], full[:1]).item() == pytest.approx(0.0, abs=1e-9)
    assert token_state_loss(kept, full).item() > 1e-6, "the kept tokens miss the dropped ones"


def test_nothing_is_recorded_unless_enabled(make_model: MakeModel, make_batch: Any) -> None:
    model = make_model().eval()
    with record_token_states(model.retainer, enabled=False) as states:
        model(make_batch(8, 6))
    assert states == []


def test_soft_gates_weight_tokens_without_gradient(make_model: MakeModel, make_batch: Any) -> None:
    student = make_model(Adaptive(dual=ExactDual(), rho=0.5, slope=0.5, gate=GateConfig(relaxed=False)))
    student.policy.phase, student.policy.anneal = "soft", 1.0
    student.train()
    with record_token_states(student.retainer) as states:
        student(make_batch(9, 7))
    weights = states[-1].weights
    assert not weights.requires_grad and bool(((weights > 0) & (weights < 1)).any())


def test_merged_tokens_count_once(make_model: MakeModel, make_batch: Any) -> None:
    states = states_of(make_model(ToMe(rho=0.5)).eval(), make_batch(9, 7))
    assert all(float(layer.weights.max()) == 1.0 for layer in states)


def test_loss_is_added_by_weight_and_decreases(
    make_module: MakeModule, dense_model: RetentionModel, make_batch: Any, fit: Any
) -> None:
    batch = make_batch(9, 7)
    with torch.no_grad():
        dense_model.encoder.embeddings.word_embeddings.weight.mul_(2.0)
    phases = TrainingPhases(pruning_start=0.0)
    distill = Distillation(token_states=3.0, teacher="given")
    module = make_module(Random(rho=1.0), phases=phases, distill=distill).eval()
    student = module.model
    distance = token_state_loss(states_of(student, batch), states_of(dense_model.eval(), batch))
    with torch.no_grad():
        expected = F.cross_entropy(student(batch), batch["labels"]) + 3.0 * distance
    module.set_teacher(Teacher(dense_model))
    losses = module.objective.losses(batch, 0)
    assert distance > 1e-3 and float(losses.task.detach()) == pytest.approx(float(expected), rel=1e-4)
    fit(module, [batch, batch])
    assert token_state_loss(states_of(student.eval(), batch), states_of(dense_model, batch)) < distance


def test_teacher_of_other_shape_raises(make_module: MakeModule, dense_model: RetentionModel) -> None:
    shape = dense_model.retainer.shape
    dense_model.retainer.shape = type(shape)(**{**vars(shape), "num_layers": 12})
    module = make_module(distill=Distillation(token_states=1.0, teacher="given"))
    with pytest.raises(ConfigError, match=r"distill\.token_states: needs a teacher of 3 layers .* it has 12"):
        module.set_teacher(Teacher(dense_model))
