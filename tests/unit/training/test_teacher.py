"""Tests of the teacher's cache: each row is computed once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from retention.errors import TrainingError
from retention.models.encoded import ModelOutput
from retention.models.retention_model import RetentionModel
from retention.training.distillation import Distillation
from retention.training.module import RetentionModule
from retention.training.teacher import Teacher


@pytest.fixture
def batch_sizes(dense_model: RetentionModel) -> list[int]:
    """Sizes of all batches that ran through the dense model."""
    sizes: list[int] = []
    dense_model.encoder.register_forward_hook(lambda module, args, output: sizes.append(len(output[0])))
    return sizes


def assert_same(output: ModelOutput, expected: ModelOutput) -> None:
    torch.testing.assert_close(output.logits, expected.logits)
    torch.testing.assert_close(output.pooled, expected.pooled)


def test_row_is_computed_once(dense_model: RetentionModel, batch_sizes: list[int], make_batch: Any) -> None:
    teacher, batch = Teacher(dense_model), make_batch(9, 7, 5)
    first = teacher.output(batch)
    assert_same(teacher.output(batch), first)
    swapped = {name: values[[2, 0]] for name, values in batch.items()}
    assert_same(teacher.output(swapped), ModelOutput(first.logits[[2, 0]], first.pooled[[2, 0]]))
    assert batch_sizes == [3]


def test_new_row_is_computed(dense_model: RetentionModel, batch_sizes: list[int], make_batch: Any) -> None:
    teacher = Teacher(dense_model)
    teacher.output(make_batch(9, 7))
    other = make_batch(8, 6, seed=2, first_index=1)
    with torch.no_grad():
        expected = dense_model.outputs(other)
    assert_same(teacher.output(other), expected)
    assert batch_sizes == [2, 2, 2]


def test_cache_file_is_used_by_next_run(
    dense_model: RetentionModel, batch_sizes: list[int], make_batch: Any, tmp_path: Path
) -> None:
    file, batch = tmp_path / "deep" / "outputs.pt", make_batch(9, 7)
    teacher = Teacher(dense_model, file)
    expected = teacher.output(batch)
    teacher.save()
    assert_same(Teacher(dense_model, file).output(batch), expected)
    assert batch_sizes == [2]
    assert [path.name for path in file.parent.iterdir() if not path.name.endswith(".lock")] == ["outputs.pt"]


def test_cache_file_merges_several_processes(
    dense_model: RetentionModel, batch_sizes: list[int], make_batch: Any, tmp_path: Path
) -> None:
    file = tmp_path / "outputs.pt"
    ranks = [Teacher(dense_model, file), Teacher(dense_model, file)]
    batches = [make_batch(9, 7), make_batch(6, 5, first_index=2)]
    for teacher, batch in zip(ranks, batches, strict=True):
        teacher.output(batch)
        teacher.save()
    late = Teacher(dense_model, file)
    for batch in batches:
        late.output(batch)
    assert batch_sizes == [2, 2]


def test_training_saves_cache(
    make_module: Callable[..., RetentionModule], dense_model: RetentionModel, make_batch: Any, fit: Any, tmp_path: Path
) -> None:
    file = tmp_path / "outputs.pt"
    module = make_module(distill=Distillation(weight=0.5, teacher="given"))
    module.set_teacher(Teacher(dense_model, file))
    fit(module, [make_batch(9, 7)])
    assert sorted(torch.load(file, weights_only=True)["index"].tolist()) == [0, 1]


def test_states_and_saliency_take_one_pass(
    dense_model: RetentionModel, batch_sizes: list[int], make_batch: Any
) -> None:
    teacher, batch = Teacher(dense_model), make_batch(9, 7)
    outputs = teacher.outputs(batch, states=True, saliency_layers=(0, 1))
    assert batch_sizes == [2]
    assert_same(outputs.output, teacher.output(batch))
    separate = teacher.outputs(batch, states=True), teacher.outputs(batch, saliency_layers=(0, 1))
    for states, expected in zip(outputs.states, separate[0].states, strict=True):
        torch.testing.assert_close(states.hidden_states, expected.hidden_states)
    assert set(outputs.saliency) == {0, 1}
    for layer, saliency in outputs.saliency.items():
        torch.testing.assert_close(saliency, separate[1].saliency[layer])
    assert not any(each.hidden_states.requires_grad for each in outputs.states)
    assert not outputs.output.logits.requires_grad


def test_cache_without_pooled_states_is_ignored(
    dense_model: RetentionModel, batch_sizes: list[int], make_batch: Any, tmp_path: Path
) -> None:
    file, batch = tmp_path / "outputs.pt", make_batch(9, 7)
    torch.save({"index": torch.arange(2), "logits": torch.zeros(2, 2)}, file)
    assert Teacher(dense_model, file).output(batch).pooled is not None
    assert batch_sizes == [2]


@pytest.mark.parametrize("damage", ["empty", "half", "random", "value", "nan"])
def test_damaged_cache_file_is_named_and_computed_again(
    damage: str, dense_model: RetentionModel, make_batch: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, batch = tmp_path / "outputs.pt", make_batch(9, 7)
    teacher = Teacher(dense_model, file)
    expected = teacher.output(batch)
    teacher.save()
    content = file.read_bytes()
    if damage in ("value", "nan"):
        stored = torch.load(file, weights_only=True)
        stored["logits"][0, 0] = 5.0 if damage == "value" else float("nan")
        if damage == "nan":
            del stored["checksum"]
        torch.save(stored, file)
    else:
        file.write_bytes({"empty": b"", "half": content[: len(content) // 2], "random": b"x" * 999}[damage])
    again = Teacher(dense_model, file)
    assert f"{file}: the cached teacher outputs are damaged" in caplog.text
    assert_same(again.output(batch), expected)
    again.save()
    caplog.clear()
    assert_same(Teacher(dense_model, file).output(batch), expected)
    assert not caplog.text


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_outputs_of_the_teacher_must_be_finite(
    value: float, dense_model: RetentionModel, make_batch: Any, tmp_path: Path
) -> None:
    with torch.no_grad():
        next(parameter for parameter in dense_model.head.parameters() if parameter.dim() == 1).fill_(value)
    with pytest.raises(TrainingError, match="not all finite"):
        Teacher(dense_model, tmp_path / "outputs.pt").output(make_batch(9, 7))
    assert not list(tmp_path.iterdir())


def test_saliency_of_a_row_is_computed_once(
    dense_model: RetentionModel, batch_sizes: list[int], make_batch: Any, tmp_path: Path
) -> None:
    file, batch = tmp_path / "outputs.pt", make_batch(9, 7)
    teacher = Teacher(dense_model, file)
    computed = teacher.outputs(batch, saliency_layers=(0, 1))
    teacher.save()
    for again in (teacher, Teacher(dense_model, file)):
        looked_up = again.outputs(batch, saliency_layers=(0, 1))
        assert_same(looked_up.output, computed.output)
        for layer in (0, 1):
            real = batch["attention_mask"].bool()
            assert torch.equal(looked_up.saliency[layer][real], computed.saliency[layer][real])
            assert not looked_up.saliency[layer][~real].any()
    assert batch_sizes == [2]


def test_saliency_of_another_layer_or_row_is_computed(
    dense_model: RetentionModel, batch_sizes: list[int], make_batch: Any
) -> None:
    teacher, batch = Teacher(dense_model), make_batch(9, 7)
    teacher.outputs(batch, saliency_layers=(0,))
    teacher.outputs(batch, saliency_layers=(1,))
    other = {**batch, "index": batch["index"] + 5}
    teacher.outputs(other, saliency_layers=(0,))
    assert batch_sizes == [2, 2, 2]


def test_cached_saliency_fits_batches_of_another_width(dense_model: RetentionModel, make_batch: Any) -> None:
    teacher, batch = Teacher(dense_model), make_batch(9, 7)
    expected = teacher.outputs(batch, saliency_layers=(0,)).saliency[0]
    second = {name: values[1:, :7] if values.dim() == 2 else values[1:] for name, values in batch.items()}
    torch.testing.assert_close(teacher.outputs(second, saliency_layers=(0,)).saliency[0], expected[1:, :7])


def test_damaged_saliency_file_is_computed_again(
    dense_model: RetentionModel, make_batch: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, batch = tmp_path / "outputs.pt", make_batch(9, 7)
    teacher = Teacher(dense_model, file)
    expected = teacher.outputs(batch, saliency_layers=(0,)).saliency[0]
    teacher.save()
    (damaged,) = tmp_path.glob("*saliency*.pt")
    stored = torch.load(damaged, weights_only=True)
    stored["values"][0] += 1.0
    torch.save(stored, damaged)
    again = Teacher(dense_model, file)
    assert f"{damaged}: the cached saliency values of the teacher are damaged" in caplog.text
    torch.testing.assert_close(again.outputs(batch, saliency_layers=(0,)).saliency[0], expected)
