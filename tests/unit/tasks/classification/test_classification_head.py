"""Tests of the classification head: pooling, protected tokens, and accuracy."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest
import torch

from retention.errors import ConfigError
from retention.models.encoded import Encoded
from retention.models.retention_model import RetentionModel
from retention.policies import Dense, Truncate
from retention.tasks.classification.head import ClassificationHead
from retention.tasks.classification.metrics import Accuracy

MakeModel = Callable[..., RetentionModel]


@pytest.fixture
def make_head(tiny_bert: Any) -> Callable[..., ClassificationHead]:
    """``make_head(**settings)``: a head of two classes in evaluation mode, drawn from a fixed seed."""

    def build(**settings: Any) -> ClassificationHead:
        torch.manual_seed(6)
        return ClassificationHead(encoder=tiny_bert(), num_labels=2, **settings).eval()

    return build


@pytest.fixture
def encoded() -> Encoded:
    """One sequence of three tokens, the last gate half open, and one of two with padding of large values."""
    states = torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(1))
    states[1, 2] = 1e6
    weights = torch.tensor([[1.0, 1.0, 0.5], [1.0, 0.25, 0.0]])
    return Encoded(states, weights, torch.arange(3).expand(2, 3))


def test_mean_pooling_weights_by_gates_and_ignores_padding(make_head: Any, encoded: Encoded) -> None:
    head, states = make_head(pooling="mean"), encoded.hidden_states
    first = (states[0, 0] + states[0, 1] + 0.5 * states[0, 2]) / 2.5
    second = (states[1, 0] + 0.25 * states[1, 1]) / 1.25
    torch.testing.assert_close(head.logits(encoded, {}), head.output(torch.stack([first, second])))


def test_cls_pooling_reads_first_token(make_head: Any, encoded: Encoded) -> None:
    head = make_head(pooling="cls")
    torch.testing.assert_close(head.logits(encoded, {}), head.output(encoded.hidden_states[:, 0]))


def test_attention_pooling_starts_as_mean(make_head: Any, encoded: Encoded) -> None:
    attention, mean = make_head(pooling="attention"), make_head(pooling="mean")
    torch.testing.assert_close(attention.pooled(encoded), mean.pooled(encoded))


def test_attention_pooling_weights_by_scores_and_gates(make_head: Any, encoded: Encoded) -> None:
    head = make_head(pooling="attention")
    with torch.no_grad():
        head.token_scorer.weight.normal_(generator=torch.Generator().manual_seed(3))
        scores = head.token_scorer(encoded.hidden_states[:, :2]).squeeze(-1)
    first, second = encoded.hidden_states[1, :2]
    a, b = scores[1, 0].exp(), 0.25 * scores[1, 1].exp()
    torch.testing.assert_close(head.pooled(encoded)[1], (a * first + b * second) / (a + b))


@pytest.mark.parametrize("dropped", ["cut", "forward"])
def test_depth_pooling_weights_by_depth_ratio(dropped: str, make_model: MakeModel, make_batch: Any) -> None:
    policy = Truncate(rho=0.5, schedule=[0.6, 0.4], layers=[0, 1])
    model, batch = make_model(policy, pooling="depth", dropped=dropped).eval(), make_batch(10, 5)
    encoded = model.encode(batch)
    pooled = model.head.pooled(encoded)
    # of ten the protected first and last and the next four pass gate 0, and two less gate 1; of five 3 and 2
    passed = torch.tensor([[2.0, 2, 2, 1, 1, 0, 0, 0, 0, 2], [2, 1, 0, 0, 2, 0, 0, 0, 0, 0]])
    weights = ((1 + passed) / 3 * batch["attention_mask"]).gather(1, encoded.positions) * encoded.weights
    expected = (weights.unsqueeze(-1) * encoded.hidden_states).sum(1) / weights.sum(1, keepdim=True)
    torch.testing.assert_close(pooled, expected)


def test_depth_pooling_without_pruning_is_mean(make_model: MakeModel, make_batch: Any) -> None:
    batch = make_batch(10, 6)
    for policy, phase in ((Dense(), "hard"), (None, "warmup")):
        pooled = []
        for pooling in ("depth", "mean"):
            model = make_model(policy, pooling=pooling, dropped="forward").train()
            model.policy.phase = phase
            pooled.append(model.head.pooled(model.encode(batch)))
        torch.testing.assert_close(*pooled)


@pytest.mark.parametrize("dropped", ["cut", "forward"])
def test_special_tokens_compete_if_nothing_is_protected(dropped: str, make_model: MakeModel, make_batch: Any) -> None:
    policy = Truncate(rho=0.5, schedule=[0.6, 0.4], layers=[0, 1])
    batch = make_batch(10, 5)
    model = make_model(policy, pooling="mean", protect="nothing", dropped=dropped).eval()
    model.encode(batch)
    report = model.retainer.report
    assert [report.kept[layer].tolist() for layer in (0, 1)] == [[6, 3], [4, 2]]
    passed = report.depth((0, 1), 10)[0].tolist()
    assert passed == [2, 2, 2, 2, 1, 1, 0, 0, 0, 0], "the last token is special, and removed like any other"
    protecting = make_model(policy, pooling="mean", dropped=dropped).eval()
    protecting.encode(batch)
    assert int(protecting.retainer.report.depth((0, 1), 10)[0, -1]) == 2


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"pooling": "max"}, "pooling"),
        ({"dropout": 1.0}, "dropout"),
        ({"protect": "all"}, "protect"),
        ({"pooling": "cls", "protect": "nothing"}, "protect"),
    ],
)
def test_invalid_setting_raises(settings: dict[str, Any], key: str, make_head: Any) -> None:
    for check in (ClassificationHead.check_settings, make_head):
        with pytest.raises(ConfigError) as caught:
            check(**settings)
        assert [problem.key for problem in caught.value.problems] == [key]


def test_evaluation_rows_and_scores(make_head: Any, encoded: Encoded) -> None:
    head = make_head()
    logits, batch = (
        torch.tensor([[0.0, 2.0], [1.0, 0.0]]),
        {"labels": torch.tensor([1, 1]), "index": torch.tensor([3, 7])},
    )
    rows = head.eval_rows(logits, encoded, batch)
    assert head.predictions(logits).tolist() == [1, 0]
    assert head.compute_metrics(rows)["accuracy"] == 0.5
    predictions = head.prediction_rows(rows)
    assert [(row["index"], row["prediction"], row["label"], row["score"]) for row in predictions] == [
        (3, 1, 1, 1.0),
        (7, 0, 1, 0.0),
    ]
    assert predictions[0]["probabilities"] == [0.119203, 0.880797]


@pytest.mark.parametrize(
    ("predictions", "references", "expected"),
    [([1, 0, 2], [1, 1, 2], 2 / 3), ([0], [0], 1.0), ([3, 3], [0, 1], 0.0)],
)
def test_accuracy_by_hand_and_without_network(
    predictions: list[int], references: list[int], expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a metric must not use the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert Accuracy().compute(predictions=predictions, references=references) == {"accuracy": pytest.approx(expected)}
