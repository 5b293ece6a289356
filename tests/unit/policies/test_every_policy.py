"""Test properties of every policy that has a file in conf/retention; a new file is tested without changes here."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from transformers import BertConfig, BertModel

from retention.core.budget import Budget
from retention.core.flops import EncoderShape, encoder_flops
from retention.engine import ForwardReport, Retainer, adapter_for
from retention.experiment.builder import Builder
from retention.policies import RetentionPolicy

CONF = Path(__file__).parents[3] / "conf"
NAMES = sorted(path.stem for path in (CONF / "retention").glob("*.yaml"))
LENGTHS = (23, 15, 9, 4)

each_policy = pytest.mark.parametrize("name", NAMES)


@cache
def composed(name: str) -> DictConfig:
    """Compose the configuration with this policy; cached, because composing is slow."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=[f"retention={name}"])


@pytest.fixture(scope="module")
def encoder() -> Any:
    """Build a random four-layer BERT without dropout, with attention far from uniform."""
    torch.manual_seed(0)
    fields = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
    config = BertConfig(
        **fields, intermediate_size=64, initializer_range=0.2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    config._attn_implementation = "eager"
    return BertModel(config, add_pooling_layer=False).eval()


@pytest.fixture(scope="module")
def batch() -> dict[str, Tensor]:
    """Return right-padded random samples of different lengths."""
    ids = torch.randint(5, 60, (len(LENGTHS), max(LENGTHS)), generator=torch.Generator().manual_seed(7))
    mask = (torch.arange(max(LENGTHS)).unsqueeze(0) < torch.tensor(LENGTHS).unsqueeze(1)).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


@pytest.fixture
def policy(encoder: Any) -> Callable[..., RetentionPolicy]:
    """Return ``policy(name, rho)``, which builds a policy from its file, with parameters away from their start."""

    def make(name: str, rho: float = 0.3) -> RetentionPolicy:
        config = composed(name).copy()
        OmegaConf.update(config, "retention.rho", rho)
        if "min_tokens" in config.retention:
            config.retention.min_tokens = 1  # the batch is short
        builder = Builder(config)
        torch.manual_seed(1)
        made: RetentionPolicy = builder.make("retention")
        builder.finish()
        made.build(adapter_for("bert").shape(encoder.config), "bert")
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.add_(0.5 * torch.randn(parameter.shape))
        return made

    return make


def protection(batch: dict[str, Tensor]) -> Tensor:
    """Protect the first token, the last real one, and two in between."""
    columns = torch.arange(max(LENGTHS)).unsqueeze(0)
    last = batch["attention_mask"].sum(1, keepdim=True) - 1
    return ((columns == 0) | (columns == last) | (columns == 5) | (columns == 11)) & batch["attention_mask"].bool()


def forward(
    encoder: Any, made: RetentionPolicy, batch: dict[str, Tensor], protected: Tensor
) -> tuple[Tensor, Retainer]:
    """Return the restored states and the retainer of one forward pass."""
    retainer = Retainer(encoder, made, layers=made.layers)
    with retainer, retainer.protect(protected):
        states = encoder(**batch).last_hidden_state
    return states, retainer


def kept_positions(retainer: Retainer, row: int) -> list[list[int]]:
    return [[p for p in indices[row].tolist() if p >= 0] for _, indices in sorted(retainer.report.keep_indices.items())]


@each_policy
def test_name_is_that_of_the_file(name: str, policy: Any) -> None:
    assert policy(name).name == name.removesuffix("_flat")  # another schedule is no other policy


@each_policy
@pytest.mark.parametrize("rho", [0.2, 0.6])
@torch.no_grad()
def test_kept_tokens_are_nested_ordered_real_and_within_budget(
    name: str, rho: float, policy: Any, encoder: Any, batch: dict[str, Tensor]
) -> None:
    made, protected = policy(name, rho).eval(), protection(batch)
    _, retainer = forward(encoder, made, batch, protected)
    num_protected = protected.sum(1)
    assert sorted(retainer.report.kept) == list(made.layers)
    for row, length in enumerate(LENGTHS):
        before = list(range(length))
        for gate, kept in enumerate(kept_positions(retainer, row)):
            assert kept == sorted(set(kept)) and set(kept) <= set(before), "in order, and a removed token stays removed"
            assert kept[-1] < length, "padding is never kept"
            assert set(protected[row].nonzero().flatten().tolist()) <= set(kept)
            if made.exact:
                assert len(kept) == max(int(made.counts[gate, row]), int(num_protected[row]))
            before = kept


@each_policy
@pytest.mark.parametrize("training", [False, True])
@torch.no_grad()
def test_every_gate_lets_min_tokens_through(
    name: str, training: bool, policy: Any, encoder: Any, batch: dict[str, Tensor]
) -> None:
    made = policy(name, 0.1)
    made.min_tokens = made.budget.min_tokens = 12
    made.train(training).phase = "hard"
    _, retainer = forward(encoder, made, batch, torch.zeros_like(batch["attention_mask"]).bool())
    for kept in retainer.report.kept.values():
        assert (kept >= torch.tensor(LENGTHS).clamp_max(12)).all()


@each_policy
@torch.no_grad()
def test_counts_meet_the_keep_ratio_or_its_flops(name: str, policy: Any) -> None:
    """On long samples, where rounding has little effect; policies may distribute the budget over depth differently."""
    made, lengths = policy(name, 0.4).eval(), torch.tensor([4000, 1000])
    made.begin(ForwardReport(lengths=lengths))
    counts = made.counts
    assert (counts[1:] <= counts[:-1]).all() and (counts >= 1).all()
    shape = EncoderShape(num_layers=4, hidden_size=32, intermediate_size=64)
    target = Budget(rho=0.4, schedule="linear", num_gates=3).targets(lengths)
    cost, target_cost = (encoder_flops(shape, lengths, dict(enumerate(each))) for each in (counts, target))
    by_ratio = ((counts / lengths).mean(0) - 0.4).abs() < 2e-3
    by_cost = (cost / target_cost - 1).abs() < 1e-2
    assert not made.layers or by_ratio.all() or by_cost.all()


@each_policy
@torch.no_grad()
def test_evaluation_is_deterministic_after_any_training_phase(
    name: str, policy: Any, encoder: Any, batch: dict[str, Tensor]
) -> None:
    made, protected = policy(name).eval(), protection(batch)
    torch.manual_seed(3)
    first, retainer = forward(encoder, made, batch, protected)
    kept = [kept_positions(retainer, row) for row in range(len(LENGTHS))]
    for phase in ("soft", "hard", "warmup"):
        made.train().phase = phase
        forward(encoder, made, batch, protected)
    torch.manual_seed(4)
    again, retainer = forward(encoder, made.eval(), batch, protected)
    assert torch.equal(first, again) and kept == [kept_positions(retainer, row) for row in range(len(LENGTHS))]


@each_policy
@torch.no_grad()
def test_sample_gets_the_same_result_alone_and_in_a_batch(
    name: str, policy: Any, encoder: Any, batch: dict[str, Tensor]
) -> None:
    made, protected = policy(name).eval(), protection(batch)
    states, retainer = forward(encoder, made, batch, protected)
    together = [kept_positions(retainer, row) for row in range(len(LENGTHS))]
    for row, length in enumerate(LENGTHS):
        alone = {key: value[row : row + 1, :length] for key, value in batch.items()}
        single, retainer = forward(encoder, made, alone, protected[row : row + 1, :length])
        assert kept_positions(retainer, 0) == together[row]
        assert (single[0] - states[row, :length]).abs().max() < 2e-5


@each_policy
@pytest.mark.parametrize("phase", ["warmup", "soft", "hard"])
def test_every_phase_trains_with_finite_gradients(
    name: str, phase: str, policy: Any, encoder: Any, batch: dict[str, Tensor]
) -> None:
    made, model = policy(name, 0.3).train(), copy.deepcopy(encoder).train()
    made.phase, made.anneal = phase, 0.8
    states, retainer = forward(model, made, batch, protection(batch))
    loss = (states * retainer.state.input_ids.unsqueeze(-1)).square().mean()
    if phase != "warmup":
        loss = loss + made.budget_loss()
    loss.backward()
    assert torch.isfinite(states).all() and torch.isfinite(loss)
    trained = [*model.parameters(), *made.parameters()]
    assert all(torch.isfinite(each.grad).all() for each in trained if each.grad is not None)
    assert sum(float(each.grad.abs().sum()) for each in model.parameters() if each.grad is not None) > 0
    made.step_dual(made.budget_slack().detach())
    assert all(torch.isfinite(value).all() for value in made.state_dict().values())


@each_policy
def test_parameters_change_in_training(name: str, policy: Any, encoder: Any, batch: dict[str, Tensor]) -> None:
    """A few steps on one batch, soft and hard."""
    made = policy(name, 0.3).train()
    if not list(made.parameters()):
        return
    before = {key: value.clone() for key, value in made.named_parameters()}
    optimizer = torch.optim.AdamW(made.parameters(), lr=1e-2, weight_decay=0.0)
    for phase in ("soft", "soft", "hard"):
        made.phase = phase
        states, retainer = forward(encoder, made, batch, protection(batch))
        loss = (states * retainer.state.input_ids.unsqueeze(-1)).square().mean() + made.budget_loss()
        optimizer.zero_grad()
        if loss.requires_grad:
            loss.backward()
            optimizer.step()
        made.step_dual(made.budget_slack().detach())
    moved = [not torch.equal(value, before[key]) for key, value in made.named_parameters()]
    assert sum(moved) >= 0.5 * len(moved)  # a bias on all scores has no effect under an exact dual


@each_policy
def test_warmup_equals_the_dense_encoder(name: str, policy: Any, encoder: Any, batch: dict[str, Tensor]) -> None:
    made = policy(name).train()
    made.phase = "warmup"
    states, retainer = forward(encoder, made, batch, protection(batch))
    assert torch.equal(states, encoder(**batch).last_hidden_state) and not retainer.report.kept


@each_policy
@torch.no_grad()
def test_copies_and_checkpoints_decide_the_same(name: str, policy: Any, encoder: Any, batch: dict[str, Tensor]) -> None:
    made, protected = policy(name).train(), protection(batch)
    with torch.enable_grad():
        made.phase = "soft"
        forward(encoder, made, batch, protected)
    other = policy(name)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1.0)
    other.load_state_dict(made.state_dict())
    states, _ = forward(encoder, made.eval(), batch, protected)
    for clone in (copy.deepcopy(made), other.eval()):
        assert torch.equal(forward(encoder, clone, batch, protected)[0], states)
