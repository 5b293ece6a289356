"""Tests of the sentence head: the states it reads, losses over real sentences, and chosen sentences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from retention.core.duals import ExactDual
from retention.errors import ConfigError
from retention.models.encoded import Encoded
from retention.models.retention_model import RetentionModel
from retention.policies import Adaptive, Dense, Random, Truncate
from retention.policies.bases.retention_policy import RetentionPolicy
from retention.policies.key_norm import KeyNorm
from retention.policies.tome import ToMe
from retention.tasks.summarization.extractive_head import (
    ExtractiveSummarizationHead,
    article_mean,
    marker_states,
    mean_states,
    select_sentences,
)
from retention.training.teacher import Teacher

Make = Callable[..., RetentionModel]
TOKEN_KEYS = ("input_ids", "attention_mask", "protected_mask", "spans")
SENTENCE_KEYS = ("markers", "sentence_mask", "targets")


@pytest.fixture
def make(make_model: Any) -> Make:
    """``make(policy, ...)``: a model that scores sentences, drawn from fixed seeds."""

    def build(policy: RetentionPolicy | None = None, dropped: str = "cut", **settings: Any) -> RetentionModel:
        model: RetentionModel = make_model(
            policy, ExtractiveSummarizationHead, dropped=dropped, **{"dropout": 0.0, **settings}
        )
        return model

    return build


@pytest.fixture
def batch(make_batch: Any) -> dict[str, Any]:
    """Two articles of 14 and 9 tokens, three sentences and two."""
    made: dict[str, Any] = make_batch(14, 9)
    made["markers"] = torch.tensor([[0, 5, 9], [0, 4, 0]])
    made["sentence_mask"] = torch.tensor([[True, True, True], [True, True, False]])
    made["targets"] = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    for row, markers in enumerate(([5, 9], [4])):
        made["protected_mask"][row, markers] = True
    made["sentences"] = [["one cat", "two dogs", "three birds"], ["four fish", "five cows"]]
    made["abstract"] = ["two dogs", "a cow"]
    widths = [[1, 4, 1, 3, 1, 3, 1], [1, 3, 1, 3, 1, 1, 1, 1, 1, 1]]  # a marker, its sentence, ...; SEP; padding
    made["spans"] = torch.tensor(
        [[sum(row[:n]) for n, width in enumerate(row) for _ in range(width)] for row in widths]
    )
    return made


def test_marker_states_follow_compacted_positions() -> None:
    states = torch.arange(2 * 4 * 3.0).reshape(2, 4, 3)
    positions = torch.tensor([[0, 2, 5, 7], [0, 3, 0, 0]])  # the second article has two columns of padding
    weights = torch.tensor([[1.0, 0.0, 1.0, 1.0], [1.0, 1.0, 0.0, 0.0]])
    encoded, markers = Encoded(states, weights, positions), torch.tensor([[0, 5, 7], [0, 3, 0]])
    pooled = marker_states(encoded, markers, torch.ones(2, 3))
    assert torch.equal(pooled[0], states[0, [0, 2, 3]])
    assert torch.equal(pooled[1], states[1, [0, 1, 0]])


def test_mean_states_are_means_of_kept_tokens() -> None:
    states = torch.arange(2 * 5 * 2.0).reshape(2, 5, 2)
    positions = torch.tensor([[0, 2, 5, 7, 9], [0, 1, 3, 4, 0]])
    weights = torch.tensor([[1.0, 0.5, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0, 0.0]])
    markers = torch.tensor([[0, 5, 7], [0, 3, 0]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    pooled = mean_states(Encoded(states, weights, positions), markers, mask)
    torch.testing.assert_close(pooled[0, 0], (states[0, 0] + 0.5 * states[0, 1]) / 1.5)
    torch.testing.assert_close(pooled[0, 1:], states[0, 2:4])  # the last token's gate is closed
    torch.testing.assert_close(pooled[1, :2], torch.stack([states[1, :2].mean(0), states[1, 2:4].mean(0)]))


def test_depth_pooling_weights_by_depth_ratio(make: Make, batch: dict[str, Any]) -> None:
    model = make(pooling="depth", dropped="forward").eval()
    encoded = model.encode(batch)
    ratio = encoded.depth_ratio()
    assert 0.0 < float(ratio[0, 1:5].min()) < float(ratio[0, 1:5].max()), "the first sentence left in parts"
    weighted = replace(encoded, weights=encoded.weights * ratio)
    states = mean_states(weighted, batch["markers"], batch["sentence_mask"])
    head: Any = model.head
    torch.testing.assert_close(head.logits(encoded, batch), head.output(states).squeeze(-1))


def second_article(batch: dict[str, Any]) -> dict[str, Any]:
    """Return the second article as a batch of its own, without padding."""
    alone = {key: value[1:] for key, value in batch.items()}
    for key in TOKEN_KEYS:
        alone[key] = alone[key][:, :9]
    for key in SENTENCE_KEYS:
        alone[key] = alone[key][:, :2]
    return alone


@pytest.mark.parametrize("pooling", ["marker", "mean", "depth"])
def test_scores_do_not_depend_on_batch(pooling: str, make: Make, batch: dict[str, Any]) -> None:
    model = make(pooling=pooling, dropped="forward").eval()
    together, alone = model(batch), model(second_article(batch))
    torch.testing.assert_close(alone[0], together[1, :2], rtol=0, atol=1e-5)


@pytest.mark.parametrize("dropped", ["cut", "forward"])
def test_hard_pruning_keeps_markers(dropped: str, make: Make, batch: dict[str, Any]) -> None:
    model = make(dropped=dropped).eval()
    encoded = model.encode(batch)
    states = marker_states(encoded, batch["markers"], batch["sentence_mask"])
    for row, markers in enumerate(([0, 5, 9], [0, 4])):
        for sentence, marker in enumerate(markers):
            column = (encoded.positions[row] == marker) & (encoded.weights[row] > 0)
            assert torch.equal(states[row, sentence], encoded.hidden_states[row, column][0])
    assert model.last_report is not None and (model.last_report.kept[1] < model.last_report.lengths).any()


def test_soft_gates_of_markers_are_open(make: Make, batch: dict[str, Any]) -> None:
    model = make().train()
    model.policy.phase = "soft"
    encoded = model.encode(batch)
    states = marker_states(encoded, batch["markers"], batch["sentence_mask"])
    rows = torch.arange(2).unsqueeze(1)
    assert torch.equal(states, encoded.hidden_states[rows, batch["markers"]])


def test_losses_ignore_padding(make: Make, batch: dict[str, Any]) -> None:
    head = make(Dense()).head
    logits = torch.tensor([[0.5, -1.0, 2.0], [1.0, 0.0, 99.0]])
    signs = torch.tensor([[-1.0, 1.0, -1.0], [1.0, -1.0, 0.0]])
    losses = -F.logsigmoid(signs * logits)
    torch.testing.assert_close(head.task_loss(logits, batch), (losses[0].mean() + losses[1, :2].mean()) / 2)
    changed = logits.clone()
    changed[1, 2] = -99.0
    assert head.distillation_loss(logits, changed, batch, 2.0) == 0.0
    changed[0, 0] = 1.5
    assert head.distillation_loss(logits, changed, batch, 2.0) > 0.0
    assert article_mean(torch.ones(1, 2), torch.zeros(1, 2, dtype=torch.bool)) == 0.0


def test_confidence_is_that_of_chosen_sentences(make: Make, batch: dict[str, Any]) -> None:
    logits = torch.tensor([[0.5, -1.0, 2.0], [1.0, 0.0, 99.0]])
    expected = F.logsigmoid(torch.tensor([0.5, 2.0, 1.0, 0.0])).sum()
    torch.testing.assert_close(make(Dense(), sentences=2).head.confidence(logits, batch), expected)
    expected = F.logsigmoid(torch.tensor([0.5, -1.0, 2.0, 1.0, 0.0])).sum()
    torch.testing.assert_close(make(Dense(), sentences=9).head.confidence(logits, batch), expected)


def test_metrics_of_model_lead_longest_and_oracle(make: Make, batch: dict[str, Any]) -> None:
    model = make(Dense(), sentences=1).eval()
    head, logits = model.head, torch.tensor([[0.5, 2.0, 1.0], [1.0, 2.0, 99.0]])
    rows = head.eval_rows(logits, model.encode(batch), batch)
    assert rows["index"] == [0, 1] and rows["scores"] == [[0.5, 2.0, 1.0], [1.0, 2.0]]
    # chosen: "two dogs" (all of it) and "five cows", which shares one word of two with "a cow"
    metrics = head.compute_metrics(rows)
    assert metrics == pytest.approx({"rouge1": 0.75, "rouge2": 0.5, "rougeLsum": 0.75})
    baselines = head.constant_baselines(rows)
    assert baselines["lead_rouge1"] == 0.0, "one cat, four fish"
    assert baselines["longest_rouge1"] == baselines["lead_rouge1"], "of equally long ones the first"
    assert baselines["oracle_rouge1"] == pytest.approx(0.5), "two dogs, four fish"
    assert set(baselines) == {f"{name}_{metric}" for name in ("lead", "longest", "oracle") for metric in metrics}
    predictions = head.prediction_rows(rows)
    assert [(row["chosen"], row["oracle"]) for row in predictions] == [([1], [1]), ([1], [0])]
    assert [row["score"] for row in predictions] == pytest.approx([1.0, 0.5])


@pytest.mark.parametrize(
    ("scores", "count", "chosen"),
    [([0.1, 0.9, 0.5], 2, [1, 2]), ([0.5, 0.5, 0.5], 2, [0, 1]), ([0.1, 0.9, 0.5], 7, [0, 1, 2]), ([], 3, [])],
)
def test_selected_sentences_are_best_in_order(scores: list[float], count: int, chosen: list[int]) -> None:
    assert select_sentences(scores, ["some words"] * len(scores), count, trigram_blocking=False) == chosen


def test_trigram_blocking_skips_repetitions() -> None:
    sentences = ["The cats sat down here", "now the cat sat again", "cat sat", "other things are here"]
    scores = [0.9, 0.8, 0.7, 0.6]
    assert select_sentences(scores, sentences, 3, trigram_blocking=False) == [0, 1, 2]
    assert select_sentences(scores, sentences, 3, trigram_blocking=True) == [0, 2, 3]


RANKING: dict[str, Callable[[], RetentionPolicy]] = {
    "adaptive": lambda: Adaptive(dual=ExactDual(), rho=0.6, slope=0.3),
    "ranking_noise": lambda: Adaptive(dual=ExactDual(), rho=0.6, slope=0.3, ranking_noise=1.0),
    "random": lambda: Random(rho=0.6, slope=0.3),
    "truncate": lambda: Truncate(rho=0.6, slope=0.3),
    "key_norm": lambda: KeyNorm(rho=0.6, slope=0.3),
}


@pytest.mark.parametrize("policy", RANKING.values(), ids=RANKING)
@pytest.mark.parametrize("training", [False, True])
def test_sentences_are_kept_or_pruned_as_a_whole(
    policy: Callable[[], RetentionPolicy], training: bool, make: Make, batch: dict[str, Any]
) -> None:
    model = make(policy(), spans="sentences").train(training)
    for _ in range(5):
        model.encode(batch)
        report = model.last_report
        assert report is not None and len(report.keep_indices) == 2
        for layer, indices in report.keep_indices.items():
            for row, kept in enumerate(indices.tolist()):
                budget = int(model.policy.counts[model.policy.layers.index(layer), row])
                count = sum(position >= 0 for position in kept)
                assert count == max(budget, int(batch["protected_mask"][row].sum()))
                partial = partly_kept_spans(batch["spans"][row].tolist(), kept)
                assert partial <= 1, "only the last sentence that fits may be cut"


def partly_kept_spans(spans: list[int], kept: list[int]) -> int:
    """Count the spans that are partly kept; of such a span the first tokens must be kept."""
    partial = 0
    for start in sorted(set(spans)):
        is_kept = [position in kept for position, span in enumerate(spans) if span == start]
        assert is_kept == sorted(is_kept, reverse=True)
        partial += any(is_kept) and not all(is_kept)
    return partial


def test_pruning_tokens_splits_sentences(make: Make, batch: dict[str, Any]) -> None:
    model = make(Random(rho=0.6, slope=0.3)).eval()
    model.encode(batch)
    assert model.last_report is not None
    kept = model.last_report.keep_indices[1].tolist()[0]
    is_kept = [position in kept for position in range(14)]
    assert any(0 < sum(is_kept[start:end]) < end - start for start, end in ((1, 5), (6, 9)))


def test_soft_gates_are_drawn_once_per_sentence(make: Make, batch: dict[str, Any]) -> None:
    model = make(Adaptive(dual=ExactDual(), rho=0.6, slope=0.0), spans="sentences").train()
    model.policy.phase = "soft"
    different = 0
    for _ in range(20):
        weights = model.encode(batch).weights
        sentences = [weights[row, start:end].tolist() for row, start, end in ((0, 1, 5), (0, 6, 9), (1, 1, 4))]
        assert all(len(set(gates)) == 1 for gates in sentences)
        different += sentences[0][0] != sentences[1][0]
    assert different > 0, "each sentence has a draw of its own"
    loss = model.head.task_loss(model(batch), batch)
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(value.grad is not None for value in model.policy.scorers.parameters())  # type: ignore[union-attr]


def test_policy_that_does_not_rank_cannot_prune_sentences(make: Make) -> None:
    with pytest.raises(ConfigError, match=r"task\.head\.spans: .*tome"):
        make(ToMe(rho=0.5), spans="sentences")


@pytest.mark.parametrize(("key", "value"), [("sentences", 0), ("spans", "words"), ("dropout", 1.0), ("pooling", "cls")])
def test_invalid_setting_raises(key: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        ExtractiveSummarizationHead.check_settings(**{key: value})
    assert [problem.key for problem in caught.value.problems] == [key]


def test_teacher_keeps_the_scores_of_each_article(make: Make, batch: dict[str, Any], tmp_path: Path) -> None:
    model, file = make(Dense()), tmp_path / "outputs.pt"
    widths: list[int] = []
    model.encoder.register_forward_hook(lambda module, args, output: widths.append(output[0].shape[1]))
    teacher = Teacher(model, file)
    both = teacher.output(batch).logits
    teacher.save()
    for again in (teacher, Teacher(model, file)):
        alone = again.output(second_article(batch)).logits
        assert alone.shape == (1, 2)
        assert torch.equal(alone[0], both[1, :2])
        assert torch.equal(again.output(batch).logits[batch["sentence_mask"]], both[batch["sentence_mask"]])
    assert widths == [14]
