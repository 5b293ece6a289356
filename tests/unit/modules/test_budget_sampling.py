"""Several budgets in one training step, and one set of scorers for all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from retention.core.duals import AscentDual, ExactDual
from retention.engine.adapters import adapter_for
from retention.errors import ConfigError
from retention.policies import Adaptive, Truncate
from retention.policies.length_adaptive import LengthAdaptive
from retention.tasks.classification.head import ClassificationModule
from retention.training.budget_sampling import BudgetSampling
from retention.training.distillation import soft_target_loss
from retention.training.phases import Phases

ModuleOf = Callable[..., ClassificationModule]
REMOVAL = Phases(anneal_end=0.0, pruning_start=0.0)


def test_a_sandwich_is_everything_then_random_then_the_smallest() -> None:
    sampling = BudgetSampling(sampled=2, sandwich=True, low=0.2, high=0.6, seed=3)
    first, *drawn, last = sampling.draw(7)
    assert (first, last) == (1.0, 0.2)
    assert len(set(drawn)) == 2 and all(0.2 <= rho <= 0.6 for rho in drawn)
    assert sampling.draw(7) == (first, *drawn, last), "ranks and resumed trainings draw the same"
    assert sampling.draw(8) != sampling.draw(7) != BudgetSampling(sampled=2, sandwich=True, seed=4).draw(7)


def test_random_budgets_alone_cover_the_range() -> None:
    drawn = [rho for step in range(400) for rho in BudgetSampling(sampled=1, low=0.1, high=0.7).draw(step)]
    assert len(drawn) == 400 and 0.1 <= min(drawn) < 0.11 and 0.69 < max(drawn) <= 0.7
    assert sum(drawn) / 400 == pytest.approx(0.4, abs=0.03)


@pytest.mark.parametrize(
    ("settings", "keys"),
    [
        ({"sampled": -1}, ["sampled"]),
        ({"low": 0.7, "high": 0.7}, ["low"]),
        ({"low": 0.0}, ["low"]),
        ({"high": 1.2, "in_place_weight": 2.0}, ["low", "in_place_weight"]),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], keys: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        BudgetSampling(**settings)
    assert [problem.key for problem in caught.value.problems] == keys


def test_the_loss_of_a_step_is_the_mean_over_its_passes(module_of: ModuleOf, batch_of: Any, trained: Any) -> None:
    sampling = BudgetSampling(sampled=1, sandwich=True, low=0.2, high=0.9, in_place_weight=0.75)
    module, batch = module_of(Truncate(rho=0.5), budgets=sampling, phases=REMOVAL), batch_of(12, 9)
    answers = []
    module.train()
    for rho in sampling.draw(0):
        with torch.no_grad(), module.policy.at_budget(rho):
            answers.append(module(batch))
    own = [F.cross_entropy(logits, batch["labels"]) for logits in answers]
    near = [soft_target_loss(logits, answers[0], 2.0) for logits in answers[1:]]
    expected = (own[0] + sum(0.25 * one + 0.75 * other for one, other in zip(own[1:], near, strict=True))) / 3
    losses: list[float] = []
    step = module.training_step
    module.training_step = lambda *given: (out := step(*given), losses.append(out["loss"].item()))[0]  # type: ignore
    trained(module, [batch])
    assert len({tuple(logits.flatten().tolist()) for logits in answers}) == 3, "three budgets, three answers"
    assert losses == [pytest.approx(float(expected), rel=1e-5)]


@pytest.mark.parametrize("phases", [REMOVAL, Phases(anneal_end=0.0, pruning_start=1.0)])
def test_every_pass_meets_its_own_budget(
    phases: Phases, module_of: ModuleOf, batch_of: Any, trained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampling = BudgetSampling(sampled=1, sandwich=True, low=0.2, high=0.9)
    module = module_of(Adaptive(dual=ExactDual(), rho=0.5), budgets=sampling, phases=phases)
    asked: list[list[float]] = []
    encode = module.encode

    def watch(batch: Any) -> Any:
        encoded = encode(batch)
        report = module.last_report
        mass = report.keep_mass if module.phase == "soft" else report.kept
        asked.append([float(mass[layer].float().sum()) for layer in sorted(mass)])
        return encoded

    monkeypatch.setattr(module, "encode", watch)
    trained(module, [batch_of(20, 20)])
    shares = [[sum(gates) / 80 for gates in [passed]] for passed in asked]
    everything, random, smallest = sampling.draw(0)
    assert len(shares) == 3
    assert shares[0] in ([0.0], [1.0]), "keep-all: no gate acts"
    assert shares[1][0] == pytest.approx(random, abs=0.06), "whole tokens, and protected ones"
    assert shares[2][0] == pytest.approx(smallest, abs=0.06)
    assert everything == 1.0


def test_a_gate_that_acts_at_any_budget_has_a_scorer() -> None:
    shape = adapter_for("bert").shape(module_config())
    plain, at_budget = (Adaptive(dual=ExactDual(), rho=0.7) for _ in range(2))
    at_budget.support_budgets(0.1, 0.7)
    for policy in (plain, at_budget):
        policy.build(shape)
    assert plain.scored == (1,), "at 0.7 the first gate lets everything through"
    assert at_budget.scored == (0, 1)
    assert set(at_budget.scorer_macs()) == {1}, "and costs nothing there"
    with at_budget.at_budget(0.3):
        assert set(at_budget.scorer_macs()) == {0, 1}


def module_config() -> Any:
    from transformers import BertConfig

    return BertConfig(hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32)


def test_policies_that_cannot_follow_a_changing_budget_are_refused() -> None:
    with pytest.raises(ConfigError, match="dual: sampled budgets need dual=exact"):
        Adaptive(dual=AscentDual(), rho=0.3).support_budgets(0.1, 0.7)
    with pytest.raises(ConfigError, match="schedule: a list of shares is one budget"):
        Truncate(rho=0.3, schedule=[0.5, 0.1]).support_budgets(0.1, 0.7)
    with pytest.raises(ConfigError, match="cannot follow a budget that changes"):
        LengthAdaptive(rho=0.3).support_budgets(0.1, 0.7)


def test_leaving_the_block_brings_the_own_budget_back() -> None:
    policy = Adaptive(dual=ExactDual(), rho=0.3)
    policy.build(adapter_for("bert").shape(module_config()))
    before = policy.budget.shares()
    with pytest.raises(RuntimeError), policy.at_budget(1.0):
        assert not any(policy.active)
        raise RuntimeError
    assert all(policy.active) and torch.equal(policy.budget.shares(), before)


def test_the_micro_batches_of_a_step_share_their_budgets(
    module_of: ModuleOf, batch_of: Any, trained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampling = BudgetSampling(sampled=1, low=0.2, high=0.9)
    module = module_of(Adaptive(dual=ExactDual(), rho=0.5), budgets=sampling, phases=REMOVAL)
    served: list[float] = []
    encode = module.encode
    monkeypatch.setattr(module, "encode", lambda batch: (served.append(module.policy.budget.rho), encode(batch))[1])
    trained(module, [batch_of(20, 20)] * 4, accumulate_grad_batches=2)
    assert served == [rho for step in (0, 1) for rho in 2 * sampling.draw(step)]
