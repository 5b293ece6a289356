"""What every task's training and evaluation share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from retention.core.duals import AscentDual, ExactDual
from retention.policies import Adaptive, Random
from retention.tasks.classification.head import ClassificationModule
from retention.training.evaluation import merge_rows
from retention.training.phases import Phases

ModuleOf = Callable[..., ClassificationModule]


class Watch(pl.Callback):
    """Writes down what a training step leaves behind."""

    def __init__(self) -> None:
        self.phases: list[str] = []
        self.shares: list[float] = []
        self.outputs: list[dict[str, Tensor]] = []
        self.training: list[bool] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.phases.append(pl_module.phase)
        self.shares.append(pl_module.target_keep_ratio)
        self.outputs.append(outputs)
        self.training.append(pl_module.encoder.training)


def test_keep_all_is_the_dense_model(module_of: ModuleOf, dense_module: ClassificationModule, batch_of: Any) -> None:
    module, batch = module_of().train(), batch_of(9, 6)
    module.policy.phase, module.policy.anneal = "warmup", 0.0
    assert torch.equal(module(batch), dense_module(batch))
    assert (module.phase, module.target_keep_ratio) == ("warmup", 1.0)
    module.policy.phase, module.policy.anneal = "hard", 1.0
    assert not torch.equal(module(batch), dense_module(batch)), "with gates it is another model"


def test_evaluation_removes_for_real_whatever_the_phase(module_of: ModuleOf, batch_of: Any) -> None:
    module = module_of().eval()
    module.policy.phase, module.policy.anneal = "warmup", 0.0
    module(batch_of(12))
    assert (module.phase, module.target_keep_ratio) == ("hard", 0.5)
    assert module.last_report is not None and {
        layer: kept.item() for layer, kept in module.last_report.kept.items()
    } == {0: 9, 1: 3}


def test_scorers_that_are_not_asked_get_a_zero_gradient(module_of: ModuleOf, batch_of: Any, trained: Any) -> None:
    gradients: list[Tensor] = []

    class Look(pl.Callback):
        def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
            gradients.extend(parameter.grad for parameter in pl_module.policy.parameters())

    module = module_of(phases=Phases(anneal_start=1.0, anneal_end=1.0))
    trained(module, [batch_of(9, 6)], Look())
    assert len(gradients) == len(list(module.policy.parameters())) > 0
    assert all(bool((gradient == 0).all()) for gradient in gradients), "ranks wait for every parameter's gradient"


def test_training_goes_through_the_phases(module_of: ModuleOf, batch_of: Any, trained: Any) -> None:
    module, watch = module_of(phases=Phases(anneal_start=0.25, anneal_end=0.75, pruning_start=0.75)), Watch()
    module.encoder.eval()  # as from_pretrained leaves it
    trained(module, [batch_of(9, 6)] * 4, watch)
    assert watch.phases == ["warmup", "soft", "soft", "hard"]
    assert watch.shares == [1.0, 1.0, 0.75, 0.5]
    assert all(watch.training), "dropout must be on"


def test_a_policy_without_soft_gates_removes_from_the_start(module_of: ModuleOf, batch_of: Any, trained: Any) -> None:
    watch = Watch()
    trained(
        module_of(Random(rho=0.5, slope=0.5), phases=Phases(anneal_start=0.5, anneal_end=0.5)), [batch_of(9)] * 4, watch
    )
    assert watch.phases == ["warmup", "warmup", "hard", "hard"]


def test_the_dual_moves_once_per_optimiser_step(
    module_of: ModuleOf, batch_of: Any, trained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = Adaptive(dual=AscentDual(eta=0.1), rho=0.5, slope=0.5)
    module = module_of(policy, phases=Phases(anneal_end=0.0))
    measured: list[Tensor] = []
    steps: list[Tensor] = []
    slack, step = policy.budget_slack, policy.dual.step

    def measure() -> Tensor:
        measured.append(slack().detach())
        return slack()

    monkeypatch.setattr(policy, "budget_slack", measure)
    monkeypatch.setattr(policy.dual, "step", lambda value: (steps.append(value), step(value))[1])
    watch = Watch()
    trained(module, [batch_of(9, 6), batch_of(12, 5), batch_of(7, 7), batch_of(4, 8)], watch, accumulate_grad_batches=2)
    own = measured[::2] if len(measured) == 8 else measured  # budget_loss asks as well
    assert len(steps) == 2 and int(policy.dual.steps) == 2
    torch.testing.assert_close(steps[0], (own[0] + own[1]) / 2)
    torch.testing.assert_close(steps[1], (own[2] + own[3]) / 2)
    assert (steps[0] > 0).all(), "near keep-all the start is over the budget"
    torch.testing.assert_close(policy.dual.multipliers, 0.1 * (steps[0] + steps[1]))


def test_a_step_reports_its_loss_without_the_price_of_the_budget(
    module_of: ModuleOf, batch_of: Any, trained: Any
) -> None:
    policy = Adaptive(dual=AscentDual(augmented=10.0), rho=0.5, slope=0.5)
    watch = Watch()
    trained(module_of(policy, phases=Phases(anneal_end=0.0)), [batch_of(9, 6)], watch)
    loss, task_loss = float(watch.outputs[0]["loss"]), float(watch.outputs[0]["task_loss"])
    augmented = 5.0 * float(policy.budget_slack().square().sum())  # the multipliers were still 0
    assert augmented > 0.01 and loss - task_loss == pytest.approx(augmented, rel=1e-4)


@pytest.mark.parametrize("dual", [ExactDual, AscentDual])
def test_a_budget_that_removes_nothing_can_be_trained(
    dual: Any, module_of: ModuleOf, batch_of: Any, trained: Any
) -> None:
    watch = Watch()
    module = module_of(Adaptive(dual=dual(), rho=1.0))
    trained(module, [batch_of(9, 6)] * 3, watch)
    assert len(watch.outputs) == 3
    module.eval()(batch_of(9, 6))
    assert module.last_report is not None
    assert all(kept.tolist() == [9, 6] for kept in module.last_report.kept.values())


def test_rows_met_twice_count_once() -> None:
    parts = [
        {"index": [4, 2], "prediction": [1, 0], "label": [1, 1]},
        {"index": [7, 4], "prediction": [0, 9], "label": [0, 9]},
        {"index": [2], "prediction": [8], "label": [8]},
    ]
    assert merge_rows(parts) == {"index": [4, 2, 7], "prediction": [1, 0, 0], "label": [1, 1, 0]}
    assert merge_rows([]) == {}


def test_evaluation_scores_every_row_and_starts_anew(module_of: ModuleOf, batch_of: Any, trained: Any) -> None:
    module = module_of(Random(rho=0.5, slope=0.5))
    batches = [batch_of(9, 6), batch_of(5, 8, 4, seed=2, first_index=2)]
    trainer = trained(module, batches)
    module.eval()
    with torch.no_grad():
        hits = sum(int((module(batch).argmax(-1) == batch["labels"]).sum()) for batch in batches)
    results = [trainer.test(module, DataLoader(batches, batch_size=None), verbose=False)[0] for _ in range(2)]
    assert results[0] == results[1]
    assert results[0]["test/accuracy"] == pytest.approx(hits / 5)
    assert 0.0 < results[0]["test/flops_ratio"] < 1.0
