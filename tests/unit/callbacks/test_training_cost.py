"""Cost of a training in dense epochs: student, teacher, earlier runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from retention.callbacks import TrainingCost
from retention.core.flops import encoder_flops
from retention.policies import Dense, Random
from retention.training.budget_sampling import BudgetSampling
from retention.training.distillation import Distillation
from retention.training.phases import TrainingPhases
from retention.training.teacher import Teacher

HARD = TrainingPhases(anneal_start=0.0, anneal_end=0.0, pruning_start=0.0)


@pytest.fixture
def cost_of(make_module: Any, make_batch: Any, fit: Any) -> Callable[..., dict[str, Any]]:
    """``cost_of(policy, teacher=..., epochs=...)``: the cost of a training on two batches per epoch."""

    def run(policy: Any, *, teacher: Any = None, epochs: int = 1, earlier: Any = None, **settings: Any) -> Any:
        module = make_module(policy, phases=HARD, **settings)
        if teacher is not None:
            module.set_teacher(Teacher(teacher))
        cost = TrainingCost()
        if earlier is not None:
            cost.add_earlier_run(earlier)
        second = make_batch(5, 8)
        fit(module, [make_batch(9, 6), {**second, "index": second["index"] + 2}], cost, max_epochs=epochs)
        return cost.summary()

    return run


@pytest.mark.parametrize("epochs", [1, 3])
def test_an_epoch_of_the_dense_model_costs_one_dense_epoch(cost_of: Any, epochs: int) -> None:
    cost = cost_of(Dense(), epochs=epochs)
    assert cost["dense_epochs"] == cost["total_dense_epochs"] == pytest.approx(epochs)
    assert cost["teacher_dense_epochs"] == cost["earlier_dense_epochs"] == 0.0


def test_flops_of_an_epoch_are_those_of_its_rows(cost_of: Any, dense_model: Any) -> None:
    expected = 3 * float(encoder_flops(dense_model.shape, torch.tensor([9, 6, 5, 8]), {}).sum())
    assert cost_of(Dense(), epochs=2)["dense_epoch_flops"] == pytest.approx(expected)


def test_removal_makes_training_cheaper(cost_of: Any) -> None:
    cheap, half = cost_of(Random(rho=0.2)), cost_of(Random(rho=0.7))
    assert 0.3 < cheap["dense_epochs"] < half["dense_epochs"] < 1.0


def test_a_teacher_costs_a_third_of_its_first_epoch(cost_of: Any, dense_model: Any) -> None:
    settings = {"distill": Distillation(weight=0.5, teacher="x"), "teacher": dense_model}
    once, twice = cost_of(Dense(), **settings), cost_of(Dense(), epochs=2, **settings)
    assert once["teacher_dense_epochs"] == pytest.approx(1 / 3)
    assert twice["teacher_dense_epochs"] == pytest.approx(1 / 3), "outputs are looked up after the first epoch"
    assert once["dense_epochs"] == pytest.approx(1 + 1 / 3)


def test_every_sampled_budget_counts(cost_of: Any) -> None:
    one = cost_of(Random(rho=0.5), budgets=BudgetSampling(sampled=1, low=0.49, high=0.51))
    two = cost_of(Random(rho=0.5), budgets=BudgetSampling(sampled=2, low=0.49, high=0.51))
    assert two["dense_epochs"] == pytest.approx(2 * one["dense_epochs"], rel=0.05)


def test_runs_before_this_one_are_added(cost_of: Any) -> None:
    alone = cost_of(Dense())
    after = cost_of(Dense(), earlier={"training_cost": {"total_flops": 2.5 * alone["dense_epoch_flops"]}})
    assert after["earlier_dense_epochs"] == pytest.approx(2.5)
    assert after["total_dense_epochs"] == pytest.approx(3.5)
    unknown = cost_of(Dense(), earlier={"state_dict": {}})
    assert unknown["total_dense_epochs"] is None and unknown["dense_epochs"] == pytest.approx(1.0)


def test_a_resumed_training_costs_as_much_as_an_uninterrupted_one(
    make_module: Any, make_batch: Any, trainer_with: Any, tmp_path: Any
) -> None:
    def train(epochs: int, ckpt: Any = None) -> dict[str, Any]:
        module, cost = make_module(Dense()), TrainingCost()
        trainer = trainer_with(cost, max_epochs=epochs)
        loader = torch.utils.data.DataLoader([make_batch(9, 6)], batch_size=None)  # type: ignore[arg-type]
        trainer.fit(module, loader, ckpt_path=ckpt, weights_only=True)
        trainer.save_checkpoint(tmp_path / f"{epochs}.ckpt")
        return cost.summary()

    train(1)
    resumed = train(3, tmp_path / "1.ckpt")
    assert resumed["dense_epochs"] == pytest.approx(3.0)
    stored = torch.load(tmp_path / "3.ckpt", weights_only=True)["training_cost"]
    assert stored == resumed
    complete = TrainingCost()
    complete.restore({"training_cost": stored})
    assert complete.summary() == resumed
