"""Test the training phases of policies, and that evaluation always prunes with the full budget."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from retention.core.duals import AscentDual
from retention.engine import ForwardReport
from retention.errors import ConfigError
from retention.policies import Adaptive, Random, RetentionPolicy, Threshold, Truncate
from retention.policies.bases.retention_policy import PHASES

POLICIES: dict[str, Callable[..., RetentionPolicy]] = {
    "adaptive": lambda **more: Adaptive(schedule="flat", **more),
    "ascent": lambda **more: Adaptive(dual=AscentDual(), schedule="flat", **more),
    "random": lambda **more: Random(schedule="flat", **more),
    "truncate": lambda **more: Truncate(schedule="flat", **more),
}
SOFT = ("adaptive", "ascent")

each_policy = pytest.mark.parametrize("name", POLICIES)


@each_policy
def test_warmup_makes_no_decision(name: str, build_policy: Any, make_view: Any, decide: Any) -> None:
    policy = build_policy(POLICIES[name](rho=0.5)).train()
    policy.phase = "warmup"
    assert decide(policy, make_view()) is None
    assert not policy.report.kept and not policy.report.targets and not policy.report.keep_mass


@each_policy
def test_soft_phase_gates_softly_or_prunes_without_soft_gates(
    name: str, build_policy: Any, make_view: Any, decide: Any
) -> None:
    policy = build_policy(POLICIES[name](rho=0.5)).train()
    policy.phase = "soft"
    decision = decide(policy, make_view())
    if name in SOFT:
        assert policy.current_phase == "soft" and decision.keep_mask is None
        assert decision.log_gates is not None and (decision.log_gates <= 0).all()
        assert not policy.report.kept and sorted(policy.report.keep_mass) == [0]
        # the target is not rounded, so that the slack can reach 0
        assert torch.equal(policy.report.targets[0], policy.budget.targets(policy.report.lengths)[0])
    else:
        assert policy.current_phase == "hard" and decision.log_gates is None
        assert decision.keep_mask.sum(1).tolist() == policy.counts[0].tolist()
        assert torch.equal(policy.report.targets[0], policy.counts[0].float())


@each_policy
def test_hard_phase_follows_the_annealed_budget(name: str, build_policy: Any, make_view: Any, decide: Any) -> None:
    policy = build_policy(POLICIES[name](rho=0.5)).train()
    assert policy.phase == "hard"  # the default
    kept = []
    for anneal in (0.0, 0.5, 1.0):
        policy.anneal = anneal
        kept.append(decide(policy, make_view()).keep_mask.sum(1).tolist())
    assert kept == [[20, 13], [15, 9], [10, 6]]


@each_policy
@pytest.mark.parametrize("phase", PHASES)
def test_evaluation_prunes_with_the_full_budget(
    name: str, phase: str, build_policy: Any, make_view: Any, decide: Any
) -> None:
    policy = build_policy(POLICIES[name](rho=0.5)).eval()
    policy.phase, policy.anneal = phase, 0.0
    decision = decide(policy, make_view())
    assert policy.current_phase == "hard" and policy.current_anneal == 1.0
    assert decision.keep_mask.sum(1).tolist() == [10, 6] and decision.log_gates is None


@each_policy
def test_inactive_gate_is_skipped_but_reported(name: str, build_policy: Any, make_view: Any, decide: Any) -> None:
    policy = build_policy(POLICIES[name](rho=0.5)).eval()
    assert policy.active == (True, False, False)
    view = make_view((10, 6), layer_idx=1)
    assert decide(policy, view) is None
    assert policy.report.kept[1].tolist() == [10, 6]
    assert policy.report.keep_indices[1][1].tolist() == [0, 1, 2, 3, 4, 5, -1, -1, -1, -1]


@each_policy
def test_protected_tokens_are_kept_and_padding_is_removed(
    name: str, build_policy: Any, make_view: Any, decide: Any
) -> None:
    policy = build_policy(POLICIES[name](rho=0.2)).eval()
    view = make_view((20, 13))
    view.protected[:, [11, 12, 19]] = torch.tensor([[True, True, True], [True, True, False]])
    keep = decide(policy, view).keep_mask
    assert keep[view.protected].all() and not keep[~view.valid].any()


def test_all_layers_but_the_last_are_gated_by_default(build_policy: Any) -> None:
    assert build_policy(Truncate(rho=0.5)).layers == (0, 1, 2)
    assert build_policy(Truncate(rho=0.5, layers=[3, 1])).layers == (1, 3)


def test_reading_before_a_forward_pass_is_an_error(build_policy: Any, make_view: Any) -> None:
    policy = build_policy(Truncate(rho=0.5))
    for read in (lambda: policy.report, lambda: policy.counts, lambda: policy.decide(make_view())):
        with pytest.raises(RuntimeError, match="inside a Retainer"):
            read()


def test_begin_resets_report_and_slack(build_policy: Any, make_view: Any, decide: Any) -> None:
    policy = build_policy(Adaptive(rho=0.5, schedule=[0.6, 0.5, 0.4])).train()
    policy.phase = "soft"
    decide(policy, make_view())
    report = ForwardReport(lengths=torch.tensor([4]))
    policy.begin(report)
    assert policy.report is report and not report.keep_mass
    assert policy.budget_slack().tolist() == [0, 0, 0]


def test_soft_decision_is_an_error_without_soft_gates(build_policy: Any, make_view: Any) -> None:
    policy = build_policy(Truncate(rho=0.5))
    with pytest.raises(TypeError, match="Truncate has no soft gates"):
        policy.soft_decision(0, torch.zeros(2, 20), make_view())


def problem_keys(caught: pytest.ExceptionInfo[ConfigError]) -> list[str]:
    return [problem.key for problem in caught.value.problems]


INVALID = [("rho", 1.7), ("rho", 0.0), ("schedule", "steep"), ("slope", 3.0), ("layers", [-2]), ("layers", [])]


@pytest.mark.parametrize("kind", [Truncate, Random, Adaptive, Threshold])
@pytest.mark.parametrize(("key", "value"), INVALID)
def test_every_policy_checks_its_budget(kind: Callable[..., RetentionPolicy], key: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        kind(**{"rho": 0.5, key: value})
    assert problem_keys(caught) == [key]
    assert value == [] or f"got {value!r}" in str(caught.value)


@pytest.mark.parametrize("kind", [Adaptive, Threshold])
def test_negative_ranking_noise_is_refused(kind: Callable[..., RetentionPolicy]) -> None:
    with pytest.raises(ConfigError) as caught:
        kind(rho=0.5, ranking_noise=-1.0)
    assert problem_keys(caught) == ["ranking_noise"]


def test_layers_and_keep_ratios_must_fit_the_encoder(build_policy: Any) -> None:
    with pytest.raises(ConfigError, match=r"layer 14 .* 4 \(0..3\)"):
        build_policy(Truncate(rho=0.5, layers=[14]))
    with pytest.raises(ConfigError, match="2 keep ratios for 3"):
        build_policy(Truncate(rho=0.5, schedule=[0.6, 0.4]))
