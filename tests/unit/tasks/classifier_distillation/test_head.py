"""Tests of the head of a pretrained classifier: how each kind of classifier is read."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from retention.tasks.classifier_distillation.head import PretrainedClassifierHead


def head(**settings: Any) -> PretrainedClassifierHead:
    """Return the head of a small classifier with random weights."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return PretrainedClassifierHead(
        encoder=BertForSequenceClassification(BertConfig(vocab_size=30, **sizes, **settings))
    )


def test_one_class_of_several() -> None:
    classifier = head(num_labels=3, id2label={0: "a", 1: "b", 2: "c"}, label2id={"a": 0, "b": 1, "c": 2})
    logits = torch.tensor([[0.0, 2.0, 1.0]])
    assert classifier.label_names == ("a", "b", "c")
    assert not classifier.gives_score
    assert classifier.predicted_classes(logits).tolist() == [[False, True, False]]
    assert classifier.probabilities(logits).sum() == pytest.approx(1.0)
    assert classifier.confidence(logits, {}) == pytest.approx(float(logits.log_softmax(-1).max()))
    assert classifier.distillation_loss(logits, logits, {}, 2.0) == pytest.approx(0.0, abs=1e-6)
    assert classifier.distillation_loss(logits, -logits, {}, 2.0) > 0.1


def test_independent_labels() -> None:
    classifier = head(num_labels=3, problem_type="multi_label_classification")
    logits = torch.tensor([[-1.0, 2.0, 1.0]])
    assert classifier.predicted_classes(logits).tolist() == [[False, True, True]]
    assert classifier.probabilities(logits).tolist() == [pytest.approx(logits.sigmoid()[0].tolist())]
    certain = torch.tensor([[1.0, 2.0, 1.0]]).sigmoid().log().sum()
    assert classifier.confidence(logits, {}) == pytest.approx(float(certain))
    rows = {"index": [0], "logits": logits.tolist(), "target": [[1.0, 1.0, 1.0]]}
    assert classifier.compute_metrics(rows)["agreement"] == pytest.approx(2 / 3)


def test_single_score() -> None:
    classifier = head(num_labels=1)
    logits, target = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [2.0]])
    assert classifier.gives_score
    assert classifier.distillation_loss(logits, target, {}, 2.0) == pytest.approx(2.0)
    assert classifier.confidence(logits, {}) == pytest.approx(3.0)
    rows = {"index": [0, 1], "logits": logits.tolist(), "target": target.tolist()}
    assert classifier.compute_metrics(rows) == {"agreement": 0.0, "root_mean_square_error": pytest.approx(2**0.5)}
    assert [row["score"] for row in classifier.prediction_rows(rows)] == [0.0, 0.0]
