"""Test Transkimmer, and what Infor-Coef shares with it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertModel

from retention.core.flops import EncoderShape
from retention.core.scorer import MLPScorer
from retention.engine import Decision, Retainer
from retention.errors import ConfigError
from retention.policies import InforCoef, Transkimmer
from retention.policies.transkimmer import SkimPredictor

BOTH = pytest.mark.parametrize("kind", [Transkimmer, InforCoef])


def test_gates_are_sampled_in_the_soft_phase_only(in_training: Any, make_view: Any, decide: Any) -> None:
    policy, view = in_training(Transkimmer(rho=0.4, keep_bias=0.0, schedule="flat"), "soft"), make_view((40, 40))
    assert not torch.equal(decide(policy, view).log_gates, decide(policy, view).log_gates)
    policy.phase = "hard"
    hard = decide(policy, view)
    assert torch.equal(hard.keep_mask, decide(policy, view).keep_mask)
    assert torch.equal(hard.keep_mask, decide(policy.eval(), view).keep_mask)
    expected = (policy.score(view) >= 0) | view.protected
    assert torch.equal(hard.keep_mask, expected & view.valid)


def test_initial_policy_keeps_everything(build_policy: Any, make_view: Any, decide: Any) -> None:
    policy = build_policy(Transkimmer(rho=0.4)).eval()
    assert torch.equal(decide(policy, make_view()).keep_mask, make_view().valid)


def test_hard_gates_are_open_and_carry_the_gradient_of_the_decision(
    in_training: Any, make_view: Any, decide: Any
) -> None:
    policy, view = in_training(Transkimmer(rho=0.4, keep_bias=0.0, schedule="flat"), "hard"), make_view((20, 13))
    decision = decide(policy, view)
    assert (decision.log_gates == 0).all()
    kept = decision.keep_mask.float().sum(1)
    torch.testing.assert_close(policy.budget_slack()[0], (kept / view.lengths).mean() - 0.4)
    for value in (decision.log_gates.sum(), policy.budget_slack().sum()):
        policy.zero_grad()
        value.backward(retain_graph=True)
        assert policy.predictors["0"].out.bias.grad.item() > 0


def test_soft_phase_removes_nothing_and_counts_keep_probabilities(
    in_training: Any, make_view: Any, decide: Any
) -> None:
    policy, view = in_training(Transkimmer(rho=0.4, keep_bias=0.0, schedule="flat"), "soft"), make_view((20, 13))
    decision = decide(policy, view)
    free = view.valid & ~view.protected
    assert (
        decision.keep_mask is None and (decision.log_gates[~free] == 0).all() and (decision.log_gates[free] < 0).all()
    )
    probs = torch.where(view.protected, 1.0, torch.sigmoid(policy.score(view))) * view.valid
    torch.testing.assert_close(policy.budget_slack()[0], (probs.sum(1) / view.lengths).mean() - 0.4)
    torch.testing.assert_close(policy.report.keep_mass[0], probs.sum(1))


def score_gradients(kind: Any, soft_gates: bool) -> tuple[Tensor, Tensor]:
    """Return |d task loss / d score| at the first gate in the soft phase, of kept and of dropped tokens."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64}
    encoder = BertModel(BertConfig(vocab_size=60, **sizes, initializer_range=0.2), add_pooling_layer=False).eval()
    policy = kind(rho=0.4, keep_bias=0.0, soft_gates=soft_gates)
    policy.build(EncoderShape(num_layers=4, hidden_size=32, intermediate_size=64))
    policy.train().phase = "soft"
    scores: list[Tensor] = []
    decisions: list[Decision] = []
    original = policy.soft_decision

    def recorded(gate: int, values: Tensor, view: Any) -> Decision:
        values.retain_grad()
        scores.append(values)
        decisions.append(original(gate, values, view))
        return decisions[-1]

    policy.soft_decision = recorded
    ids = torch.randint(5, 60, (3, 24))
    with (
        Retainer(encoder, policy, layers=policy.layers) as retainer,
        retainer.protect(torch.arange(24).expand(3, 24) == 0),
    ):
        encoder(input_ids=ids).last_hidden_state[:, 0].square().mean().backward()
    keep, gates = decisions[0].keep_mask, decisions[0].log_gates
    assert gates is not None and scores[0].grad is not None
    keep = gates.exp() > 0.5 if keep is None else keep
    return scores[0].grad[keep].abs()[1:], scores[0].grad[~keep].abs()


@BOTH
def test_dropped_tokens_have_a_gradient_in_the_soft_phase(kind: Any) -> None:
    kept, dropped = score_gradients(kind, soft_gates=True)
    assert len(dropped) > 20 and (dropped > 0).all() and dropped.mean() > 0.05 * kept.mean() > 0


@BOTH
def test_dropped_tokens_have_no_gradient_if_they_are_removed_at_once(kind: Any) -> None:
    """Negative control: the form of earlier versions."""
    kept, dropped = score_gradients(kind, soft_gates=False)
    assert len(dropped) > 20 and kept.mean() > 0 and (dropped == 0).all()


@BOTH
def test_predictor_is_the_published_network(kind: Any, build_policy: Any) -> None:
    policy = build_policy(kind(rho=0.4))
    assert isinstance(policy.predictors["0"], SkimPredictor)
    assert policy.scorer_macs() == dict.fromkeys((0, 1, 2), 16 * 16 + 16)
    assert build_policy(kind(rho=0.4, predictor="mlp")).scorer_macs()[0] == 16 * 8 + 8


@BOTH
def test_checkpoint_with_the_predictor_of_earlier_versions_is_loaded(
    kind: Any, build_policy: Any, make_view: Any
) -> None:
    old, new = build_policy(kind(rho=0.4, predictor="mlp")).eval(), build_policy(kind(rho=0.4)).eval()
    loaded = torch.nn.ModuleDict({"policy": new})
    loaded.load_state_dict({f"policy.{key}": value for key, value in old.state_dict().items()})
    assert new.predictor == "mlp" and isinstance(new.predictors["0"], MLPScorer)
    assert torch.equal(new.score(make_view()), old.score(make_view()))


def test_unknown_predictor_is_refused() -> None:
    with pytest.raises(ConfigError, match="predictor: must be one of layer_norm, mlp"):
        Transkimmer(rho=0.3, predictor="linear")


@BOTH
@pytest.mark.parametrize("phase", ["soft", "hard"])
def test_saliency_trains_the_predictors(kind: Any, phase: str, in_training: Any, make_view: Any, decide: Any) -> None:
    """The ranking of a saliency is learned from its loss alone, and not without it."""
    policy, view = in_training(kind(rho=0.4), phase), make_view((20, 13))
    assert policy.scored == policy.layers
    saliency = view.hidden_states[:, :, 0].exp() * view.valid
    decide(policy, view)
    assert policy.saliency_loss() == 0
    policy.set_saliency({0: saliency})
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        decide(policy, view)
        losses.append(policy.saliency_loss())
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    policy.eval()
    free = view.valid & ~view.protected
    ranking = torch.stack([policy.score(view)[free], saliency[free].log()])
    assert losses[-1] < losses[0] - 0.1 and torch.corrcoef(ranking)[0, 1] > 0.8
    untrained = torch.stack([in_training(kind(rho=0.4), phase).score(view)[free], saliency[free].log()])
    assert torch.corrcoef(untrained)[0, 1].abs() < 0.6
