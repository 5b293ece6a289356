"""Tests of the head for sets of classes."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from retention.models.encoded import Encoded
from retention.models.retention_model import RetentionModel
from retention.policies import Dense
from retention.tasks.classification.multilabel_head import MultiLabelHead

LOGITS = torch.tensor([[1.0, -1.0, 2.0], [-1.0, -0.5, -2.0]])
BATCH = {
    "labels": torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]]),
    "index": torch.tensor([4, 2]),
    "document": torch.tensor([1, 0]),
}
ENCODED = Encoded(torch.zeros(2, 5, 16), torch.ones(2, 5), torch.arange(5).expand(2, 5))


@pytest.fixture
def model(make_model: Any) -> RetentionModel:
    made: RetentionModel = make_model(Dense(), MultiLabelHead, num_labels=3)
    return made


@pytest.fixture
def head(model: RetentionModel) -> MultiLabelHead:
    return cast(MultiLabelHead, model.head)


def test_probable_classes_and_most_probable_one_are_predicted(head: MultiLabelHead) -> None:
    expected = [[True, False, True], [False, True, False]]
    assert head.predicted_classes(LOGITS).tolist() == head.predictions(LOGITS).tolist() == expected


def test_loss_is_sum_over_classes(head: MultiLabelHead) -> None:
    signs = torch.tensor([[1.0, -1.0, -1.0], [-1.0, 1.0, 1.0]])
    torch.testing.assert_close(head.task_loss(LOGITS, BATCH), -F.logsigmoid(signs * LOGITS).sum() / 2)


def test_evaluation_rows_and_metrics(head: MultiLabelHead) -> None:
    rows = head.eval_rows(LOGITS, ENCODED, BATCH)
    probabilities = rows.pop("probabilities")
    assert rows == {"index": [4, 2], "document": [1, 0], "prediction": [[0, 2], [1]], "label": [[0], [1, 2]]}
    assert probabilities == [pytest.approx(row, abs=1e-6) for row in LOGITS.sigmoid().tolist()]
    assert head.compute_metrics(rows) == pytest.approx({"micro_f1": 4 / 6, "macro_f1": 2 / 3})
    assert [row["score"] for row in head.prediction_rows(rows)] == pytest.approx([2 / 3, 2 / 3])


def test_batches_without_documents_are_evaluated(head: MultiLabelHead) -> None:
    batch = {key: value for key, value in BATCH.items() if key != "document"}
    assert set(head.eval_rows(LOGITS, ENCODED, batch)) == {"index", "prediction", "label", "probabilities"}


def test_confidence_is_that_of_predicted_classes(head: MultiLabelHead) -> None:
    expected = F.logsigmoid(torch.tensor([1.0, 2.0, -0.5])).sum()
    torch.testing.assert_close(head.confidence(LOGITS, BATCH), expected)


def test_head_starts_at_one_class_per_sequence(model: RetentionModel, head: MultiLabelHead) -> None:
    mask = torch.ones(2, 5, dtype=torch.long)
    batch = {"input_ids": mask * 3, "attention_mask": mask, "protected_mask": torch.zeros(2, 5, dtype=torch.bool)}
    cast(nn.Linear, head.output[1]).weight.data.zero_()
    torch.testing.assert_close(model(batch).sigmoid().sum(1), torch.ones(2))


def test_distillation_loss_is_zero_at_teacher_logits(head: MultiLabelHead) -> None:
    assert head.distillation_loss(LOGITS, LOGITS, BATCH, 2.0) == pytest.approx(0.0, abs=1e-6)
    assert head.distillation_loss(LOGITS + 1.0, LOGITS, BATCH, 2.0) > 0.0
