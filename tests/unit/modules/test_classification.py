"""The classification head: pooling, what it gets to read, and accuracy."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from retention.core.duals import ExactDual
from retention.engine import LayerView
from retention.errors import ConfigError
from retention.models.encoded import Encoded
from retention.policies import Adaptive, Dense, Truncate
from retention.policies.bases.retention_policy import RetentionPolicy
from retention.tasks.classification.head import ClassificationModule
from retention.tasks.classification.metrics import Accuracy

ModuleOf = Callable[..., ClassificationModule]


def encoded() -> Encoded:
    """One text of three tokens, the last half closed, and one of two with padding full of garbage."""
    states = torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(1))
    states[1, 2] = 1e6
    weights = torch.tensor([[1.0, 1.0, 0.5], [1.0, 0.25, 0.0]])
    return Encoded(states, weights, torch.arange(3).expand(2, 3))


def test_mean_pooling_weighs_by_gates_and_ignores_padding(module_of: ModuleOf) -> None:
    module, given = module_of(pooling="mean").eval(), encoded()
    first = (given.hidden_states[0, 0] + given.hidden_states[0, 1] + 0.5 * given.hidden_states[0, 2]) / 2.5
    second = (given.hidden_states[1, 0] + 0.25 * given.hidden_states[1, 1]) / 1.25
    torch.testing.assert_close(module.logits(given, {}), module.head(torch.stack([first, second])))


def test_cls_pooling_reads_the_first_token(module_of: ModuleOf) -> None:
    module, given = module_of(pooling="cls").eval(), encoded()
    torch.testing.assert_close(module.logits(given, {}), module.head(given.hidden_states[:, 0]))


def test_attention_pooling_starts_as_the_mean(module_of: ModuleOf) -> None:
    focused, plain = module_of(pooling="attention").eval(), module_of(pooling="mean").eval()
    torch.testing.assert_close(focused.pooled(encoded()), plain.pooled(encoded()))


def test_attention_pooling_weighs_by_scores_and_gates(module_of: ModuleOf) -> None:
    module, given = module_of(pooling="attention").eval(), encoded()
    with torch.no_grad():
        module.focus.weight.normal_(generator=torch.Generator().manual_seed(3))
        scores = module.focus(given.hidden_states[:, :2]).squeeze(-1)
    first, second = given.hidden_states[1, :2]
    a, b = scores[1, 0].exp(), 0.25 * scores[1, 1].exp()
    torch.testing.assert_close(module.pooled(given)[1], (a * first + b * second) / (a + b))


@pytest.mark.parametrize("dropped", ["cut", "forward"])
def test_depth_pooling_weighs_by_how_far_each_token_came(dropped: str, module_of: ModuleOf, batch_of: Any) -> None:
    policy = Truncate(rho=0.5, schedule=[0.6, 0.4], layers=[0, 1])
    module, batch = module_of(policy, pooling="depth", dropped=dropped).eval(), batch_of(10, 5)
    found = module.encode(batch)
    pooled = module.pooled(found)
    # of ten the protected first and last and the next four pass gate 0, and two less gate 1; of five 3 and 2
    passed = torch.tensor([[2.0, 2, 2, 1, 1, 0, 0, 0, 0, 2], [2, 1, 0, 0, 2, 0, 0, 0, 0, 0]])
    share = ((1 + passed) / 3 * batch["attention_mask"]).gather(1, found.positions) * found.weights
    expected = (share.unsqueeze(-1) * found.hidden_states).sum(1) / share.sum(1, keepdim=True)
    torch.testing.assert_close(pooled, expected)


def test_depth_pooling_of_soft_gates_counts_them_as_far_as_they_are_open(module_of: ModuleOf, batch_of: Any) -> None:
    module, batch = module_of(pooling="depth", dropped="forward").train(), batch_of(10, 6)
    module.policy.phase = "soft"
    module.encode(batch)
    drawn = module.retainer.depth_share()
    assert drawn[0, 0] == 1.0 and (drawn[0, 1:9] < 1.0).any() and (drawn[0] >= 1 / 3).all()
    drawn[0].sum().backward()
    assert module.policy.scorers["0"].out.weight.grad.abs().sum() > 0, "a gate that opens makes its token count more"


def test_depth_pooling_of_everything_is_the_mean(module_of: ModuleOf, batch_of: Any) -> None:
    batch = batch_of(10, 6)
    for policy, phase in ((Dense(), "hard"), (None, "warmup")):
        found = []
        for pooling in ("depth", "mean"):
            module = module_of(policy, pooling=pooling, dropped="forward").train()
            module.policy.phase = phase
            found.append(module.pooled(module.encode(batch)))
        torch.testing.assert_close(*found)


@pytest.mark.parametrize("dropped", ["cut", "forward"])
def test_special_tokens_compete_where_nothing_is_protected(dropped: str, module_of: ModuleOf, batch_of: Any) -> None:
    policy = Truncate(rho=0.5, schedule=[0.6, 0.4], layers=[0, 1])
    module, batch = module_of(policy, pooling="mean", protect="nothing", dropped=dropped).eval(), batch_of(10, 5)
    module.encode(batch)
    report = module.retainer.report
    assert [report.kept[layer].tolist() for layer in (0, 1)] == [[6, 3], [4, 2]]
    passed = report.depth((0, 1), 10)[0].tolist()
    assert passed == [2, 2, 2, 2, 1, 1, 0, 0, 0, 0], "the last token, which is special, goes like any other"
    guarded = module_of(policy, pooling="mean", dropped=dropped).eval()
    guarded.encode(batch)
    assert int(guarded.retainer.report.depth((0, 1), 10)[0, -1]) == 2


def test_a_head_that_reads_a_special_token_needs_it(module_of: ModuleOf) -> None:
    with pytest.raises(ConfigError, match="protect: must be special with pooling=cls"):
        module_of(pooling="cls", protect="nothing")


def test_the_head_refuses_bad_settings(module_of: ModuleOf) -> None:
    with pytest.raises(ConfigError) as caught:
        module_of(pooling="max", dropout=1.0, protect="all")
    assert [problem.key for problem in caught.value.problems] == ["protect", "pooling", "dropout"]


def test_cut_returns_the_kept_tokens_alone(module_of: ModuleOf, batch_of: Any) -> None:
    module = module_of(Truncate(rho=0.5, schedule="flat"), dropped="cut").eval()
    found = module.encode(batch_of(10, 6))
    assert found.hidden_states.shape == (2, 5, 16)
    assert found.positions[0].tolist() == [0, 1, 2, 3, 9], "the first ones and the protected last"
    assert found.positions[1, :3].tolist() == [0, 1, 5]
    assert found.weights.tolist() == [[1.0] * 5, [1.0, 1.0, 1.0, 0.0, 0.0]]


def test_forward_returns_every_token_at_its_place(module_of: ModuleOf, batch_of: Any) -> None:
    module = module_of(Truncate(rho=0.5, schedule="flat"), dropped="forward").eval()
    batch = batch_of(10, 6)
    found = module.encode(batch)
    assert found.hidden_states.shape == (2, 10, 16)
    assert torch.equal(found.weights, batch["attention_mask"].float())
    assert torch.equal(found.positions, torch.arange(10).expand(2, 10))


class OneTextWhole(RetentionPolicy):
    """Keeps the first text whole and the last two tokens of the others."""

    def score(self, view: LayerView) -> Tensor:
        return view.positions.float()

    def select(self, gate: int, scores: Tensor, view: LayerView) -> Tensor:
        late = view.positions >= view.lengths.unsqueeze(1) - 2
        late[0] = True
        return late & view.valid


def test_forward_keeps_places_apart_where_one_text_loses_nothing(module_of: ModuleOf, batch_of: Any) -> None:
    module = module_of(OneTextWhole(rho=0.5, slope=0.5), dropped="forward").eval()
    batch = batch_of(6, 6)
    found = module.encode(batch)
    assert module.last_report is not None and module.last_report.kept[0].tolist() == [6, 2]
    assert torch.equal(found.weights, torch.ones(2, 6))
    assert torch.equal(found.positions, torch.arange(6).expand(2, 6))


def test_soft_gates_reach_the_pooling(module_of: ModuleOf, batch_of: Any) -> None:
    module = module_of(Adaptive(dual=ExactDual(), rho=0.5, slope=0.5)).train()
    module.policy.phase = "soft"
    weights = module.encode(batch_of(10, 6)).weights
    assert ((weights > 0) & (weights < 1)).any() or (weights == 0)[0].any()
    assert (weights[1, 6:] == 0).all() and (weights[:, 0] == 1).all()


@pytest.mark.parametrize(
    ("predictions", "references", "expected"),
    [([1, 0, 2], [1, 1, 2], 2 / 3), ([0], [0], 1.0), ([3, 3], [0, 1], 0.0)],
)
def test_accuracy_by_hand_and_without_a_network(
    predictions: list[int], references: list[int], expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a metric must not ask the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert Accuracy().compute(predictions=predictions, references=references) == {"accuracy": pytest.approx(expected)}
