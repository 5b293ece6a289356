"""The sentence head: the right states, losses over real sentences, and which sentences are chosen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from retention.core.dual import ExactDual
from retention.engine.adapters import adapter_for
from retention.errors import ConfigError
from retention.modules import ExtractiveSummarizationModule, TrainingSettings
from retention.modules.base import Encoded
from retention.modules.distillation import Distillation
from retention.modules.optimization import AdamWSettings
from retention.modules.phases import Phases
from retention.modules.summarization import article_mean, marker_states, select_sentences
from retention.modules.teacher import Teacher
from retention.policies import Adaptive, Dense
from retention.policies.base import RetentionPolicy

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
    return made


def test_states_are_found_wherever_the_markers_went() -> None:
    states = torch.arange(2 * 4 * 3.0).reshape(2, 4, 3)
    positions = torch.tensor([[0, 2, 5, 7], [0, 3, 0, 0]])  # the second article has two slots of padding
    weights = torch.tensor([[1.0, 0.0, 1.0, 1.0], [1.0, 1.0, 0.0, 0.0]])
    found = marker_states(Encoded(states, weights, positions), torch.tensor([[0, 5, 7], [0, 3, 0]]))
    assert torch.equal(found[0], states[0, [0, 2, 3]])
    assert torch.equal(found[1], states[1, [0, 1, 0]])


@pytest.mark.parametrize("dropped", ["cut", "forward"])
def test_real_removal_reads_the_same_markers(dropped: str, make: MakeModule, batch: dict[str, Any]) -> None:
    module = make(dropped=dropped).eval()
    encoded = module.encode(batch)
    states = marker_states(encoded, batch["markers"])
    for row, marks in enumerate(([0, 5, 9], [0, 4])):
        for sentence, mark in enumerate(marks):
            slot = (encoded.positions[row] == mark) & (encoded.weights[row] > 0)
            assert torch.equal(states[row, sentence], encoded.hidden_states[row, slot][0])
    assert module.last_report is not None and (module.last_report.kept[1] < module.last_report.lengths).any()


def test_soft_gates_leave_the_markers_open(make: MakeModule, batch: dict[str, Any]) -> None:
    module = make().train()
    module.policy.phase = "soft"
    encoded = module.encode(batch)
    states = marker_states(encoded, batch["markers"])
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
    torch.testing.assert_close(make(Dense(), sentences=2).answer_score(logits, batch), expected)
    every = F.logsigmoid(torch.tensor([0.5, -1.0, 2.0, 1.0, 0.0])).sum()
    torch.testing.assert_close(make(Dense(), sentences=9).answer_score(logits, batch), every)


def test_scores_of_model_lead_and_oracle(make: MakeModule, batch: dict[str, Any]) -> None:
    module = make(Dense(), sentences=1)
    rows = module.collect(torch.tensor([[0.5, 2.0, 1.0], [1.0, 2.0, 99.0]]), batch)
    assert rows["index"] == [0, 1] and rows["scores"] == [[0.5, 2.0, 1.0], [1.0, 2.0]]
    # chosen: "two dogs" (all of it) and "five cows", which shares one word of two with "a cow"
    assert module.score(rows) == pytest.approx({"rouge1": 0.75, "rouge2": 0.5, "rougeLsum": 0.75})
    baselines = module.baselines(rows)
    assert baselines["lead_rouge1"] == 0.0, "one cat, four fish"
    assert baselines["oracle_rouge1"] == pytest.approx(0.5), "two dogs, four fish"
    assert set(baselines) == {f"{who}_{name}" for who in ("lead", "oracle") for name in module.score(rows)}


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


def test_bad_settings() -> None:
    with pytest.raises(ConfigError) as raised:
        ExtractiveSummarizationModule.check_settings(sentences=0, dropout=1.0)
    assert [problem.key for problem in raised.value.problems] == ["sentences", "dropout"]


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
