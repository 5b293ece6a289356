"""A teacher is asked once about each row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from retention.tasks.classification.head import ClassificationModule
from retention.training.distillation import Distillation
from retention.training.teacher import Answer, Teacher


@pytest.fixture
def calls(dense_module: ClassificationModule) -> list[int]:
    """Grows by the size of every batch that runs through the dense module."""
    seen: list[int] = []
    dense_module.encoder.register_forward_hook(lambda module, args, output: seen.append(len(output[0])))
    return seen


def assert_same(found: Answer, wanted: Answer) -> None:
    torch.testing.assert_close(found.logits, wanted.logits)
    torch.testing.assert_close(found.pooled, wanted.pooled)


def test_a_row_is_computed_once(dense_module: ClassificationModule, calls: list[int], batch_of: Any) -> None:
    teacher, batch = Teacher(dense_module), batch_of(9, 7, 5)
    first = teacher.answer(batch)
    assert_same(teacher.answer(batch), first)
    swapped = {name: values[[2, 0]] for name, values in batch.items()}
    assert_same(teacher.answer(swapped), Answer(first.logits[[2, 0]], first.pooled[[2, 0]]))
    assert calls == [3]


def test_a_new_row_is_asked(dense_module: ClassificationModule, calls: list[int], batch_of: Any) -> None:
    teacher = Teacher(dense_module)
    teacher.answer(batch_of(9, 7))
    other = batch_of(8, 6, seed=2, first_index=1)
    with torch.no_grad():
        wanted = dense_module.answer(other)
    assert_same(teacher.answer(other), wanted)
    assert calls == [2, 2, 2]


def test_answers_outlast_the_run(
    dense_module: ClassificationModule, calls: list[int], batch_of: Any, tmp_path: Path
) -> None:
    file, batch = tmp_path / "deep" / "answers.pt", batch_of(9, 7)
    teacher = Teacher(dense_module, file)
    wanted = teacher.answer(batch)
    teacher.save()
    assert_same(Teacher(dense_module, file).answer(batch), wanted)
    assert calls == [2]
    assert [path.name for path in file.parent.iterdir() if not path.name.endswith(".lock")] == ["answers.pt"]


def test_answers_of_several_processes_come_together(
    dense_module: ClassificationModule, calls: list[int], batch_of: Any, tmp_path: Path
) -> None:
    file = tmp_path / "answers.pt"
    ranks = [Teacher(dense_module, file), Teacher(dense_module, file)]
    batches = [batch_of(9, 7), batch_of(6, 5, first_index=2)]
    for teacher, batch in zip(ranks, batches, strict=True):
        teacher.answer(batch)
        teacher.save()
    late = Teacher(dense_module, file)
    for batch in batches:
        late.answer(batch)
    assert calls == [2, 2]


def test_training_saves_what_was_asked(
    module_of: Callable[..., ClassificationModule],
    dense_module: ClassificationModule,
    batch_of: Any,
    trained: Any,
    tmp_path: Path,
) -> None:
    file = tmp_path / "answers.pt"
    module = module_of(distill=Distillation(weight=0.5, teacher="given"))
    module.set_teacher(Teacher(dense_module, file))
    trained(module, [batch_of(9, 7)])
    assert sorted(torch.load(file, weights_only=True)["index"].tolist()) == [0, 1]


def test_a_whole_lesson_takes_one_pass_and_says_the_same(
    dense_module: ClassificationModule, calls: list[int], batch_of: Any
) -> None:
    teacher, batch = Teacher(dense_module), batch_of(9, 7)
    outputs = teacher.outputs(batch, states=True, explained=(0, 1))
    assert calls == [2]
    assert_same(outputs.answer, teacher.answer(batch))
    apart = teacher.outputs(batch, states=True), teacher.outputs(batch, explained=(0, 1))
    for own, other in zip(outputs.states, apart[0].states, strict=True):
        torch.testing.assert_close(own.hidden_states, other.hidden_states)
    assert set(outputs.saliency) == {0, 1}
    for layer, saliency in outputs.saliency.items():
        torch.testing.assert_close(saliency, apart[1].saliency[layer])
    assert not any(each.hidden_states.requires_grad for each in outputs.states)
    assert not outputs.answer.logits.requires_grad


def test_answers_without_pooled_states_are_asked_again(
    dense_module: ClassificationModule, calls: list[int], batch_of: Any, tmp_path: Path
) -> None:
    file, batch = tmp_path / "answers.pt", batch_of(9, 7)
    torch.save({"index": torch.arange(2), "logits": torch.zeros(2, 2)}, file)
    assert Teacher(dense_module, file).answer(batch).pooled is not None
    assert calls == [2]
