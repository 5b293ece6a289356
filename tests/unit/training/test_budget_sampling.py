"""Tests of sampled budgets: several budgets in one training step, and one set of scorers for all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers import BertConfig

from retention.core.duals import AscentDual, ExactDual
from retention.engine.adapters import adapter_for
from retention.errors import ConfigError
from retention.models.soft_targets import soft_target_loss
from retention.policies import Adaptive, PowerBert, Truncate
from retention.policies.length_adaptive import LengthAdaptive
from retention.training.budget_sampling import BudgetSampling
from retention.training.module import RetentionModule
from retention.training.phases import TrainingPhases

MakeModule = Callable[..., RetentionModule]
HARD = TrainingPhases(anneal_end=0.0, pruning_start=0.0)
SOFT = TrainingPhases(anneal_end=0.0, pruning_start=1.0)


def bert_shape() -> Any:
    config = BertConfig(hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32)
    return adapter_for("bert").shape(config)


def test_sandwich_draws_keep_all_then_random_then_smallest() -> None:
    sampling = BudgetSampling(sampled=2, sandwich=True, low=0.2, high=0.6, seed=3)
    first, *random, last = sampling.draw(7)
    assert (first, last) == (1.0, 0.2)
    assert len(set(random)) == 2 and all(0.2 <= rho <= 0.6 for rho in random)
    assert sampling.draw(7) == (first, *random, last), "ranks and resumed trainings draw the same"
    assert sampling.draw(8) != sampling.draw(7) != BudgetSampling(sampled=2, sandwich=True, seed=4).draw(7)


def test_random_budgets_cover_the_range() -> None:
    budgets = [rho for step in range(400) for rho in BudgetSampling(sampled=1, low=0.1, high=0.7).draw(step)]
    assert len(budgets) == 400 and 0.1 <= min(budgets) < 0.11 and 0.69 < max(budgets) <= 0.7
    assert sum(budgets) / 400 == pytest.approx(0.4, abs=0.03)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"sampled": -1}, "sampled"),
        ({"low": 0.7, "high": 0.7}, "low"),
        ({"low": 0.0}, "low"),
        ({"high": 1.2}, "low"),
        ({"in_place_weight": 2.0}, "in_place_weight"),
    ],
)
def test_invalid_setting_raises(settings: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        BudgetSampling(**settings)
    assert [problem.key for problem in caught.value.problems] == [key]


def test_step_loss_is_mean_over_passes(make_module: MakeModule, make_batch: Any, fit: Any) -> None:
    sampling = BudgetSampling(sampled=1, sandwich=True, low=0.2, high=0.9, in_place_weight=0.75)
    module, batch = make_module(Truncate(rho=0.5), budgets=sampling, phases=HARD), make_batch(12, 9)
    logits = []
    module.train()
    for rho in sampling.draw(0):
        with torch.no_grad(), module.policy.at_budget(rho):
            logits.append(module(batch))
    task = [F.cross_entropy(each, batch["labels"]) for each in logits]
    in_place = [soft_target_loss(each, logits[0], 2.0) for each in logits[1:]]
    expected = (task[0] + sum(0.25 * one + 0.75 * other for one, other in zip(task[1:], in_place, strict=True))) / 3
    losses: list[float] = []
    step = module.training_step
    module.training_step = lambda *args: (out := step(*args), losses.append(out["loss"].item()))[0]  # type: ignore
    fit(module, [batch])
    assert len({tuple(each.flatten().tolist()) for each in logits}) == 3, "three budgets, three different logits"
    assert losses == [pytest.approx(float(expected), rel=1e-5)]


@pytest.mark.parametrize("phases", [HARD, SOFT], ids=["hard", "soft"])
def test_every_pass_meets_its_budget(
    phases: TrainingPhases, make_module: MakeModule, make_batch: Any, fit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampling = BudgetSampling(sampled=1, sandwich=True, low=0.2, high=0.9)
    module = make_module(Adaptive(dual=ExactDual(), rho=0.5), budgets=sampling, phases=phases)
    kept_tokens: list[list[float]] = []
    encode = module.model.encode

    def record(batch: Any) -> Any:
        encoded = encode(batch)
        report = module.model.last_report
        mass = report.keep_mass if module.phase == "soft" else report.kept
        kept_tokens.append([float(mass[layer].float().sum()) for layer in sorted(mass)])
        return encoded

    monkeypatch.setattr(module.model, "encode", record)
    fit(module, [make_batch(20, 20)])
    keep_ratios = [sum(gates) / 80 for gates in kept_tokens]
    _, random, smallest = sampling.draw(0)
    assert len(keep_ratios) == 3
    assert keep_ratios[0] in (0.0, 1.0), "keep-all: no gate acts"
    assert keep_ratios[1] == pytest.approx(random, abs=0.06), "whole tokens, and protected ones"
    assert keep_ratios[2] == pytest.approx(smallest, abs=0.06)


def test_gate_that_acts_at_any_budget_has_scorer() -> None:
    plain, sampled = (Adaptive(dual=ExactDual(), rho=0.7) for _ in range(2))
    sampled.support_budgets(0.1, 0.7)
    for policy in (plain, sampled):
        policy.build(bert_shape())
    assert plain.scored == (1,), "at 0.7 the first gate keeps everything"
    assert sampled.scored == (0, 1)
    assert set(sampled.scorer_macs()) == {1}, "an unused scorer costs nothing"
    with sampled.at_budget(0.3):
        assert set(sampled.scorer_macs()) == {0, 1}


def test_policies_with_fixed_budget_raise() -> None:
    with pytest.raises(ConfigError, match=r"dual: .*dual=exact"):
        Adaptive(dual=AscentDual(), rho=0.3).support_budgets(0.1, 0.7)
    with pytest.raises(ConfigError, match="schedule: "):
        Truncate(rho=0.3, schedule=[0.5, 0.1]).support_budgets(0.1, 0.7)
    with pytest.raises(ConfigError):
        LengthAdaptive(rho=0.3).support_budgets(0.1, 0.7)


def test_budget_is_restored_after_block() -> None:
    policy = Adaptive(dual=ExactDual(), rho=0.3)
    policy.build(bert_shape())
    before = policy.budget.keep_ratios()
    with pytest.raises(RuntimeError), policy.at_budget(1.0):
        assert not any(policy.active)
        raise RuntimeError
    assert all(policy.active) and torch.equal(policy.budget.keep_ratios(), before)


def test_budgets_that_a_policy_cannot_follow_are_refused() -> None:
    listed, learned, scored = Truncate(rho=0.5, schedule=[0.7, 0.3]), PowerBert(rho=0.3), Adaptive(rho=0.7)
    for policy, rho, message in (
        (listed, 1.0, "schedule is a list of keep ratios, which 1.0 cannot change"),
        (learned, 0.9, "keeps what it learned at 0.3, got 0.9"),
        (scored, 0.3, "no scorer after layer 0"),
    ):
        policy.build(bert_shape())
        with pytest.raises(ConfigError, match=message), policy.at_budget(rho):
            pass
        with policy.at_budget(policy.rho):
            assert policy.active == policy._active


def test_micro_batches_of_a_step_share_budgets(
    make_module: MakeModule, make_batch: Any, fit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampling = BudgetSampling(sampled=1, low=0.2, high=0.9)
    module = make_module(Adaptive(dual=ExactDual(), rho=0.5), budgets=sampling, phases=HARD)
    budgets: list[float] = []
    encode = module.model.encode
    monkeypatch.setattr(
        module.model, "encode", lambda batch: (budgets.append(module.policy.budget.rho), encode(batch))[1]
    )
    fit(module, [make_batch(20, 20)] * 4, accumulate_grad_batches=2)
    assert budgets == [rho for step in (0, 1) for rho in 2 * sampling.draw(step)]
