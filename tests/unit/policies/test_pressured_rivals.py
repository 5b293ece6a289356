"""Methods whose count follows the text: LTP, Transkimmer, Infor-Coef, and the dual that presses on them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from retention.errors import ConfigError
from retention.policies.infor_coef import InforCoef
from retention.policies.ltp import LTP
from retention.policies.transkimmer import Transkimmer


def attended(make_view: Any, real: tuple[int, ...] = (20, 13), **changes: Any) -> Any:
    """A view whose received attention is 1 on average."""
    view = make_view(real, **changes)
    shares = torch.rand(view.valid.shape, generator=torch.Generator().manual_seed(5)) * view.valid
    return make_view(real, received_attention=shares * view.lengths[:, None] / shares.sum(1, True), **changes)


def trained(built: Any, policy: Any, phase: str) -> Any:
    made = built(policy).train()
    made.phase = phase
    return made


def test_ltp_gates_softly_by_the_distance_to_the_threshold(built: Any, make_view: Any, ask: Any) -> None:
    policy, view = trained(built, LTP(rho=0.4, rate=1.0, schedule="flat"), "soft"), attended(make_view)
    with torch.no_grad():
        policy.raw_thresholds.fill_(0.9)
    decision = ask(policy, view)
    expected = torch.sigmoid((view.received_attention - 0.9) / 0.1)
    free = view.valid & ~view.protected
    torch.testing.assert_close(decision.log_gates.exp()[free], expected[free])
    assert (decision.log_gates[~free] == 0).all() and decision.keep_mask is None
    mass = torch.where(view.protected, 1.0, expected * view.valid).sum(1)
    torch.testing.assert_close(policy.report.keep_mass[0], mass)
    torch.testing.assert_close(policy.budget_slack(), ((mass / view.lengths).mean() - 0.4).unsqueeze(0))


def test_ltp_keeps_what_reaches_the_threshold(built: Any, make_view: Any, ask: Any) -> None:
    policy, view = built(LTP(rho=0.4)).eval(), attended(make_view)
    with torch.no_grad():
        policy.raw_thresholds.fill_(0.2)  # at the default rate of 5: the average token
    keep = ask(policy, view).keep_mask
    assert torch.equal(keep, ((view.received_attention >= 1.0) | view.protected) & view.valid)
    assert not policy.exact and built(LTP(rho=0.4, exact_topk=True)).exact


def test_ltp_freezes_its_thresholds_in_the_hard_stage(built: Any, make_view: Any, ask: Any) -> None:
    policy, view = trained(built, LTP(rho=0.4, schedule="flat"), "hard"), attended(make_view)
    decision = ask(policy, view)
    assert decision.log_gates is None and not policy.budget_loss().requires_grad
    kept = decision.keep_mask.sum(1) / view.lengths
    torch.testing.assert_close(policy.budget_slack(), (kept.mean() - 0.4).unsqueeze(0))


@pytest.mark.parametrize("kind", [LTP, Transkimmer, InforCoef])
def test_pressure_brings_the_kept_share_to_the_one_asked(kind: Any, built: Any, make_view: Any, ask: Any) -> None:
    torch.manual_seed(0)
    policy, view = trained(built, kind(rho=0.4, schedule="flat"), "soft"), attended(make_view, (40, 30))
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-2)
    first, slacks = None, []
    for _ in range(150):
        ask(policy, view)
        slack = policy.budget_slack()
        optimizer.zero_grad()
        policy.budget_loss().backward()
        optimizer.step()
        policy.step_dual(slack.detach())
        first = slack.item() if first is None else first
        slacks.append(slack.item())
    assert first > 0.25 and abs(sum(slacks[-20:]) / 20) < 0.08
    assert set(policy.price()) == {0, 1, 2} and policy.price()[0] > 0


@pytest.mark.parametrize("kind", [LTP, Transkimmer, InforCoef])
@pytest.mark.parametrize("start", [-5.0, 5.0])
def test_the_level_brings_decisions_to_the_share_asked(
    start: float, kind: Any, built: Any, make_view: Any, ask: Any
) -> None:
    policy, view = trained(built, kind(rho=0.4, schedule="flat"), "hard"), attended(make_view, (40, 30))
    with torch.no_grad():
        if kind is LTP:
            policy.raw_thresholds.fill_(0.2)
        else:  # tokens that differ, as those of a trained predictor do
            policy.predictors["0"].out.weight.mul_(20.0)
    policy.level.fill_(start)  # where nearly all or next to nothing is kept
    for _ in range(200):
        ask(policy, view)
        policy.step_dual(policy.budget_slack().detach())
    assert abs(policy.budget_slack().item()) < 0.05
    assert (ask(policy.eval(), view).keep_mask.sum(1) / view.lengths).mean().item() == pytest.approx(0.4, abs=0.05)


@pytest.mark.parametrize("kind", [LTP, Transkimmer])
def test_the_level_stays_where_nothing_asks_for_it(kind: Any, built: Any) -> None:
    for policy, phase in (
        (kind(rho=0.4), "soft"),
        (kind(rho=0.4, calibrate_threshold=False), "hard"),
        (kind(rho=0.4, exact_topk=True), "hard"),
    ):
        made = trained(built, policy, phase)
        made.step_dual(torch.tensor([0.3]))
        assert made.level == 0


def test_the_level_is_saved(built: Any) -> None:
    policy = trained(built, LTP(rho=0.4), "hard")
    policy.step_dual(torch.tensor([0.3]))
    again = built(LTP(rho=0.4))
    again.load_state_dict(policy.state_dict())
    assert again.level == policy.level > 0


@pytest.mark.parametrize("kind", [LTP, Transkimmer])
def test_strict_keeps_exactly_the_budget(kind: Any, built: Any, make_view: Any, ask: Any) -> None:
    policy = built(kind(rho=0.5, schedule="flat", exact_topk=True)).eval()
    assert ask(policy, attended(make_view)).keep_mask.sum(1).tolist() == [10, 6]


def test_transkimmer_draws_in_the_soft_phase_only(built: Any, make_view: Any, ask: Any) -> None:
    policy, view = trained(built, Transkimmer(rho=0.4, keep_bias=0.0, schedule="flat"), "soft"), make_view((40, 40))
    assert not torch.equal(ask(policy, view).keep_mask, ask(policy, view).keep_mask)
    policy.phase = "hard"
    hard = ask(policy, view)
    assert torch.equal(hard.keep_mask, ask(policy, view).keep_mask)
    assert torch.equal(hard.keep_mask, ask(policy.eval(), view).keep_mask)
    expected = (policy.score(view) >= 0) | view.protected
    assert torch.equal(hard.keep_mask, expected & view.valid)


def test_transkimmer_starts_near_keeping_everything(built: Any, make_view: Any, ask: Any) -> None:
    policy = built(Transkimmer(rho=0.4)).eval()
    assert torch.equal(ask(policy, make_view()).keep_mask, make_view().valid)


@pytest.mark.parametrize("phase", ["soft", "hard"])
def test_transkimmers_gates_are_open_and_carry_the_gradient_of_the_decision(
    phase: str, built: Any, make_view: Any, ask: Any
) -> None:
    policy, view = trained(built, Transkimmer(rho=0.4, keep_bias=0.0, schedule="flat"), phase), make_view((20, 13))
    decision = ask(policy, view)
    assert (decision.log_gates == 0).all()
    kept = decision.keep_mask.float().sum(1)
    torch.testing.assert_close(policy.budget_slack()[0], (kept / view.lengths).mean() - 0.4)
    for value in (decision.log_gates.sum(), policy.budget_slack().sum()):
        policy.zero_grad()
        value.backward(retain_graph=True)
        assert policy.predictors["0"].out.bias.grad.item() > 0


def test_infor_coef_prices_norm_and_entropy(built: Any, make_view: Any, ask: Any) -> None:
    policy, view = trained(built, InforCoef(rho=0.4, norm=1.0, entropy=0.0), "hard"), make_view((20, 13))
    keep = ask(policy, view).keep_mask
    norm = torch.stack([view.hidden_states[row][keep[row]].norm() for row in range(2)]).mean()
    torch.testing.assert_close(policy.budget_loss() - policy.pressure.penalty(policy.budget_slack()), norm)
    policy = trained(built, InforCoef(rho=0.4, norm=0.0, entropy=1.0), "hard")
    ask(policy, view)
    logits = policy.score(view)[view.valid & ~view.protected]
    entropy = F.binary_cross_entropy_with_logits(logits, torch.sigmoid(logits))
    torch.testing.assert_close(policy.budget_loss() - policy.pressure.penalty(policy.budget_slack()), entropy)


def test_a_text_of_which_nothing_would_be_kept_keeps_its_best_token(built: Any, make_view: Any, ask: Any) -> None:
    policy = built(LTP(rho=0.4)).eval()
    with torch.no_grad():
        policy.raw_thresholds.fill_(100.0)
    view = attended(make_view, protected=torch.zeros(2, 20, dtype=torch.bool))
    keep = ask(policy, view).keep_mask
    assert keep.sum(1).tolist() == [1, 1]
    assert torch.equal(keep.long().argmax(1), view.received_attention.argmax(1))


def test_all_bad_settings_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        InforCoef(rho=2.0, norm=-1.0, temperature=0.0, eta=0.0)
    assert [problem.key for problem in caught.value.problems] == ["norm", "temperature", "eta", "rho"]
    with pytest.raises(ConfigError, match="temperature: must be > 0"):
        LTP(rho=0.3, temperature=-1.0)


def test_short_texts_are_asked_for_what_an_exact_budget_spends_on_them(built: Any, make_view: Any, ask: Any) -> None:
    protected = torch.zeros(2, 20, dtype=torch.bool)
    protected[0, :2] = protected[1, :6] = True  # 6 of 13 tokens cannot go, where 4 are asked for
    view = attended(make_view, protected=protected)
    strict = trained(built, LTP(rho=0.3, schedule="flat", exact_topk=True), "hard")
    assert ask(strict, view).keep_mask.sum(1).tolist() == [6, 6]
    assert abs(strict.budget_slack().item()) < 0.01
