"""What every policy does in each phase, and that evaluation always removes with the full budget."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from retention.core.duals import AscentDual, ExactDual
from retention.engine import ForwardReport
from retention.errors import ConfigError
from retention.policies import Adaptive, Random, RetentionPolicy, Threshold, Truncate
from retention.policies.bases.retention_policy import PHASES

POLICIES: dict[str, Callable[..., RetentionPolicy]] = {
    "adaptive": lambda **more: Adaptive(dual=ExactDual(), schedule="flat", **more),
    "ascent": lambda **more: Adaptive(dual=AscentDual(), schedule="flat", **more),
    "random": lambda **more: Random(schedule="flat", **more),
    "truncate": lambda **more: Truncate(schedule="flat", **more),
}
SOFT = ("adaptive", "ascent")

each_policy = pytest.mark.parametrize("name", POLICIES)


@each_policy
def test_keep_all_decides_nothing(name: str, built: Any, make_view: Any, ask: Any) -> None:
    policy = built(POLICIES[name](rho=0.5)).train()
    policy.phase = "warmup"
    assert ask(policy, make_view()) is None
    assert not policy.report.kept and not policy.report.targets and not policy.report.keep_mass


@each_policy
def test_soft_gates_remove_nothing_and_others_remove_already(name: str, built: Any, make_view: Any, ask: Any) -> None:
    policy = built(POLICIES[name](rho=0.5)).train()
    policy.phase = "soft"
    decision = ask(policy, make_view())
    if name in SOFT:
        assert policy.current_phase == "soft" and decision.keep_mask is None
        assert decision.log_gates is not None and (decision.log_gates <= 0).all()
        assert not policy.report.kept and sorted(policy.report.keep_mass) == [0]
        # expectations are held at the budget before rounding, or its slack could not reach 0
        assert torch.equal(policy.report.targets[0], policy.budget.targets(policy.report.lengths)[0])
    else:
        assert policy.current_phase == "hard" and decision.log_gates is None
        assert decision.keep_mask.sum(1).tolist() == policy.counts[0].tolist()
        assert torch.equal(policy.report.targets[0], policy.counts[0].float())


@each_policy
def test_removal_in_training_follows_the_annealed_budget(name: str, built: Any, make_view: Any, ask: Any) -> None:
    policy = built(POLICIES[name](rho=0.5)).train()
    assert policy.phase == "hard"  # before anyone sets a phase
    kept = []
    for anneal in (0.0, 0.5, 1.0):
        policy.anneal = anneal
        kept.append(ask(policy, make_view()).keep_mask.sum(1).tolist())
    assert kept == [[20, 13], [15, 9], [10, 6]]


@each_policy
@pytest.mark.parametrize("phase", PHASES)
def test_evaluation_removes_with_the_full_budget(name: str, phase: str, built: Any, make_view: Any, ask: Any) -> None:
    policy = built(POLICIES[name](rho=0.5)).eval()
    policy.phase, policy.anneal = phase, 0.0
    decision = ask(policy, make_view())
    assert policy.current_phase == "hard" and policy.current_anneal == 1.0
    assert decision.keep_mask.sum(1).tolist() == [10, 6] and decision.log_gates is None


@each_policy
def test_a_gate_with_nothing_to_remove_is_skipped_but_reported(name: str, built: Any, make_view: Any, ask: Any) -> None:
    policy = built(POLICIES[name](rho=0.5)).eval()
    assert policy.active == (True, False, False)
    view = make_view((10, 6), layer_idx=1)
    assert ask(policy, view) is None
    assert policy.report.kept[1].tolist() == [10, 6]
    assert policy.report.keep_indices[1][1].tolist() == [0, 1, 2, 3, 4, 5, -1, -1, -1, -1]


@each_policy
def test_protected_tokens_stay_and_padding_goes(name: str, built: Any, make_view: Any, ask: Any) -> None:
    policy = built(POLICIES[name](rho=0.2)).eval()
    view = make_view((20, 13))
    view.protected[:, [11, 12, 19]] = torch.tensor([[True, True, True], [True, True, False]])
    keep = ask(policy, view).keep_mask
    assert keep[view.protected].all() and not keep[~view.valid].any()


def test_by_default_all_layers_but_the_last_are_gated(built: Any) -> None:
    assert built(Truncate(rho=0.5)).layers == (0, 1, 2)
    assert built(Truncate(rho=0.5, layers=[3, 1])).layers == (1, 3)


def test_asking_before_a_pass_starts_is_an_error(built: Any, make_view: Any) -> None:
    policy = built(Truncate(rho=0.5))
    for read in (lambda: policy.report, lambda: policy.counts, lambda: policy.decide(make_view())):
        with pytest.raises(RuntimeError, match="inside a Retainer"):
            read()


def test_a_pass_starts_with_a_clean_report(built: Any, make_view: Any, ask: Any) -> None:
    policy = built(Adaptive(dual=ExactDual(), rho=0.5, schedule=[0.6, 0.5, 0.4])).train()
    policy.phase = "soft"
    ask(policy, make_view())
    report = ForwardReport(lengths=torch.tensor([4]))
    policy.begin(report)
    assert policy.report is report and not report.keep_mass
    assert policy.budget_slack().tolist() == [0, 0, 0]


def test_a_policy_without_soft_gates_has_no_soft_decision(built: Any, make_view: Any) -> None:
    policy = built(Truncate(rho=0.5))
    with pytest.raises(TypeError, match="Truncate has no soft gates"):
        policy.soft_decision(0, torch.zeros(2, 20), make_view())


def problem_keys(caught: pytest.ExceptionInfo[ConfigError]) -> list[str]:
    return [problem.key for problem in caught.value.problems]


def test_all_problems_of_a_policy_come_in_one_error() -> None:
    with pytest.raises(ConfigError) as caught:
        Adaptive(
            dual=ExactDual(),
            rho=1.7,
            beta=0.0,
            scorer_kind="oracle",
            layers=[-1],
            ranking_noise=-1,
            beta_end=0,
            gate_target="keys",
        )
    assert problem_keys(caught) == ["scorer_kind", "beta", "rho", "layers", "ranking_noise", "beta_end", "gate_target"]
    assert "must be in (0, 1], got 1.7" in str(caught.value)


def test_a_subclass_adds_its_own_to_them() -> None:
    with pytest.raises(ConfigError) as caught:
        Threshold(dual=ExactDual(), rho=0.0, gamma=0.1, threshold=1.0)
    assert problem_keys(caught) == ["threshold", "gamma", "rho"]


@pytest.mark.parametrize("kind", [Truncate, Random])
def test_plain_policies_check_the_budget(kind: Callable[..., RetentionPolicy]) -> None:
    with pytest.raises(ConfigError) as caught:
        kind(rho=2.0, schedule="steep", slope=3.0, layers=[])
    assert problem_keys(caught) == ["rho", "slope", "schedule", "layers"]


def test_layers_and_lists_must_fit_the_encoder(built: Any) -> None:
    with pytest.raises(ConfigError, match=r"layer 14 does not exist, the encoder has 4 \(0..3\)"):
        built(Truncate(rho=0.5, layers=[14]))
    with pytest.raises(ConfigError, match="has 2 shares for 3 gated layers"):
        built(Truncate(rho=0.5, schedule=[0.6, 0.4]))
