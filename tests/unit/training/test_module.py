"""Tests of the training and evaluation loop that all tasks share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from retention.core.duals import AscentDual, ExactDual
from retention.models.retention_model import RetentionModel
from retention.policies import Adaptive, Random
from retention.training.evaluation import merge_rows
from retention.training.module import RetentionModule
from retention.training.phases import TrainingPhases

MakeModule = Callable[..., RetentionModule]


class Recorder(pl.Callback):
    """Records the state after each training step."""

    def __init__(self) -> None:
        self.phases: list[str] = []
        self.keep_ratios: list[float] = []
        self.outputs: list[dict[str, Tensor]] = []
        self.training: list[bool] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.phases.append(pl_module.phase)
        self.keep_ratios.append(pl_module.target_keep_ratio)
        self.outputs.append(outputs)
        self.training.append(pl_module.encoder.training)


def test_warmup_is_the_dense_model(make_module: MakeModule, dense_model: RetentionModel, make_batch: Any) -> None:
    module, batch = make_module().train(), make_batch(9, 6)
    module.policy.phase, module.policy.anneal = "warmup", 0.0
    assert torch.equal(module(batch), dense_model(batch))
    assert (module.phase, module.target_keep_ratio) == ("warmup", 1.0)
    module.policy.phase, module.policy.anneal = "hard", 1.0
    assert not torch.equal(module(batch), dense_model(batch)), "with gates it is another model"


def test_evaluation_prunes_in_every_phase(make_module: MakeModule, make_batch: Any) -> None:
    module = make_module().eval()
    module.policy.phase, module.policy.anneal = "warmup", 0.0
    module(make_batch(12))
    assert (module.phase, module.target_keep_ratio) == ("hard", 0.5)
    assert module.last_report is not None
    assert {layer: kept.item() for layer, kept in module.last_report.kept.items()} == {0: 9, 1: 3}


def test_unused_scorers_get_zero_gradient(make_module: MakeModule, make_batch: Any, fit: Any) -> None:
    gradients: list[Tensor] = []

    class GradientRecorder(pl.Callback):
        def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
            gradients.extend(parameter.grad for parameter in pl_module.policy.parameters())

    module = make_module(phases=TrainingPhases(anneal_start=1.0, anneal_end=1.0))
    fit(module, [make_batch(9, 6)], GradientRecorder())
    assert len(gradients) == len(list(module.policy.parameters())) > 0
    assert all(bool((gradient == 0).all()) for gradient in gradients), "ranks wait for every parameter's gradient"


def test_training_goes_through_the_phases(make_module: MakeModule, make_batch: Any, fit: Any) -> None:
    module = make_module(phases=TrainingPhases(anneal_start=0.25, anneal_end=0.75, pruning_start=0.75))
    recorder = Recorder()
    module.encoder.eval()  # as from_pretrained leaves it
    fit(module, [make_batch(9, 6)] * 4, recorder)
    assert recorder.phases == ["warmup", "soft", "soft", "hard"]
    assert recorder.keep_ratios == [1.0, 1.0, 0.75, 0.5]
    assert all(recorder.training), "dropout must be on"


def test_policy_without_soft_gates_prunes_after_warmup(make_module: MakeModule, make_batch: Any, fit: Any) -> None:
    recorder = Recorder()
    phases = TrainingPhases(anneal_start=0.5, anneal_end=0.5)
    fit(make_module(Random(rho=0.5, slope=0.5), phases=phases), [make_batch(9)] * 4, recorder)
    assert recorder.phases == ["warmup", "warmup", "hard", "hard"]


def test_dual_steps_once_per_optimizer_step(
    make_module: MakeModule, make_batch: Any, fit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = Adaptive(dual=AscentDual(eta=0.1), rho=0.5, slope=0.5)
    module = make_module(policy, phases=TrainingPhases(anneal_end=0.0))
    slacks: list[Tensor] = []
    steps: list[Tensor] = []
    budget_slack, step = policy.budget_slack, policy.dual.step

    def record() -> Tensor:
        slacks.append(budget_slack().detach())
        return budget_slack()

    monkeypatch.setattr(policy, "budget_slack", record)
    monkeypatch.setattr(policy.dual, "step", lambda value: (steps.append(value), step(value))[1])
    batches = [make_batch(9, 6), make_batch(12, 5), make_batch(7, 7), make_batch(4, 8)]
    fit(module, batches, accumulate_grad_batches=2)
    slacks = slacks[::2] if len(slacks) == 8 else slacks  # budget_loss may call it as well
    assert len(steps) == 2 and int(policy.dual.steps) == 2
    torch.testing.assert_close(steps[0], (slacks[0] + slacks[1]) / 2)
    torch.testing.assert_close(steps[1], (slacks[2] + slacks[3]) / 2)
    assert (steps[0] > 0).all(), "near keep-all the start is over the budget"
    torch.testing.assert_close(policy.dual.multipliers, 0.1 * (steps[0] + steps[1]))


def test_reported_task_loss_excludes_budget_penalty(make_module: MakeModule, make_batch: Any, fit: Any) -> None:
    policy = Adaptive(dual=AscentDual(augmented=10.0), rho=0.5, slope=0.5)
    recorder = Recorder()
    fit(make_module(policy, phases=TrainingPhases(anneal_end=0.0)), [make_batch(9, 6)], recorder)
    loss, task_loss = float(recorder.outputs[0]["loss"]), float(recorder.outputs[0]["task_loss"])
    augmented = 5.0 * float(policy.budget_slack().detach().square().sum())  # the multipliers were still 0
    assert augmented > 0.01 and loss - task_loss == pytest.approx(augmented, rel=1e-4)


@pytest.mark.parametrize("dual", [ExactDual, AscentDual])
def test_keep_ratio_of_one_can_be_trained(dual: Any, make_module: MakeModule, make_batch: Any, fit: Any) -> None:
    recorder = Recorder()
    module = make_module(Adaptive(dual=dual(), rho=1.0))
    fit(module, [make_batch(9, 6)] * 3, recorder)
    assert len(recorder.outputs) == 3
    module.eval()(make_batch(9, 6))
    assert module.last_report is not None
    assert all(kept.tolist() == [9, 6] for kept in module.last_report.kept.values())


def test_merge_rows_counts_repeated_rows_once() -> None:
    parts = [
        {"index": [4, 2], "prediction": [1, 0], "label": [1, 1]},
        {"index": [7, 4], "prediction": [0, 9], "label": [0, 9]},
        {"index": [2], "prediction": [8], "label": [8]},
    ]
    assert merge_rows(parts) == {"index": [4, 2, 7], "prediction": [1, 0, 0], "label": [1, 1, 0]}
    assert merge_rows([]) == {}


def test_evaluation_scores_every_row_and_starts_anew(make_module: MakeModule, make_batch: Any, fit: Any) -> None:
    module = make_module(Random(rho=0.5, slope=0.5))
    batches = [make_batch(9, 6), make_batch(5, 8, 4, seed=2, first_index=2)]
    trainer = fit(module, batches)
    module.eval()
    with torch.no_grad():
        hits = sum(int((module(batch).argmax(-1) == batch["labels"]).sum()) for batch in batches)
    results = [trainer.test(module, DataLoader(batches, batch_size=None), verbose=False)[0] for _ in range(2)]
    assert results[0] == results[1]
    assert results[0]["test/accuracy"] == pytest.approx(hits / 5)
    assert 0.0 < results[0]["test/flops_ratio"] < 1.0
    assert [row["index"] for row in module.last_prediction_rows] == [0, 1, 2, 3, 4]
    assert module.last_predictions is not None and module.last_predictions.shape == (3,)


def test_checkpoint_of_earlier_version_is_read(make_module: MakeModule) -> None:
    module = make_module()
    weights = module.model.state_dict()
    earlier = {name.replace("head.output.", "head."): value for name, value in weights.items()}
    checkpoint: dict[str, Any] = {"state_dict": earlier}
    module.on_load_checkpoint(checkpoint)
    assert set(checkpoint["state_dict"]) == set(module.state_dict())
    module.load_state_dict(checkpoint["state_dict"])
