"""The head for sets of classes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from retention.engine.adapters import adapter_for
from retention.policies import Dense
from retention.tasks.classification.multilabel_head import MultiLabelModule, chosen_classes
from retention.training.distillation import Distillation, soft_decision_loss
from retention.training.optimization import AdamWSettings
from retention.training.phases import Phases
from retention.training.settings import TrainingSettings

LOGITS = torch.tensor([[1.0, -1.0, 2.0], [-1.0, -0.5, -2.0]])
BATCH = {"labels": torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]]), "index": torch.tensor([4, 2])}


@pytest.fixture
def module(encoder: Any) -> MultiLabelModule:
    model, policy = encoder(), Dense()
    policy.build(adapter_for("bert").shape(model.config))
    training = TrainingSettings(AdamWSettings(lr=1e-3), Phases(), Distillation())
    return MultiLabelModule(num_labels=3, encoder=model, policy=policy, training=training, dropped="cut", config={})


def test_likely_classes_and_the_likeliest_in_any_case() -> None:
    assert chosen_classes(LOGITS).tolist() == [[True, False, True], [False, True, False]]


def test_the_loss_is_the_sum_over_classes(module: MultiLabelModule) -> None:
    signs = torch.tensor([[1.0, -1.0, -1.0], [-1.0, 1.0, 1.0]])
    torch.testing.assert_close(module.task_loss(LOGITS, BATCH), -F.logsigmoid(signs * LOGITS).sum() / 2)


def test_scores(module: MultiLabelModule) -> None:
    rows = module.collect(LOGITS, BATCH)
    probabilities = rows.pop("probabilities")
    assert rows == {"index": [4, 2], "prediction": [[0, 2], [1]], "label": [[0], [1, 2]]}
    assert probabilities == [pytest.approx(row, abs=1e-6) for row in LOGITS.sigmoid().tolist()]
    assert module.score(rows) == pytest.approx({"micro_f1": 4 / 6, "macro_f1": 2 / 3})


def test_confidence_is_that_of_the_chosen_classes(module: MultiLabelModule) -> None:
    expected = F.logsigmoid(torch.tensor([1.0, 2.0, -0.5])).sum()
    torch.testing.assert_close(module.confidence(LOGITS, BATCH), expected)


def test_it_starts_at_one_class_per_text(module: MultiLabelModule) -> None:
    found = module.logits(module.encode(_tokens()), {}).sigmoid().sum(1)
    module.head[1].weight.data.zero_()  # type: ignore[union-attr, operator]
    start = module.logits(module.encode(_tokens()), {}).sigmoid().sum(1)
    torch.testing.assert_close(start, torch.ones(2))
    assert found.shape == (2,)


def test_soft_decisions_are_matched_at_the_teachers_logits(module: MultiLabelModule) -> None:
    assert module.distillation_loss(LOGITS, LOGITS, BATCH) == pytest.approx(0.0, abs=1e-6)
    teacher, student, heat = 1.0, -2.0, 2.0
    p, q = (1 / (1 + math.exp(-value / heat)) for value in (teacher, student))
    expected = heat**2 * (p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)))
    found = soft_decision_loss(torch.tensor([student]), torch.tensor([teacher]), heat)
    torch.testing.assert_close(found, torch.tensor([expected]))


def _tokens() -> dict[str, Any]:
    mask = torch.ones(2, 5, dtype=torch.long)
    return {"input_ids": mask * 3, "attention_mask": mask, "protected_mask": torch.zeros(2, 5, dtype=torch.bool)}
