"""Test Longformer and LED: full sequences equal the library, removal equals masking."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from retention.engine import Retainer, adapter_for, engine_attention, token_band
from retention.engine.token_band import TokenBand
from retention.models.quantization import quantize_int8

TOLERANCE = 5e-6
each_family = pytest.mark.parametrize("banded", ["longformer", "led"])
each_selection = pytest.mark.parametrize(
    "selected", [(), (0,), (0, 7), tuple(range(12))], ids=["none", "one", "two", "many"]
)


@pytest.fixture(params=[128, 4], ids=["all_pairs", "blocks"])
def small_blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Test both computations: tiny samples fit into one block, unless blocks are tiny as well."""
    monkeypatch.setattr(token_band, "BLOCK_SIZE", request.param)
    return int(request.param)


def with_global(batch: dict[str, Tensor], selected: tuple[int, ...]) -> dict[str, Tensor]:
    """Add global tokens to a batch; the last sample has one less than the others."""
    mask = torch.zeros_like(batch["attention_mask"])
    mask[:, list(selected)] = 1
    if len(selected) > 1:
        mask[-1, selected[-1]] = 0
    return {**batch, "global_attention_mask": mask * batch["attention_mask"]}


def states(encoder: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        output: Tensor = encoder(**batch).last_hidden_state
    return output


@each_family
@each_selection
@pytest.mark.parametrize("lengths", [(23, 15, 9), (24, 24, 24)], ids=["padded", "full"])
@pytest.mark.usefixtures("small_blocks")
def test_full_sequence_equals_the_library(
    banded: str, selected: tuple[int, ...], lengths: tuple[int, ...], build: Callable[..., nn.Module], make_batch: Any
) -> None:
    encoder = build(banded)
    batch = with_global(make_batch(encoder, lengths), selected)
    library = states(encoder, batch)
    with engine_attention(encoder):
        ours = states(encoder, batch)
    assert ours.shape == library.shape
    assert 0 < (ours - library).abs().max() < TOLERANCE  # padding included
    assert torch.equal(states(encoder, batch), library)
    assert not any({"forward", "_pad_to_window_size"} & set(vars(module)) for module in encoder.modules())


def keep_global(keep: dict[int, Tensor], batch: dict[str, Tensor]) -> dict[int, Tensor]:
    is_global = batch["global_attention_mask"].bool()
    return {layer_idx: mask | is_global for layer_idx, mask in keep.items()}


@each_family
@each_selection
@pytest.mark.parametrize("lengths", [(23, 15, 9), (24, 24, 24)], ids=["padded", "full"])
@pytest.mark.usefixtures("small_blocks")
def test_removal_equals_masking_in_the_library(
    banded: str,
    selected: tuple[int, ...],
    lengths: tuple[int, ...],
    build: Callable[..., nn.Module],
    make_batch: Callable[..., Any],
    nested_keep: Callable[..., Any],
    masked_states: Callable[..., Tensor],
    fixed_gate: Callable[..., Any],
) -> None:
    encoder = build(banded)
    batch = with_global(make_batch(encoder, lengths), selected)
    keep = keep_global(nested_keep(batch["attention_mask"]), batch)
    masked = masked_states(encoder, batch, keep)
    for soft in (False, True):
        with torch.no_grad(), Retainer(encoder, fixed_gate(keep, soft=soft), layers=[0, 2]):
            removed = encoder(**batch).last_hidden_state
        assert (removed - masked)[keep[2]].abs().max() < TOLERANCE
    assert (states(encoder, batch) - masked)[keep[2]].abs().max() > 1e-3


@each_family
@pytest.mark.usefixtures("small_blocks")
def test_windows_in_new_positions_are_detected(
    banded: str,
    build: Callable[..., nn.Module],
    make_batch: Callable[..., Any],
    nested_keep: Callable[..., Any],
    masked_states: Callable[..., Tensor],
    fixed_gate: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoder = build(banded)
    batch = make_batch(encoder)
    keep = nested_keep(batch["attention_mask"])
    masked = masked_states(encoder, batch, keep)
    original = TokenBand.__init__

    def wrong(band: TokenBand, positions: Tensor, *rest: Any) -> None:
        original(band, torch.arange(positions.shape[1]).expand_as(positions), *rest)

    monkeypatch.setattr(TokenBand, "__init__", wrong)
    with torch.no_grad(), Retainer(encoder, fixed_gate(keep), layers=[0, 2]):
        removed = encoder(**batch).last_hidden_state
    assert (removed - masked)[keep[2]].abs().max() > 20 * TOLERANCE


@each_family
@pytest.mark.parametrize("merged", [False, True], ids=["separate_argument", "as_2_in_the_mask"])
def test_global_tokens_are_never_removed(
    banded: str,
    merged: bool,
    build: Callable[..., nn.Module],
    make_batch: Callable[..., Any],
    policy_named: Callable[..., Any],
    attach: Callable[..., Retainer],
) -> None:
    encoder = build(banded)
    batch = with_global(make_batch(encoder), (0, 7))
    if merged:
        is_global = batch.pop("global_attention_mask")
        batch["attention_mask"] = batch["attention_mask"] + is_global
    with torch.no_grad(), attach(encoder, policy_named("random", rho=0.2, schedule="flat")) as retainer:
        encoder(**batch)
        with retainer.protect(torch.zeros(3, 23, dtype=torch.bool)):
            encoder(**batch)
    kept = retainer.report.keep_indices[2]
    assert all({0, 7} <= set(row.tolist()) for row in kept[:2]) and 0 in kept[2].tolist()
    assert retainer.report.global_tokens is not None and retainer.report.global_tokens.tolist() == [2, 2, 1]


@pytest.mark.parametrize("selected", [(0,), tuple(range(12))], ids=["folded", "projected"])
@pytest.mark.usefixtures("small_blocks")
def test_gradients_equal_the_library(
    selected: tuple[int, ...], build: Callable[..., nn.Module], make_batch: Callable[..., Any]
) -> None:
    encoder: Any = build("longformer")
    batch = with_global(make_batch(encoder), selected)
    direction = torch.randn(3, 23, 32, generator=torch.Generator().manual_seed(3)) * batch["attention_mask"].unsqueeze(
        -1
    )

    def gradients() -> dict[str, Tensor]:
        encoder.zero_grad()
        (encoder(**batch).last_hidden_state * direction).sum().backward()
        return {name: value.grad.clone() for name, value in encoder.named_parameters() if value.grad is not None}

    library = gradients()
    with engine_attention(encoder):
        ours = gradients()
    for name, expected in library.items():
        torch.testing.assert_close(ours[name], expected, atol=2e-4, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")


def test_global_tokens_come_from_the_batch_or_are_the_first_of_each_sample() -> None:
    adapter = adapter_for("longformer")
    batch = {
        "input_ids": torch.ones(2, 4, dtype=torch.long),
        "attention_mask": torch.tensor([[1, 1, 1, 0], [0, 1, 1, 1]]),
    }
    assert adapter.inputs(batch)["global_attention_mask"].tolist() == [[1, 0, 0, 0], [0, 1, 0, 0]]
    batch["global_mask"] = torch.tensor([[True, True, False, True], [False, True, False, False]])
    assert adapter.inputs(batch)["global_attention_mask"].tolist() == [[1, 1, 0, 0], [0, 1, 0, 0]]
    assert set(adapter_for("bert").inputs(batch)) == {"input_ids", "attention_mask"}


def test_output_attentions_is_refused(build: Callable[..., nn.Module], make_batch: Callable[..., Any]) -> None:
    encoder = build("longformer")
    with engine_attention(encoder), pytest.raises(ValueError, match="attention weights cannot be returned"):
        encoder(**make_batch(encoder), output_attentions=True)


@each_family
@pytest.mark.usefixtures("small_blocks")
def test_quantized_layers_equal_the_library(
    banded: str, build: Callable[..., nn.Module], make_batch: Any, fixed_gate: Callable[..., Any]
) -> None:
    encoder = quantize_int8(build(banded))
    batch = with_global(make_batch(encoder, (24, 24, 24)), (0, 7))
    library = states(encoder, batch)
    with engine_attention(encoder):
        ours = states(encoder, batch)
    # activations are rounded to 8 bits, so a difference of rounding can become one step
    assert (ours - library).abs().max() < 0.05 * library.abs().max()
    keep = torch.ones(3, 24, dtype=torch.bool)
    keep[:, 12:] = False
    with Retainer(encoder, fixed_gate({1: keep}), layers=[1]) as retainer:
        states(encoder, batch)
        assert retainer.report.kept[1].tolist() == [12, 12, 12]


@pytest.mark.parametrize("part", ["key_global", "value_global"])
def test_global_projections_with_an_adapter_run_as_modules(
    part: str, build: Callable[..., nn.Module], make_batch: Any
) -> None:
    class LowRank(nn.Module):
        def __init__(self, base: nn.Module) -> None:
            super().__init__()
            self.base = base
            self.update = nn.Linear(32, 32, bias=False)

        @property
        def weight(self) -> Any:
            return self.base.weight

        @property
        def bias(self) -> Any:
            return self.base.bias

        def forward(self, hidden_states: Tensor) -> Any:
            return self.base(hidden_states) + self.update(hidden_states)

    encoder: Any = build("longformer")
    for layer in encoder.encoder.layer:
        setattr(layer.attention.self, part, LowRank(getattr(layer.attention.self, part)))
    batch = with_global(make_batch(encoder, (23, 15, 9)), (0,))
    library = states(encoder, batch)
    with engine_attention(encoder):
        assert (states(encoder, batch) - library).abs().max() < TOLERANCE
