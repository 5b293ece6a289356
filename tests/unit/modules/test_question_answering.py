"""The head for answers: its loss, its spans, and what it says of tokens that left early."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from retention.engine.adapters import adapter_for
from retention.engine.report import ForwardReport
from retention.errors import ConfigError
from retention.policies import Dense, Truncate
from retention.policies.bases.retention_policy import RetentionPolicy
from retention.tasks.question_answering.head import QuestionAnsweringModule
from retention.tasks.question_answering.span_search import best_spans, held_spans, span_means
from retention.training.distillation import Distillation
from retention.training.optimization import AdamWSettings
from retention.training.phases import Phases
from retention.training.settings import TrainingSettings

Batch = dict[str, Tensor]
ModuleOf = Callable[..., QuestionAnsweringModule]


@pytest.fixture
def head_of(encoder: Any) -> ModuleOf:
    """``head_of(policy, ...)``: a module around the tiny encoder, drawn from a fixed seed."""

    def make(
        policy: RetentionPolicy | None = None, *, dropped: str = "forward", **head: Any
    ) -> QuestionAnsweringModule:
        torch.manual_seed(5)
        chosen = Dense() if policy is None else policy
        model = encoder()
        module_args = {"num_types": 4, "judge": lambda stage, rows: {stage: float(len(rows["index"]))}, "dropout": 0.0}
        chosen.build(adapter_for("bert").shape(model.config))
        training = TrainingSettings(AdamWSettings(lr=1e-3), Phases(), Distillation())
        return QuestionAnsweringModule(
            **{**module_args, **head}, encoder=model, policy=chosen, training=training, dropped=dropped, config={}
        )

    return make


@pytest.fixture
def questions(batch_of: Any) -> Batch:
    """Two rows of 10 and 7 tokens; four come before the text, one after it."""
    batch: Batch = batch_of(10, 7)
    batch["context"] = torch.tensor([[4, 9], [4, 6]])
    batch["spans"] = torch.tensor([[[5, 6], [8, 8]], [[-1, -1], [-1, -1]]])
    batch["labels"] = torch.tensor([0, 3])
    batch["shift"] = torch.tensor([10, 0])
    batch["question"] = torch.tensor([[0, 0], [1, 0]])
    return batch


def test_spans_against_trying_all() -> None:
    generator = torch.Generator().manual_seed(3)
    starts, ends = torch.randn(2, 3, 7, generator=generator)
    places, scores = best_spans(starts, ends, 7, 3)
    for row in range(3):
        every = {(a, b): float(starts[row, a] + ends[row, b]) for a in range(7) for b in range(a, min(a + 3, 7))}
        ranked = sorted(every, key=lambda place: -every[place])[:7]
        assert [tuple(place) for place in places[row].tolist()] == ranked
        assert scores[row].tolist() == pytest.approx([every[place] for place in ranked])


def test_more_spans_than_there_are() -> None:
    places, scores = best_spans(torch.zeros(1, 2), torch.tensor([[0.0, 1.0]]), 9, 5)
    assert places[0, :2].tolist() in ([[0, 1], [1, 1]], [[1, 1], [0, 1]])
    assert scores[0].tolist()[:3] == [1.0, 1.0, 0.0] and scores[0, 3] == -torch.inf


def test_held_spans_by_hand() -> None:
    spans = torch.tensor([[[0, 1], [1, 3], [3, 3], [-1, -1]]])
    assert held_spans(spans, torch.tensor([[True, True, False, True]])).tolist() == [[True, False, True, False]]


def test_span_means_by_hand() -> None:
    spans = torch.tensor([[[0, 1], [1, 2], [3, 3], [-1, -1]]])
    assert span_means(spans, torch.tensor([[1.0, 0.5, 0.0, 0.25]])).tolist() == [[0.75, 0.25, 0.25, 0.0]]


def test_only_the_text_can_be_chosen(head_of: ModuleOf, questions: Batch) -> None:
    rows = head_of().eval().collect(head_of().eval()(questions), questions)
    for spans, (first, behind), shift in zip(rows["spans"], [(4, 9), (4, 6)], [10, 0], strict=True):
        assert spans and all(first + shift <= a <= b < behind + shift for a, b, _ in spans)
    total = sum(torch.tensor([score for *_, score in rows["spans"][1]]).exp())
    assert float(total) <= 1.0 + 1e-5


def test_the_loss_by_hand(head_of: ModuleOf, questions: Batch) -> None:
    module = head_of()
    logits = torch.zeros(2, 10, 6)
    logits[..., -2:] = -1e4
    logits[0, 4:9, -2:] = logits[1, 4:6, -2:] = 0.0
    # types: log 4 each; span: two of 5 x 5 equally likely places
    expected = torch.log(torch.tensor(4.0)) - 0.5 * torch.log(torch.tensor(2 / 25))
    torch.testing.assert_close(module.task_loss(logits, questions), expected)
    questions["labels"] = torch.tensor([-100, -100])
    questions["spans"] = torch.full((2, 1, 2), -1)
    assert module.task_loss(logits, questions).item() == 0.0, "nothing known, nothing learned"


def test_distillation_compares_the_places_that_both_have(head_of: ModuleOf, questions: Batch) -> None:
    module = head_of().eval()
    teacher = module(questions).detach()
    assert module.distillation_loss(teacher, teacher, questions).item() == pytest.approx(0.0, abs=1e-6)
    student = teacher.clone()
    student[0, 5, -2] += 1.0
    assert module.distillation_loss(student, teacher, questions).item() > 0
    student = teacher.clone()
    student[:, :, -2:] = -1e4  # nothing in common
    assert module.distillation_loss(student, teacher, questions).item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("dropped", ["forward", "cut"])
def test_what_becomes_of_dropped_tokens(head_of: ModuleOf, questions: Batch, dropped: str) -> None:
    module = head_of(Truncate(rho=0.6, schedule="flat"), dropped=dropped).eval()
    logits = module(questions)
    assert module.last_report is not None
    kept = module.last_report.survived(10)
    assert kept.tolist()[0] == [True] * 5 + [False] * 4 + [True]
    open_places = logits[0, :, -2] > -5e3
    last = 9 if dropped == "forward" else 5
    assert open_places.tolist() == [4 <= place < last for place in range(10)]
    rows = module.collect(logits, questions)
    assert (rows["gold"], rows["survived"]) == ([2, 0], [0, 0])
    passed = [float(kept[0, first : last + 1].float().mean()) for first, last in questions["spans"][0].tolist()]
    assert rows["passed"] == pytest.approx([sum(passed), 0.0]), "every gate keeps the same of a flat schedule"
    assert torch.isfinite(module.task_loss(logits, questions))
    if dropped == "forward":
        with torch.no_grad():
            module.left_early.fill_(-3.0)
        moved = module(questions) - logits
        torch.testing.assert_close(moved[0, 4:9, -2], torch.tensor([0.0, -3.0, -3.0, -3.0, -3.0]))


def test_a_dense_model_keeps_every_gold_span(head_of: ModuleOf, questions: Batch) -> None:
    module = head_of().eval()
    rows = module.collect(module(questions), questions)
    assert rows["survived"] == rows["passed"] == rows["gold"] == [2, 0]


def test_metrics_are_the_judges_and_the_survival(head_of: ModuleOf, trainer_with: Any, questions: Batch) -> None:
    module = head_of()
    found = trainer_with().test(module, DataLoader([questions], batch_size=None), verbose=False)[0]  # type: ignore[arg-type]
    assert (found["test/test"], found["test/span_survival"], found["test/span_kept_share"]) == (2.0, 1.0, 1.0)


def test_rows_without_text_and_all_heads_learn(head_of: ModuleOf, questions: Batch) -> None:
    questions["context"] = torch.tensor([[4, 4], [4, 6]])
    questions["spans"] = torch.tensor([[[-1, -1]], [[4, 5]]])
    module = head_of().train()
    logits = module(questions)
    assert module.collect(logits, questions)["spans"][0] == []
    module.task_loss(logits, questions).backward()  # type: ignore[no-untyped-call]
    assert all(torch.isfinite(parameter.grad).all() for parameter in module.parameters() if parameter.grad is not None)
    assert module.left_early.grad is not None and module.span_head.weight.grad is not None
    assert torch.isfinite(module.confidence(logits, questions))


def test_survivors_of_ragged_rows() -> None:
    report = ForwardReport(torch.tensor([4, 2]))
    assert report.survived(4).all()
    report.keep_indices = {1: torch.tensor([[0, 3], [0, -1]]), 0: torch.tensor([[0, 1, 3], [0, 1, -1]])}
    assert report.survived(4).tolist() == [[True, False, False, True], [True, False, False, False]]


def test_bad_settings(head_of: ModuleOf) -> None:
    with pytest.raises(ConfigError) as caught:
        head_of(dropout=1.0, max_answer_length=0, n_best=0)
    assert [problem.key for problem in caught.value.problems] == ["dropout", "max_answer_length", "n_best"]


@pytest.mark.parametrize("rho", [1.0, 0.8])
def test_one_batch_can_be_learned(head_of: ModuleOf, questions: Batch, rho: float) -> None:
    module = head_of(Dense() if rho == 1.0 else Truncate(rho=rho, schedule="flat")).train()
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    for _ in range(60):
        loss = module.task_loss(module(questions), questions)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    rows = module.eval().collect(module(questions), questions)
    assert loss.item() < 0.3
    assert rows["spans"][0][0][:2] in ((15, 16), (18, 18)), "one of the gold spans, counted in tokens of the text"
    assert module.last_predictions is not None and module.last_predictions.tolist() == [0, 3]
