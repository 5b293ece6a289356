"""Which token states are recorded, and what their distance to the teacher's counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from retention.core.duals import ExactDual
from retention.errors import ConfigError
from retention.policies import Adaptive, Random, Truncate
from retention.policies.tome import ToMe
from retention.tasks.classification.head import ClassificationModule
from retention.training.distillation import Distillation
from retention.training.phases import Phases
from retention.training.teacher import Teacher
from retention.training.token_states import TokenStates, recorded, token_state_loss

ModuleOf = Callable[..., ClassificationModule]
REMOVAL = Phases(pruning_start=0.0)


def states_of(module: ClassificationModule, batch: Any) -> list[TokenStates]:
    with torch.no_grad(), recorded(module.retainer) as found:
        module(batch)
    return found


def test_distance_by_hand() -> None:
    whole = TokenStates(torch.tensor([[[3.0, 4.0], [0.0, 2.0], [1.0, 0.0]]]), torch.ones(1, 3), torch.arange(3)[None])
    own = TokenStates(torch.tensor([[[0.0, 3.0], [1.0, 1.0]]]), torch.tensor([[1.0, 0.5]]), torch.tensor([[1, 2]]))
    every = 1 / 4 + 0.5 * (0.0 + 1.0)  # [0, 3] beside [0, 2], and half of [1, 1] beside [1, 0]
    assert token_state_loss([own], [whole]).item() == pytest.approx(every / 1.5)
    assert token_state_loss([own, whole], [whole, whole]).item() == pytest.approx(every / 1.5 / 2)


def test_each_layer_is_recorded_with_the_tokens_that_reach_it(
    module_of: ModuleOf, dense_module: ClassificationModule, batch_of: Any
) -> None:
    batch = batch_of(8, 6)
    student = module_of(Truncate(rho=0.5, schedule="flat")).eval()
    own, whole = states_of(student, batch), states_of(dense_module.eval(), batch)
    assert [int(layer.weights.sum()) for layer in whole] == [14] * len(whole)
    assert [int(layer.weights.sum()) for layer in own] == [14, 7, 7]
    torch.testing.assert_close(own[0].hidden_states, whole[0].hidden_states, msg="before the first gate all are equal")
    assert token_state_loss(own[:1], whole[:1]).item() == pytest.approx(0.0, abs=1e-9)
    assert token_state_loss(own, whole).item() > 1e-6, "the kept tokens miss what left"


def test_soft_gates_weigh_tokens_and_get_no_gradient_from_it(module_of: ModuleOf, batch_of: Any) -> None:
    student = module_of(Adaptive(dual=ExactDual(), rho=0.5, slope=0.5, relaxed=False))
    student.policy.phase, student.policy.anneal = "soft", 1.0
    student.train()
    with recorded(student.retainer) as found:
        student(batch_of(9, 7))
    gated = found[-1].weights
    assert not gated.requires_grad and bool(((gated > 0) & (gated < 1)).any())


def test_merged_tokens_count_once(module_of: ModuleOf, batch_of: Any) -> None:
    found = states_of(module_of(ToMe(rho=0.5)).eval(), batch_of(9, 7))
    assert all(float(layer.weights.max()) == 1.0 for layer in found)


def test_the_states_pull_by_their_weight(
    module_of: ModuleOf, dense_module: ClassificationModule, batch_of: Any, trained: Any
) -> None:
    batch = batch_of(9, 7)
    with torch.no_grad():
        dense_module.encoder.embeddings.word_embeddings.weight.mul_(2.0)
    student = module_of(Random(rho=1.0), phases=REMOVAL, distill=Distillation(token_states=3.0, teacher="given")).eval()
    distance = token_state_loss(states_of(student, batch), states_of(dense_module.eval(), batch))
    with torch.no_grad():
        expected = F.cross_entropy(student(batch), batch["labels"]) + 3.0 * distance
    student.set_teacher(Teacher(dense_module))
    losses = student.objective.losses(batch, 0)
    assert distance > 1e-3 and float(losses.task.detach()) == pytest.approx(float(expected), rel=1e-4)
    trained(student, [batch, batch])
    assert token_state_loss(states_of(student.eval(), batch), states_of(dense_module, batch)) < distance


def test_a_teacher_of_another_shape_is_refused(module_of: ModuleOf, dense_module: ClassificationModule) -> None:
    other = dense_module
    other.retainer.shape = type(other.shape)(**{**vars(other.shape), "num_layers": 12})
    module = module_of(distill=Distillation(token_states=1.0, teacher="given"))
    with pytest.raises(
        ConfigError, match=r"distill\.token_states: needs a teacher of 3 layers of width \d+, it has 12"
    ):
        module.set_teacher(Teacher(other))
