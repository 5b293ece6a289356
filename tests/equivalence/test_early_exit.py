"""Test that rows which leave the batch early get the logits that a pass over all layers gives them at their exit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from retention.core.flops import encoder_flops, flops_by_layer
from retention.engine import adapter_for
from retention.errors import ConfigError
from retention.models.early_exit import EarlyExitModel, ExitEncoded
from retention.policies import EarlyExit, retain
from retention.tasks.classification.head import ClassificationHead

EXITS = (0, 2)
LENGTHS = (23, 15, 9, 23, 12)


@pytest.fixture
def make_model() -> Callable[..., EarlyExitModel]:
    """Return ``make_model(encoder)``, with distinct random heads of four classes, in evaluation mode."""

    def make(encoder: Any, exits: tuple[int, ...] = EXITS) -> EarlyExitModel:
        policy = EarlyExit(rho=0.6, exits=exits)
        policy.build(adapter_for(encoder.config.model_type).shape(encoder.config))
        torch.manual_seed(3)
        head = ClassificationHead(encoder=encoder, num_labels=4, dropout=0.0, pooling="mean")
        model = EarlyExitModel(encoder, policy, head).eval()
        for parameter in [*policy.exit_heads.parameters(), *head.parameters()]:
            nn.init.normal_(parameter, std=0.3)
        return model

    return make


@pytest.fixture
def rows(make_batch: Callable[..., Any]) -> Callable[..., dict[str, Tensor]]:
    """Return ``rows(encoder, lengths)``, a batch without protected tokens."""

    def make(encoder: nn.Module, lengths: tuple[int, ...] = LENGTHS) -> dict[str, Tensor]:
        batch = make_batch(encoder, lengths)
        return {**batch, "protected_mask": torch.zeros_like(batch["attention_mask"], dtype=torch.bool)}

    return make


def logits_by_exit(model: EarlyExitModel, batch: dict[str, Tensor]) -> Tensor:
    """Return the logits of every head for every row, [E + 1, B, C], by a pass over all layers."""
    with torch.no_grad():
        encoded, inner = model._complete(batch)
        return torch.stack([*inner.values(), model.head.logits(encoded, batch)])


def exits_at(logits: Tensor, threshold: float) -> Tensor:
    """Return the index of the head at which each row leaves, [B]."""
    confident = logits[:-1].softmax(-1).amax(-1) >= threshold
    return torch.where(confident.any(0), confident.to(torch.uint8).argmax(0), len(confident))


def threshold_that_divides(logits: Tensor) -> float:
    """Return a threshold at which some rows leave at the first exit and some later."""
    confidence = logits[0].softmax(-1).amax(-1).sort().values
    return float((confidence[-2] + confidence[-3]) / 2)


def test_rows_get_the_logits_of_their_exit(
    encoder_only: str,
    build: Callable[..., nn.Module],
    rows: Callable[..., Any],
    make_model: Callable[..., EarlyExitModel],
) -> None:
    encoder: Any = build(encoder_only)
    if adapter_for(encoder_only).computes_attention:
        with pytest.raises(ConfigError, match="does not support Longformer"):
            make_model(encoder)
        return
    model, batch = make_model(encoder), rows(encoder)
    complete = logits_by_exit(model, batch)
    threshold = threshold_that_divides(complete)
    expected_exits = exits_at(complete, threshold)
    assert len(expected_exits.unique()) >= 2
    model.policy.set_threshold(threshold)
    with torch.no_grad():
        encoded = model.encode(batch)
        logits = model.logits(encoded, batch)
    assert isinstance(encoded, ExitEncoded) and encoded.hidden_states.shape[:2] == batch["input_ids"].shape
    expected = complete[expected_exits, torch.arange(len(LENGTHS))]
    torch.testing.assert_close(logits, expected, atol=5e-6, rtol=1e-5)
    assert (logits - complete[-1])[expected_exits < 2].abs().max() > 1e-3
    lengths = torch.tensor(LENGTHS)
    cumulative = flops_by_layer(model.shape, lengths, {}).cumsum(0)
    ends = torch.tensor([*EXITS, 3])[expected_exits]
    dense, spent = model.flops()
    assert dense == pytest.approx(float(encoder_flops(model.shape, lengths, {}).sum()))
    if not model.shape.batch_macs:  # work that is done once per batch is divided among its rows
        assert spent == pytest.approx(float(cumulative[ends, torch.arange(len(LENGTHS))].sum()))
    passed = encoded.gates_passed(23)
    for row, length in enumerate(LENGTHS):
        assert passed[row, :length].unique().tolist() == [int(expected_exits[row])]


def test_layers_run_on_the_rows_that_are_left(
    build: Callable[..., nn.Module],
    rows: Callable[..., Any],
    make_model: Callable[..., EarlyExitModel],
    layers_of: Callable[..., Any],
) -> None:
    encoder: Any = build("bert")
    model, batch = make_model(encoder), rows(encoder)
    complete = logits_by_exit(model, batch)
    sizes: list[int] = []
    for layer in layers_of(encoder):
        layer.register_forward_hook(lambda module, args, output: sizes.append(len(output)))
    for threshold, expected in ((threshold_that_divides(complete), None), (0.0, [5]), (2.0, [5, 5, 5, 5])):
        model.policy.set_threshold(threshold)
        sizes.clear()
        with torch.no_grad():
            model(batch)
        left = [int((exits_at(complete, threshold) > exit_index).sum()) for exit_index in (0, 1)]
        assert sizes == (expected or [5, left[0], left[0], left[1]][: 4 if left[1] else 3])
    assert not any(layer._forward_pre_hooks for layer in layers_of(encoder))


def test_calibrated_rows_spend_the_requested_flops(
    build: Callable[..., nn.Module], rows: Callable[..., Any], make_model: Callable[..., EarlyExitModel]
) -> None:
    encoder: Any = build("bert")
    model = make_model(encoder)
    batches = [rows(encoder, tuple(range(first, first + 16))) for first in (5, 8)]
    batches[1]["input_ids"] = batches[1]["input_ids"].flip(0)
    batches[1]["attention_mask"] = batches[1]["attention_mask"].flip(0)
    with pytest.raises(ConfigError, match="rho: early_exit cannot run: its threshold was not set"):
        model(batches[0])
    model.calibrate(batches)
    dense, spent = 0.0, 0.0
    for batch in batches:
        with torch.no_grad():
            model(batch)
        dense, spent = dense + model.flops()[0], spent + model.flops()[1]
    assert spent / dense <= 0.6 and spent / dense == pytest.approx(0.6, abs=0.03)  # a row of 32 is 3 %
    model.policy.rho = 0.4
    with pytest.raises(ConfigError, match=r"its threshold was set for 0\.6, got 0\.4"):
        model(batches[0])


def test_training_reaches_every_head_and_keeps_every_row(
    build: Callable[..., nn.Module], rows: Callable[..., Any], make_model: Callable[..., EarlyExitModel]
) -> None:
    encoder: Any = build("bert")
    model, batch = make_model(encoder).train(), rows(encoder)
    logits = model(batch)
    exits = model.exit_logits()
    assert tuple(exits) == EXITS and all(each.shape == logits.shape for each in exits.values())
    exits[0].sum().backward(retain_graph=True)
    layers = encoder.encoder.layer
    assert layers[0].output.dense.weight.grad is not None and layers[1].output.dense.weight.grad is None
    assert copy.deepcopy(model).exit_logits() == {}


def test_exits_must_be_inner_layers(build: Callable[..., nn.Module], make_model: Callable[..., EarlyExitModel]) -> None:
    for exits in ((3,), (-1,), (7,)):
        with pytest.raises(ConfigError, match="exits: must be layers below the last one"):
            make_model(build("bert"), exits)
    with pytest.raises(ConfigError, match="exits: is empty"):
        EarlyExit(rho=0.5, exits=[])


def test_encoder_alone_is_refused(build: Callable[..., nn.Module]) -> None:
    with pytest.raises(ConfigError, match=r"policy: early_exit needs a trained model with its heads"):
        retain(build("bert"), EarlyExit(rho=0.5))


def test_pass_of_another_thread_leaves_a_running_pass_alone(
    build: Callable[..., nn.Module], rows: Callable[..., Any], make_model: Callable[..., EarlyExitModel], layers_of: Any
) -> None:
    """A whole pass over other rows runs in a second thread while the first is in the middle of the encoder."""
    encoder: Any = build("bert")
    model, batch, other = make_model(encoder), rows(encoder), rows(encoder, (17, 8, 6))
    model.policy.set_threshold(threshold_that_divides(logits_by_exit(model, batch)))
    with torch.no_grad():
        expected, expected_other = model(batch), model(other)
    from_other: list[Tensor] = []
    interrupted = Event()

    @torch.no_grad()
    def call_other() -> Tensor:
        logits: Tensor = model(other)
        return logits

    def interrupt(*_: Any) -> None:
        if not interrupted.is_set():
            interrupted.set()
            with ThreadPoolExecutor(1) as pool:
                from_other.append(pool.submit(call_other).result())

    layers_of(encoder)[1].register_forward_hook(interrupt)
    with torch.no_grad():
        logits = model(batch)
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(from_other[0], expected_other)
    assert not any(layer._forward_pre_hooks for layer in layers_of(encoder))


def test_copy_that_is_made_during_a_pass_has_no_part_in_it(
    build: Callable[..., nn.Module], rows: Callable[..., Any], make_model: Callable[..., EarlyExitModel], layers_of: Any
) -> None:
    encoder: Any = build("bert")
    model, batch = make_model(encoder), rows(encoder)
    model.policy.set_threshold(threshold_that_divides(logits_by_exit(model, batch)))
    copies: list[EarlyExitModel] = []
    handle = layers_of(encoder)[1].register_forward_hook(lambda *_: copies.append(copy.deepcopy(model)))
    with torch.no_grad():
        expected = model(batch)
        handle.remove()
        torch.testing.assert_close(copies[0](batch), expected)
        plain = encoder(batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
        copied: Any = copies[0].encoder
        states = copied(batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
        assert torch.equal(states, plain)
