"""Tests of the head for answers: its loss, its spans, and tokens that were dropped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from retention.engine.report import ForwardReport
from retention.errors import ConfigError
from retention.models.retention_model import RetentionModel
from retention.policies import Dense, Truncate
from retention.policies.bases.retention_policy import RetentionPolicy
from retention.tasks.question_answering.head import QuestionAnsweringHead
from retention.training.teacher import Teacher

Batch = dict[str, Tensor]
MakeModel = Callable[..., RetentionModel]
SETTINGS: dict[str, Any] = {
    "num_types": 4,
    "metrics_fn": lambda stage, rows: {stage: float(len(rows["index"]))},
    "dropout": 0.0,
}


@pytest.fixture
def make(make_model: MakeModel) -> MakeModel:
    """``make(policy, ...)``: a model that answers questions, drawn from fixed seeds."""

    def build(policy: RetentionPolicy | None = None, dropped: str = "forward", **settings: Any) -> RetentionModel:
        return make_model(
            Dense() if policy is None else policy, QuestionAnsweringHead, dropped=dropped, **{**SETTINGS, **settings}
        )

    return build


@pytest.fixture
def batch(make_batch: Any) -> Batch:
    """Two rows of 10 and 7 tokens; four come before the text, one after it."""
    made: Batch = make_batch(10, 7)
    made["context"] = torch.tensor([[4, 9], [4, 6]])
    made["spans"] = torch.tensor([[[5, 6], [8, 8]], [[-1, -1], [-1, -1]]])
    made["evidence"] = torch.tensor([[[4, 8]], [[-1, -1]]])
    made["labels"] = torch.tensor([0, 3])
    made["shift"] = torch.tensor([10, 0])
    made["question"] = torch.tensor([[0, 0], [1, 0]])
    return made


def eval_rows(model: RetentionModel, batch: Batch) -> dict[str, list[Any]]:
    encoded = model.encode(batch)
    return model.head.eval_rows(model.head.logits(encoded, batch), encoded, batch)


def test_spans_are_inside_the_text(make: MakeModel, batch: Batch) -> None:
    rows = eval_rows(make().eval(), batch)
    for spans, (start, end), shift in zip(rows["spans"], [(4, 9), (4, 6)], [10, 0], strict=True):
        assert spans and all(start + shift <= a <= b < end + shift for a, b, _ in spans)
    total = sum(torch.tensor([score for *_, score in rows["spans"][1]]).exp())
    assert float(total) <= 1.0 + 1e-5


def test_loss_by_hand(make: MakeModel, batch: Batch) -> None:
    head = make().head
    logits = torch.zeros(2, 10, 6)
    logits[..., -2:] = -1e4
    logits[0, 4:9, -2:] = logits[1, 4:6, -2:] = 0.0
    # types: log 4 each; span: two of 5 x 5 equally likely ones
    expected = torch.log(torch.tensor(4.0)) - 0.5 * torch.log(torch.tensor(2 / 25))
    torch.testing.assert_close(head.task_loss(logits, batch), expected)
    batch["labels"] = torch.tensor([-100, -100])
    batch["spans"] = torch.full((2, 1, 2), -1)
    assert head.task_loss(logits, batch).item() == 0.0, "rows without targets have no loss"


def test_teacher_keeps_the_logits_of_each_row(make: MakeModel, batch: Batch, tmp_path: Path) -> None:
    model, file = make(num_types=2).eval(), tmp_path / "outputs.pt"
    widths: list[int] = []
    model.encoder.register_forward_hook(lambda module, args, output: widths.append(output[0].shape[1]))
    teacher = Teacher(model, file)
    computed = teacher.outputs(batch, saliency_layers=(0,))
    expected = computed.output.logits
    teacher.save()
    second = {name: values[1:, :7] if name == "input_ids" else values[1:] for name, values in batch.items()}
    second |= {name: second[name][:, :7] for name in ("attention_mask", "protected_mask")}
    for again in (teacher, Teacher(model, file)):
        outputs = again.outputs(batch, saliency_layers=(0,))
        assert torch.equal(outputs.output.logits, expected)  # closed on padding, too
        assert torch.equal(again.output(second).logits, expected[1:, :7])
        assert torch.equal(outputs.saliency[0], computed.saliency[0] * batch["attention_mask"])
        assert again.keeps_outputs
    assert widths == [10]
    changed = {**batch, "index": batch["index"] + 5}
    teacher.output(changed)
    assert widths == [10, 10]


def test_distillation_loss_uses_positions_open_in_both(make: MakeModel, batch: Batch) -> None:
    model = make().eval()
    teacher = model(batch).detach()

    def loss(student: Tensor) -> float:
        return float(model.head.distillation_loss(student, teacher, batch, 2.0))

    assert loss(teacher) == pytest.approx(0.0, abs=1e-6)
    student = teacher.clone()
    student[0, 5, -2] += 1.0
    assert loss(student) > 0
    student = teacher.clone()
    student[:, :, -2:] = -1e4  # no position in common
    assert loss(student) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("dropped", ["forward", "cut"])
def test_dropped_tokens_are_offset_or_closed(make: MakeModel, batch: Batch, dropped: str) -> None:
    model = make(Truncate(rho=0.6, schedule="flat"), dropped=dropped).eval()
    logits = model(batch)
    assert model.last_report is not None
    kept = model.last_report.survived(10)
    assert kept.tolist()[0] == [True] * 5 + [False] * 4 + [True]
    is_open = logits[0, :, -2] > -5e3
    end = 9 if dropped == "forward" else 5
    assert is_open.tolist() == [4 <= position < end for position in range(10)]
    rows = eval_rows(model, batch)
    assert (rows["gold"], rows["survived"]) == ([2, 0], [0, 0])
    passed = [float(kept[0, first : last + 1].float().mean()) for first, last in batch["spans"][0].tolist()]
    assert rows["passed"] == pytest.approx([sum(passed), 0.0]), "every gate of a flat schedule keeps the same tokens"
    assert (rows["evidence"], rows["evidence_survived"]) == ([5, 0], [1, 0]), "of positions 4 to 8, 4 was kept"
    assert rows["evidence_passed"] == pytest.approx([1.0, 0.0])
    assert torch.isfinite(model.head.task_loss(logits, batch))
    if dropped == "forward":
        with torch.no_grad():
            model.head.dropped_offset.fill_(-3.0)
        change = model(batch) - logits
        torch.testing.assert_close(change[0, 4:9, -2], torch.tensor([0.0, -3.0, -3.0, -3.0, -3.0]))


def test_dense_model_keeps_every_gold_span(make: MakeModel, batch: Batch) -> None:
    rows = eval_rows(make().eval(), batch)
    assert rows["survived"] == rows["passed"] == rows["gold"] == [2, 0]
    assert rows["evidence_survived"] == rows["evidence_passed"] == rows["evidence"] == [5, 0]


def test_metrics_are_those_of_metrics_fn_and_span_survival(make_module: Any, trainer_with: Any, batch: Batch) -> None:
    module = make_module(Dense(), head_type=QuestionAnsweringHead, dropped="forward", **SETTINGS)
    loader = DataLoader([batch], batch_size=None)  # type: ignore[arg-type]
    metrics = trainer_with().test(module, loader, verbose=False)[0]
    assert (metrics["test/test"], metrics["test/span_survival"], metrics["test/span_kept_share"]) == (2.0, 1.0, 1.0)
    assert metrics["test/evidence_survival"] == metrics["test/evidence_kept_share"] == 1.0


def test_row_without_text_has_no_span_and_all_parameters_are_trained(make: MakeModel, batch: Batch) -> None:
    batch["context"] = torch.tensor([[4, 4], [4, 6]])
    batch["spans"] = torch.tensor([[[-1, -1]], [[4, 5]]])
    model = make().train()
    assert eval_rows(model, batch)["spans"][0] == []
    logits = model(batch)
    model.head.task_loss(logits, batch).backward()  # type: ignore[no-untyped-call]
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters() if parameter.grad is not None)
    assert all(parameter.grad is not None for parameter in model.head.parameters())
    assert torch.isfinite(model.head.confidence(logits, batch))


def test_survived_tokens_of_ragged_rows() -> None:
    report = ForwardReport(torch.tensor([4, 2]))
    assert report.survived(4).all()
    report.keep_indices = {1: torch.tensor([[0, 3], [0, -1]]), 0: torch.tensor([[0, 1, 3], [0, 1, -1]])}
    assert report.survived(4).tolist() == [[True, False, False, True], [True, False, False, False]]


@pytest.mark.parametrize(("key", "value"), [("dropout", 1.0), ("max_answer_length", 0), ("n_best", 0)])
def test_invalid_setting_raises(key: str, value: float, make: MakeModel) -> None:
    with pytest.raises(ConfigError) as caught:
        make(**{key: value})
    assert [problem.key for problem in caught.value.problems] == [key]


@pytest.mark.parametrize("rho", [1.0, 0.8])
def test_one_batch_can_be_learned(make: MakeModel, batch: Batch, rho: float) -> None:
    model = make(Dense() if rho == 1.0 else Truncate(rho=rho, schedule="flat")).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(60):
        loss = model.head.task_loss(model(batch), batch)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert loss.item() < 0.3
    best = eval_rows(model.eval(), batch)["spans"][0][0][:2]
    assert best in ((15, 16), (18, 18)), "one of the gold spans, counted in tokens of the whole text"
    predictions = model.head.predictions(model(batch))
    assert predictions is not None and predictions.tolist() == [0, 3]
