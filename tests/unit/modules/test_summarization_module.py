"""The sentence head: the right states, losses over real sentences, and which sentences are chosen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from retention.core.duals import ExactDual
from retention.engine.adapters import adapter_for
from retention.errors import ConfigError
from retention.models.encoded import Encoded
from retention.policies import Adaptive, Dense, Random, Truncate
from retention.policies.bases.retention_policy import RetentionPolicy
from retention.policies.key_norm import KeyNorm
from retention.policies.tome import ToMe
from retention.tasks.summarization.extractive_head import (
    ExtractiveSummarizationModule,
    article_mean,
    marker_states,
    mean_states,
    select_sentences,
)
from retention.training.distillation import Distillation
from retention.training.optimization import AdamWSettings
from retention.training.phases import Phases
from retention.training.settings import TrainingSettings
from retention.training.teacher import Teacher

MakeModule = Callable[..., ExtractiveSummarizationModule]


@pytest.fixture
def make(encoder: Any) -> MakeModule:
    def build(
        policy: RetentionPolicy | None = None, dropped: str = "cut", **head: Any
    ) -> ExtractiveSummarizationModule:
        torch.manual_seed(5)
        model = encoder()
        chosen = Adaptive(dual=ExactDual(), rho=0.5, slope=0.5) if policy is None else policy
        chosen.build(adapter_for("bert").shape(model.config))
        torch.manual_seed(6)
        return ExtractiveSummarizationModule(
            encoder=model,
            policy=chosen,
            training=TrainingSettings(AdamWSettings(lr=1e-3), Phases(), Distillation()),
            dropped=dropped,
            config={},
            **{"dropout": 0.0, **head},
        )

    return build


@pytest.fixture
def batch(batch_of: Any) -> dict[str, Any]:
    """Two articles of 14 and 9 tokens, three sentences and two."""
    made: dict[str, Any] = batch_of(14, 9)
    made["markers"] = torch.tensor([[0, 5, 9], [0, 4, 0]])
    made["sentence_mask"] = torch.tensor([[True, True, True], [True, True, False]])
    made["targets"] = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    for row, places in enumerate(([5, 9], [4])):
        made["protected_mask"][row, places] = True
    made["sentences"] = [["one cat", "two dogs", "three birds"], ["four fish", "five cows"]]
    made["abstract"] = ["two dogs", "a cow"]
    widths = [[1, 4, 1, 3, 1, 3, 1], [1, 3, 1, 3, 1, 1, 1, 1, 1, 1]]  # a marker, its sentence, ...; SEP; padding
    made["spans"] = torch.tensor(
        [[sum(row[:n]) for n, width in enumerate(row) for _ in range(width)] for row in widths]
    )
    return made


def test_states_are_found_wherever_the_markers_went() -> None:
    states = torch.arange(2 * 4 * 3.0).reshape(2, 4, 3)
    positions = torch.tensor([[0, 2, 5, 7], [0, 3, 0, 0]])  # the second article has two slots of padding
    weights = torch.tensor([[1.0, 0.0, 1.0, 1.0], [1.0, 1.0, 0.0, 0.0]])
    found = marker_states(Encoded(states, weights, positions), torch.tensor([[0, 5, 7], [0, 3, 0]]), torch.ones(2, 3))
    assert torch.equal(found[0], states[0, [0, 2, 3]])
    assert torch.equal(found[1], states[1, [0, 1, 0]])


def test_sentences_are_means_of_what_is_left_of_them() -> None:
    states = torch.arange(2 * 5 * 2.0).reshape(2, 5, 2)
    positions = torch.tensor([[0, 2, 5, 7, 9], [0, 1, 3, 4, 0]])
    weights = torch.tensor([[1.0, 0.5, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0, 0.0]])
    markers = torch.tensor([[0, 5, 7], [0, 3, 0]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    found = mean_states(Encoded(states, weights, positions), markers, mask)
    torch.testing.assert_close(found[0, 0], (states[0, 0] + 0.5 * states[0, 1]) / 1.5)
    torch.testing.assert_close(found[0, 1:], states[0, 2:4])  # the last token's gate is closed
    torch.testing.assert_close(found[1, :2], torch.stack([states[1, :2].mean(0), states[1, 2:4].mean(0)]))


def test_depth_pooling_lets_the_tokens_of_a_sentence_count_by_how_far_they_came(
    make: MakeModule, batch: dict[str, Any]
) -> None:
    module = make(pooling="depth", dropped="forward").eval()
    encoded = module.encode(batch)
    share = module.retainer.depth_share()
    assert 0.0 < float(share[0, 1:5].min()) < float(share[0, 1:5].max()), "tokens of the first sentence left at once"
    counted = replace(encoded, weights=encoded.weights * share)
    states = mean_states(counted, batch["markers"], batch["sentence_mask"])
    torch.testing.assert_close(module.logits(encoded, batch), module.head(states).squeeze(-1))


@pytest.mark.parametrize("pooling", ["marker", "mean", "depth"])
def test_an_article_is_scored_alike_alone_and_beside_a_longer_one(
    pooling: str, make: MakeModule, batch: dict[str, Any]
) -> None:
    module = make(pooling=pooling, dropped="forward").eval()
    together = module.logits(module.encode(batch), batch)
    alone = {key: value[1:] for key, value in batch.items()}
    for key in ("input_ids", "attention_mask", "protected_mask", "spans"):
        alone[key] = alone[key][:, :9]
    for key in ("markers", "sentence_mask", "targets"):
        alone[key] = alone[key][:, :2]
    torch.testing.assert_close(module.logits(module.encode(alone), alone)[0], together[1, :2], rtol=0, atol=1e-5)


def test_unknown_pooling_is_refused(make: MakeModule) -> None:
    with pytest.raises(ConfigError, match="pooling: must be one of marker, mean, depth, got 'cls'"):
        make(pooling="cls")


@pytest.mark.parametrize("dropped", ["cut", "forward"])
def test_real_removal_reads_the_same_markers(dropped: str, make: MakeModule, batch: dict[str, Any]) -> None:
    module = make(dropped=dropped).eval()
    encoded = module.encode(batch)
    states = marker_states(encoded, batch["markers"], batch["sentence_mask"])
    for row, marks in enumerate(([0, 5, 9], [0, 4])):
        for sentence, mark in enumerate(marks):
            slot = (encoded.positions[row] == mark) & (encoded.weights[row] > 0)
            assert torch.equal(states[row, sentence], encoded.hidden_states[row, slot][0])
    assert module.last_report is not None and (module.last_report.kept[1] < module.last_report.lengths).any()


def test_soft_gates_leave_the_markers_open(make: MakeModule, batch: dict[str, Any]) -> None:
    module = make().train()
    module.policy.phase = "soft"
    encoded = module.encode(batch)
    states = marker_states(encoded, batch["markers"], batch["sentence_mask"])
    rows = torch.arange(2).unsqueeze(1)
    assert torch.equal(states, encoded.hidden_states[rows, batch["markers"]])


def test_losses_count_real_sentences_alone(make: MakeModule, batch: dict[str, Any]) -> None:
    module = make(Dense())
    logits = torch.tensor([[0.5, -1.0, 2.0], [1.0, 0.0, 99.0]])
    signs = torch.tensor([[-1.0, 1.0, -1.0], [1.0, -1.0, 0.0]])
    losses = -F.logsigmoid(signs * logits)
    torch.testing.assert_close(module.task_loss(logits, batch), (losses[0].mean() + losses[1, :2].mean()) / 2)
    changed = logits.clone()
    changed[1, 2] = -99.0
    assert module.distillation_loss(logits, changed, batch) == 0.0
    changed[0, 0] = 1.5
    assert module.distillation_loss(logits, changed, batch) > 0.0
    assert article_mean(torch.ones(1, 2), torch.zeros(1, 2, dtype=torch.bool)) == 0.0


def test_confidence_is_that_of_the_chosen_sentences(make: MakeModule, batch: dict[str, Any]) -> None:
    logits = torch.tensor([[0.5, -1.0, 2.0], [1.0, 0.0, 99.0]])
    expected = F.logsigmoid(torch.tensor([0.5, 2.0, 1.0, 0.0])).sum()
    torch.testing.assert_close(make(Dense(), sentences=2).confidence(logits, batch), expected)
    every = F.logsigmoid(torch.tensor([0.5, -1.0, 2.0, 1.0, 0.0])).sum()
    torch.testing.assert_close(make(Dense(), sentences=9).confidence(logits, batch), every)


def test_scores_of_model_lead_and_oracle(make: MakeModule, batch: dict[str, Any]) -> None:
    module = make(Dense(), sentences=1)
    rows = module.collect(torch.tensor([[0.5, 2.0, 1.0], [1.0, 2.0, 99.0]]), batch)
    assert rows["index"] == [0, 1] and rows["scores"] == [[0.5, 2.0, 1.0], [1.0, 2.0]]
    # chosen: "two dogs" (all of it) and "five cows", which shares one word of two with "a cow"
    assert module.score(rows) == pytest.approx({"rouge1": 0.75, "rouge2": 0.5, "rougeLsum": 0.75})
    baselines = module.baselines(rows)
    assert baselines["lead_rouge1"] == 0.0, "one cat, four fish"
    assert baselines["longest_rouge1"] == baselines["lead_rouge1"], "of equally long ones the first"
    assert baselines["oracle_rouge1"] == pytest.approx(0.5), "two dogs, four fish"
    assert set(baselines) == {f"{who}_{name}" for who in ("lead", "longest", "oracle") for name in module.score(rows)}


@pytest.mark.parametrize(
    ("scores", "most", "chosen"),
    [([0.1, 0.9, 0.5], 2, [1, 2]), ([0.5, 0.5, 0.5], 2, [0, 1]), ([0.1, 0.9, 0.5], 7, [0, 1, 2]), ([], 3, [])],
)
def test_the_best_sentences_in_their_order(scores: list[float], most: int, chosen: list[int]) -> None:
    assert select_sentences(scores, ["some words"] * len(scores), most, trigram_blocking=False) == chosen


def test_trigram_blocking_leaves_out_repetitions() -> None:
    sentences = ["The cats sat down here", "now the cat sat again", "cat sat", "other things are here"]
    scores = [0.9, 0.8, 0.7, 0.6]
    assert select_sentences(scores, sentences, 3, trigram_blocking=False) == [0, 1, 2]
    assert select_sentences(scores, sentences, 3, trigram_blocking=True) == [0, 2, 3]


RANKING: list[Callable[[], RetentionPolicy]] = [
    lambda: Adaptive(dual=ExactDual(), rho=0.6, slope=0.3),
    lambda: Adaptive(dual=ExactDual(), rho=0.6, slope=0.3, ranking_noise=1.0),
    lambda: Random(rho=0.6, slope=0.3),
    lambda: Truncate(rho=0.6, slope=0.3),
    lambda: KeyNorm(rho=0.6, slope=0.3),
]


@pytest.mark.parametrize("policy", RANKING, ids=["adaptive", "exploring", "random", "truncate", "key_norm"])
@pytest.mark.parametrize("training", [False, True])
def test_sentences_stay_whole(
    policy: Callable[[], RetentionPolicy], training: bool, make: MakeModule, batch: dict[str, Any]
) -> None:
    module = make(policy(), spans="sentences").train(training)
    for _ in range(5):
        module.encode(batch)
        report = module.last_report
        assert report is not None and len(report.keep_indices) == 2
        for layer, indices in report.keep_indices.items():
            for row, kept in enumerate(indices.tolist()):
                wanted = int(module.policy.counts[module.policy.layers.index(layer), row])
                assert sum(place >= 0 for place in kept) == max(wanted, int(batch["protected_mask"][row].sum()))
                assert _parts(batch["spans"][row].tolist(), kept) <= 1, "the last sentence that fits in part"


def _parts(spans: list[int], kept: list[int]) -> int:
    """Units that are kept in part; of such a one the first tokens must be kept."""
    cut = 0
    for start in sorted(set(spans)):
        there = [place in kept for place, unit in enumerate(spans) if unit == start]
        assert there == sorted(there, reverse=True)
        cut += any(there) and not all(there)
    return cut


def test_tokens_by_themselves_split_sentences(make: MakeModule, batch: dict[str, Any]) -> None:
    module = make(Random(rho=0.6, slope=0.3)).eval()
    module.encode(batch)
    assert module.last_report is not None
    kept = module.last_report.keep_indices[1].tolist()[0]
    there = [place in kept for place in range(14)]
    assert any(0 < sum(there[start:end]) < end - start for start, end in ((1, 5), (6, 9)))


def test_soft_gates_are_drawn_once_per_sentence(make: MakeModule, batch: dict[str, Any]) -> None:
    module = make(Adaptive(dual=ExactDual(), rho=0.6, slope=0.0), spans="sentences").train()
    module.policy.phase = "soft"
    differ = 0
    for _ in range(20):
        weights = module.encode(batch).weights
        sentences = [weights[row, start:end].tolist() for row, start, end in ((0, 1, 5), (0, 6, 9), (1, 1, 4))]
        assert all(len(set(gates)) == 1 for gates in sentences)
        differ += sentences[0][0] != sentences[1][0]
    assert differ > 0, "each sentence has a draw of its own"
    loss = module.task_loss(module(batch), batch)
    loss.backward()
    assert all(value.grad is not None for value in module.policy.scorers.parameters())  # type: ignore[union-attr]


def test_merging_cannot_keep_sentences_whole(make: MakeModule) -> None:
    with pytest.raises(ConfigError, match=r"task\.head\.spans: sentences need a policy that ranks, tome does not"):
        make(ToMe(rho=0.5), spans="sentences")


def test_bad_settings() -> None:
    with pytest.raises(ConfigError) as raised:
        ExtractiveSummarizationModule.check_settings(sentences=0, spans="words", dropout=1.0)
    assert [problem.key for problem in raised.value.problems] == ["sentences", "spans", "dropout"]


def test_a_teacher_does_not_remember_logits_that_depend_on_the_batch(make: MakeModule, batch: dict[str, Any]) -> None:
    teacher = Teacher(make(Dense()))
    both = teacher.answer(batch).logits
    second = {key: values[1:] for key, values in batch.items()}
    for key in ("markers", "sentence_mask", "targets"):
        second[key] = second[key][:, :2]
    alone = teacher.answer(second).logits
    assert alone.shape == (1, 2)
    torch.testing.assert_close(alone[0], both[1, :2])
    assert teacher.answer(batch).logits.shape == (2, 3)
