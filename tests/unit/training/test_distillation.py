"""Tests of distillation losses by hand, and of what a teacher changes in training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from retention.core.duals import ExactDual
from retention.errors import ConfigError
from retention.models.head import Head
from retention.models.retention_model import RetentionModel
from retention.models.soft_targets import soft_target_loss
from retention.policies import Adaptive, Random
from retention.tasks.classification.head import ClassificationHead
from retention.training.distillation import Distillation, pooled_state_loss
from retention.training.module import RetentionModule
from retention.training.phases import TrainingPhases
from retention.training.teacher import Teacher

MakeModule = Callable[..., RetentionModule]


def test_pooled_state_loss_by_hand() -> None:
    teacher, student = torch.tensor([[3.0, 4.0], [0.0, 2.0]]), torch.tensor([[3.0, 3.0], [1.0, 1.0]])
    assert pooled_state_loss(student, teacher).item() == pytest.approx((1 / 25 + 2 / 4) / 2)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"weight": 0.5}, "teacher"),
        ({"pooled_states": 1.0}, "teacher"),
        ({"saliency": 0.5}, "teacher"),
        ({"token_states": 0.5}, "teacher"),
        ({"pooled_states": -1.0, "weight": 0.5, "teacher": "x"}, "pooled_states"),
        ({"token_states": -0.5, "teacher": "x"}, "token_states"),
        ({"saliency": -1.0, "teacher": "x"}, "saliency"),
        ({"weight": 1.5, "teacher": "x"}, "weight"),
        ({"temperature": 0.0}, "temperature"),
    ],
)
def test_invalid_setting_raises(settings: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Distillation(**settings)
    assert [problem.key for problem in caught.value.problems] == [key]


def first_step(
    module: RetentionModule, teacher: RetentionModel, batch: Any, fit: Any
) -> tuple[float, torch.Tensor, torch.Tensor]:
    """Return the task loss of the first training step, and the logits of student and teacher before it."""
    module.eval()
    with torch.no_grad():
        student_logits, teacher_logits = module(batch), teacher.eval()(batch)
    module.set_teacher(Teacher(teacher))
    losses: list[float] = []
    step = module.training_step

    def record(batch: Any, batch_idx: int) -> Any:
        out = step(batch, batch_idx)
        losses.append(float(out["task_loss"]))
        return out

    module.training_step = record  # type: ignore[method-assign]
    fit(module, [batch])
    return losses[0], student_logits, teacher_logits


def test_losses_are_mixed_by_weight(
    make_module: MakeModule, dense_model: RetentionModel, make_batch: Any, fit: Any
) -> None:
    batch = make_batch(9, 7)
    with torch.no_grad():
        dense_model.head.output[1].weight.mul_(8.0)  # a teacher that differs from its student
    phases = TrainingPhases(pruning_start=0.0)
    module = make_module(Random(rho=1.0), phases=phases, distill=Distillation(weight=0.25, teacher="given"))
    loss, student, teacher = first_step(module, dense_model, batch, fit)
    task, soft = F.cross_entropy(student, batch["labels"]), soft_target_loss(student, teacher, 2.0)
    assert soft > 1e-4
    assert loss == pytest.approx(float(0.75 * task + 0.25 * soft), rel=1e-5)


def test_pooled_state_loss_is_added_by_weight(
    make_module: MakeModule, dense_model: RetentionModel, make_batch: Any, fit: Any
) -> None:
    batch = make_batch(9, 7)
    with torch.no_grad():
        dense_model.encoder.embeddings.word_embeddings.weight.mul_(2.0)
    phases = TrainingPhases(pruning_start=0.0)
    module = make_module(Random(rho=1.0), phases=phases, distill=Distillation(pooled_states=3.0, teacher="given"))
    with torch.no_grad():
        distance = pooled_state_loss(
            *(model.head.pooled(model.encode(batch)) for model in (module.model, dense_model.eval()))
        )
    loss, student, _ = first_step(module, dense_model, batch, fit)
    assert distance > 1e-3
    assert loss == pytest.approx(float(F.cross_entropy(student, batch["labels"]) + 3.0 * distance), rel=1e-4)


def test_pooled_states_need_head_that_pools(make_module: MakeModule, dense_model: RetentionModel) -> None:
    class ReadsEveryToken(ClassificationHead):
        pooled = Head.pooled  # type: ignore[assignment]

    module = make_module(distill=Distillation(pooled_states=1.0, teacher="given"))
    module.model.head.__class__ = ReadsEveryToken
    with pytest.raises(ConfigError, match=r"distill\.pooled_states: ReadsEveryToken reads every token"):
        module.set_teacher(Teacher(dense_model))


def test_teacher_is_neither_trained_nor_saved(
    make_module: MakeModule, dense_model: RetentionModel, make_batch: Any, fit: Any
) -> None:
    before = {name: value.clone() for name, value in dense_model.state_dict().items()}
    module = make_module(distill=Distillation(weight=0.5, saliency=0.5, teacher="given"))
    names = set(module.state_dict())
    module.set_teacher(Teacher(dense_model))
    fit(module, [make_batch(9, 7), make_batch(8, 5)])
    assert set(module.state_dict()) == names
    assert not dense_model.training and not any(p.requires_grad for p in dense_model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in dense_model.state_dict().items())


def test_saliency_changes_scorers(
    make_module: MakeModule, dense_model: RetentionModel, make_batch: Any, fit: Any
) -> None:
    module = make_module(distill=Distillation(saliency=0.5, teacher="given"))
    plain = make_module(distill=Distillation(saliency=0.0, weight=1e-9, teacher="given"))
    for each in (module, plain):
        each.set_teacher(Teacher(dense_model))
        fit(each, [make_batch(9, 7)])
    first, second = (dict(each.policy.named_parameters()) for each in (module, plain))
    assert any(not torch.allclose(first[name], second[name]) for name in first)


@pytest.mark.parametrize("policy", [lambda: Random(rho=0.5), lambda: Adaptive(dual=ExactDual(), rho=1.0)])
def test_saliency_without_scorers_is_skipped(
    policy: Any, make_module: MakeModule, dense_model: RetentionModel, make_batch: Any, fit: Any
) -> None:
    module = make_module(policy(), distill=Distillation(saliency=0.5, weight=0.5, teacher="given"))
    module.set_teacher(Teacher(dense_model))
    fit(module, [make_batch(9, 7)])
