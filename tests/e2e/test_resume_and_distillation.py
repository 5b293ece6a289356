"""Test training that uses a checkpoint: resumed, initialized, distilled."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

TWO_EPOCHS = ("trainer.max_epochs=2", "dual=ascent", "dual.eta=0.5", "callbacks.checkpoint.save_top_k=-1")


def content(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def moments(checkpoint: Any) -> list[torch.Tensor]:
    """First and second moments of the optimizer."""
    state = checkpoint["optimizer_states"][0]["state"]
    return [state[key][name] for key in sorted(state) for name in ("exp_avg", "exp_avg_sq")]


@pytest.fixture(scope="module")
def straight(start: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Return a run of two epochs with the checkpoint after the first one kept."""
    folder = tmp_path_factory.mktemp("straight")
    [record] = start(folder, *TWO_EPOCHS)
    return folder, record


def test_resumed_training_equals_uninterrupted_training(straight: tuple[Path, Any], start: Any, tmp_path: Path) -> None:
    folder, record = straight
    halfway = folder / "checkpoints" / "epoch=0-step=4.ckpt"
    assert content(halfway)["global_step"] == 4
    [resumed] = start(tmp_path, *TWO_EPOCHS, f"ckpt='{halfway}'")
    one, other = content(folder / "checkpoints" / "last.ckpt"), content(tmp_path / "checkpoints" / "last.ckpt")
    assert one["global_step"] == other["global_step"] == 8
    assert set(one["state_dict"]) == set(other["state_dict"])
    for name, value in one["state_dict"].items():
        assert torch.equal(value, other["state_dict"][name]), name
    assert all(torch.equal(a, b) for a, b in zip(moments(one), moments(other), strict=True))
    assert one["lr_schedulers"][0]["_last_lr"] == other["lr_schedulers"][0]["_last_lr"]
    for name in ("metrics", "keep_ratio", "flops_ratio"):
        assert record[name] == resumed[name]


def logged(folder: Path) -> list[dict[str, str]]:
    """Rows of ``metrics.csv``, without measurements of time and memory."""
    with (folder / "metrics.csv").open() as file:
        rows = [
            {key: value for key, value in row.items() if not key.startswith("perf/")} for row in csv.DictReader(file)
        ]
    return [row for row in rows if any(value for key, value in row.items() if key not in ("step", "epoch"))]


def test_resumed_training_keeps_the_rows_that_were_logged_before(
    straight: tuple[Path, Any], start: Any, tmp_path: Path
) -> None:
    folder = shutil.copytree(straight[0], tmp_path / "run")
    halfway = folder / "checkpoints" / "epoch=0-step=4.ckpt"
    start(folder, *TWO_EPOCHS, f"ckpt='{halfway}'")
    before, after = logged(straight[0]), logged(folder)
    assert {row["step"] for row in before} == {str(step) for step in range(9)}
    assert after == before, "rows up to the checkpoint are kept, later ones are logged again"
    start(tmp_path / "other", *TWO_EPOCHS, f"ckpt='{halfway}'")
    assert logged(tmp_path / "other") == [row for row in before if int(row["step"]) >= 4], "rows of its own folder only"


def test_dual_is_updated_in_both_epochs(straight: tuple[Path, Any]) -> None:
    folder, _ = straight
    half = content(folder / "checkpoints" / "epoch=0-step=4.ckpt")["state_dict"]
    whole = content(folder / "checkpoints" / "last.ckpt")["state_dict"]
    assert (half["model.policy.dual.steps"], whole["model.policy.dual.steps"]) == (4, 8)
    multipliers = half["model.policy.dual.multipliers"], whole["model.policy.dual.multipliers"]
    assert (multipliers[0] > 0).all() and not torch.equal(*multipliers)


def test_same_seed_repeats_and_another_seed_differs(finished: Any, start: Any, weights_of: Any, tmp_path: Path) -> None:
    first = weights_of(finished.checkpoint)
    for name, typed, same in (("again", [], True), ("other", ["seed=1"], False)):
        start(tmp_path / name, *typed)
        weights = weights_of(tmp_path / name / "checkpoints" / "last.ckpt")
        scorers = [key for key in first if key.startswith("policy.scorers") and first[key].dim() > 1]
        assert scorers
        for key in ["head.output.1.weight", *scorers]:
            assert torch.equal(first[key], weights[key]) is same, (name, key)


def test_init_loads_encoder_and_head(dense: Any, start: Any, weights_of: Any, tmp_path: Path) -> None:
    start(tmp_path, f"init={dense.checkpoint}", "optimizer.lr=1.0e-12", "optimizer.weight_decay=0")
    before, after = weights_of(dense.checkpoint), weights_of(tmp_path / "checkpoints" / "last.ckpt")
    shared = [name for name in before if not name.startswith("policy.")]
    assert len(shared) > 20
    for name in shared:
        torch.testing.assert_close(before[name], after[name], rtol=0, atol=1e-8)


def test_each_kind_of_distillation_changes_the_weights(dense: Any, start: Any, weights_of: Any, tmp_path: Path) -> None:
    settings = {
        "alone": ["distill.teacher=null"],
        "logits": ["distill.weight=0.9"],
        "saliency": ["distill.weight=0.9", "distillation=saliency"],
        "states": ["distill.weight=0.9", "distillation=saliency_and_states"],
    }
    weights = {}
    for name, typed in settings.items():
        [record] = start(tmp_path / name, f"init={dense.checkpoint}", *typed)
        assert record["keep_ratio"]["mean"] == pytest.approx(0.25, abs=0.01)
        weights[name] = weights_of(tmp_path / name / "checkpoints" / "last.ckpt")
    assert min(record["config"]["distill"][key] for key in ("saliency", "token_states")) > 0
    assert record["config"]["phases"]["pruning_start"] == 0
    scorer = next(name for name in weights["alone"] if name.startswith("policy.scorers.0") and "weight" in name)
    assert not torch.allclose(
        weights["alone"]["head.output.1.weight"], weights["logits"]["head.output.1.weight"], atol=1e-6
    )
    assert not torch.allclose(weights["logits"][scorer], weights["saliency"][scorer], atol=1e-4)
    assert not torch.allclose(
        weights["saliency"]["head.output.1.weight"], weights["states"]["head.output.1.weight"], atol=1e-6
    )
    assert not any("teacher" in name for name in weights["saliency"])


def test_teacher_outputs_are_kept_by_precision(dense: Any, start: Any, cache_folder: Path, tmp_path: Path) -> None:
    files = []
    for precision in ("32-true", "bf16-mixed"):
        typed = (f"distill.teacher={dense.checkpoint}", "distill.weight=0.5", f"trainer.precision={precision}")
        start(tmp_path / precision, *typed, "data.train_size=16", "data.test_size=8", "data.seed=7")
        files.append(set(cache_folder.rglob("*-teacher-*.pt")))
    assert files[1] > files[0]


def test_keep_ratio_of_one_trains(start: Any, tmp_path: Path) -> None:
    [record] = start(tmp_path, "retention.rho=1.0", "data.train_size=16", "data.test_size=8")
    assert record["keep_ratio"]["mean"] == 1.0
    assert record["flops_ratio"] == pytest.approx(1.0)
