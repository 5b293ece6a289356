"""Soft targets against numbers worked out by hand, and what a teacher changes in training."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from retention.core.duals import ExactDual
from retention.errors import ConfigError
from retention.policies import Adaptive, Random
from retention.tasks.classification.head import ClassificationModule
from retention.training.distillation import Distillation, pooled_state_loss, soft_target_loss
from retention.training.module import RetentionModule
from retention.training.phases import Phases
from retention.training.teacher import Teacher

ModuleOf = Callable[..., ClassificationModule]
TEACHER = torch.tensor([[math.log(3.0), 0.0]])  # probabilities 3/4 and 1/4


def test_divergence_by_hand() -> None:
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert soft_target_loss(torch.zeros(1, 2), TEACHER, 1.0).item() == pytest.approx(expected, rel=1e-6)


def test_temperature_softens_both_and_is_scaled_back() -> None:
    high = math.sqrt(3.0) / (1.0 + math.sqrt(3.0))
    expected = 4.0 * (high * math.log(high / 0.5) + (1 - high) * math.log((1 - high) / 0.5))
    assert soft_target_loss(torch.zeros(1, 2), TEACHER, 2.0).item() == pytest.approx(expected, rel=1e-6)


def test_the_mean_is_over_all_leading_axes() -> None:
    student, teacher = torch.zeros(2, 3, 2), torch.zeros(2, 3, 2)
    teacher[1, 2] = TEACHER
    one = soft_target_loss(torch.zeros(1, 2), TEACHER, 1.0)
    torch.testing.assert_close(soft_target_loss(student, teacher, 1.0), one / 6)


def test_equal_logits_up_to_a_constant_cost_nothing() -> None:
    assert soft_target_loss(TEACHER + 5.0, TEACHER, 1.5).item() == pytest.approx(0.0, abs=1e-6)


def test_distance_of_pooled_states_by_hand() -> None:
    teacher, student = torch.tensor([[3.0, 4.0], [0.0, 2.0]]), torch.tensor([[3.0, 3.0], [1.0, 1.0]])
    assert pooled_state_loss(student, teacher).item() == pytest.approx((1 / 25 + 2 / 4) / 2)


@pytest.mark.parametrize(
    ("settings", "keys"),
    [
        ({"weight": 0.5}, ["teacher"]),
        ({"pooled_states": 1.0}, ["teacher"]),
        ({"pooled_states": -1.0, "weight": 0.5, "teacher": "x"}, ["pooled_states"]),
        ({"saliency": 0.5}, ["teacher"]),
        ({"token_states": 0.5}, ["teacher"]),
        ({"token_states": -0.5, "teacher": "x"}, ["token_states"]),
        ({"weight": 1.5, "temperature": 0.0, "saliency": -1.0, "teacher": "x"}, ["weight", "temperature", "saliency"]),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], keys: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        Distillation(**settings)
    assert [problem.key for problem in caught.value.problems] == keys


def outputs_of(
    module: ClassificationModule, teacher: ClassificationModule, batch: Any, trained: Any
) -> tuple[float, torch.Tensor, torch.Tensor]:
    """Task loss of the first training step, with the logits of student and teacher before it."""
    module.eval()
    with torch.no_grad():
        student, wanted = module(batch), teacher.eval()(batch)
    module.set_teacher(Teacher(teacher))
    seen: list[float] = []
    step = module.training_step

    def spy(batch: Any, batch_idx: int) -> Any:
        out = step(batch, batch_idx)
        seen.append(float(out["task_loss"]))
        return out

    module.training_step = spy  # type: ignore[method-assign]
    trained(module, [batch])
    return seen[0], student, wanted


def test_the_losses_are_mixed_by_weight(
    module_of: ModuleOf, dense_module: ClassificationModule, batch_of: Any, trained: Any
) -> None:
    batch = batch_of(9, 7)
    with torch.no_grad():
        dense_module.head[1].weight.mul_(8.0)  # a teacher that differs from its pupil
    student = module_of(
        Random(rho=1.0), phases=Phases(pruning_start=0.0), distill=Distillation(weight=0.25, teacher="given")
    )
    loss, student, teacher = outputs_of(student, dense_module, batch, trained)
    task, soft = F.cross_entropy(student, batch["labels"]), soft_target_loss(student, teacher, 2.0)
    assert soft > 1e-4
    assert loss == pytest.approx(float(0.75 * task + 0.25 * soft), rel=1e-5)


def test_the_teachers_pooled_states_pull_by_their_weight(
    module_of: ModuleOf, dense_module: ClassificationModule, batch_of: Any, trained: Any
) -> None:
    batch = batch_of(9, 7)
    with torch.no_grad():
        dense_module.encoder.embeddings.word_embeddings.weight.mul_(2.0)
    student = module_of(
        Random(rho=1.0), phases=Phases(pruning_start=0.0), distill=Distillation(pooled_states=3.0, teacher="given")
    )
    with torch.no_grad():
        distance = pooled_state_loss(*(each.pooled(each.encode(batch)) for each in (student, dense_module.eval())))
    loss, student, _ = outputs_of(student, dense_module, batch, trained)
    assert distance > 1e-3
    assert loss == pytest.approx(float(F.cross_entropy(student, batch["labels"]) + 3.0 * distance), rel=1e-4)


def test_a_head_without_a_pooled_state_is_refused(module_of: ModuleOf, dense_module: ClassificationModule) -> None:
    class ReadsEveryToken(ClassificationModule):
        pooled = RetentionModule.pooled  # type: ignore[assignment]

    module = module_of(distill=Distillation(pooled_states=1.0, teacher="given"))
    module.__class__ = ReadsEveryToken
    with pytest.raises(ConfigError, match=r"distill\.pooled_states: ReadsEveryToken reads every token"):
        module.set_teacher(Teacher(dense_module))


def test_a_teacher_learns_nothing_and_is_not_saved(
    module_of: ModuleOf, dense_module: ClassificationModule, batch_of: Any, trained: Any
) -> None:
    before = {name: value.clone() for name, value in dense_module.state_dict().items()}
    module = module_of(distill=Distillation(weight=0.5, saliency=0.5, teacher="given"))
    names = set(module.state_dict())
    module.set_teacher(Teacher(dense_module))
    trained(module, [batch_of(9, 7), batch_of(8, 5)])
    assert set(module.state_dict()) == names
    assert not dense_module.training and not any(p.requires_grad for p in dense_module.parameters())
    assert all(torch.equal(value, before[name]) for name, value in dense_module.state_dict().items())


def test_saliency_reaches_the_scorers(
    module_of: ModuleOf, dense_module: ClassificationModule, batch_of: Any, trained: Any
) -> None:
    module = module_of(distill=Distillation(saliency=0.5, teacher="given"))
    plain = module_of(distill=Distillation(saliency=0.0, weight=1e-9, teacher="given"))
    for each in (module, plain):
        each.set_teacher(Teacher(dense_module))
        trained(each, [batch_of(9, 7)])
    first, second = (dict(each.policy.named_parameters()) for each in (module, plain))
    assert any(not torch.allclose(first[name], second[name]) for name in first)


@pytest.mark.parametrize("policy", [lambda: Random(rho=0.5), lambda: Adaptive(dual=ExactDual(), rho=1.0)])
def test_saliency_without_a_scorer_is_left_out(
    policy: Any, module_of: ModuleOf, dense_module: ClassificationModule, batch_of: Any, trained: Any
) -> None:
    module = module_of(policy(), distill=Distillation(saliency=0.5, weight=0.5, teacher="given"))
    module.set_teacher(Teacher(dense_module))
    trained(module, [batch_of(9, 7)])
