"""Test that removing embeddings before layer 0 equals masking them as keys in every layer, for every family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from retention.engine import ForwardReport, Retainer, adapters
from retention.errors import ConfigError

TOLERANCE = 5e-6
LAYERS = (-1, 0, 2)

each_padding = pytest.mark.parametrize("lengths", [(23, 15, 9), (23, 23, 23)], ids=["padded", "full"])


@pytest.fixture
def keep_from_input(nested_keep: Callable[[Tensor], dict[int, Tensor]]) -> Callable[[Tensor], dict[int, Tensor]]:
    """Return three nested keep masks: before layer 0, after layer 0 and after layer 2."""

    def make(mask: Tensor) -> dict[int, Tensor]:
        keep = nested_keep(mask)
        generator = torch.Generator().manual_seed(5)
        first = (torch.rand(mask.shape, generator=generator) < 0.7) & mask.bool()
        first[:, 0] = True
        return {-1: first, 0: first & keep[0], 2: first & keep[2]}

    return make


def removed_states(encoder: nn.Module, batch: dict[str, Tensor], gate: Any, **settings: Any) -> Tensor:
    with torch.no_grad(), Retainer(encoder, gate, layers=gate.keep.keys(), **settings):
        states: Tensor = encoder(**batch).last_hidden_state
    return states


@each_padding
def test_removal_before_layer_0_equals_masking(
    encoder: nn.Module,
    family: str,
    attention: str,
    lengths: tuple[int, ...],
    make_batch: Callable[..., Any],
    keep_from_input: Callable[..., Any],
    masked_states: Callable[..., Tensor],
    fixed_gate: Callable[..., Any],
) -> None:
    batch = make_batch(encoder, lengths)
    keep = keep_from_input(batch["attention_mask"])
    for layers in ((-1,), LAYERS):
        chosen = {layer: keep[layer] for layer in layers}
        kept_to_the_end = keep[layers[-1]]
        masked = masked_states(encoder, batch, chosen)
        for prune_at in adapters()[family].prune_points:
            removed = removed_states(encoder, batch, fixed_gate(chosen), prune_at=prune_at)
            assert (removed - masked)[kept_to_the_end].abs().max() < TOLERANCE
        later = {layer + 1: mask for layer, mask in chosen.items()}  # the same tokens removed one layer later
        late = masked_states(encoder, batch, later)
        assert (late - masked)[kept_to_the_end].abs().max() > 1e-3


@each_padding
def test_gates_of_zero_and_one_before_layer_0_equal_removal(
    encoder: nn.Module,
    family: str,
    attention: str,
    lengths: tuple[int, ...],
    make_batch: Callable[..., Any],
    keep_from_input: Callable[..., Any],
    fixed_gate: Callable[..., Any],
) -> None:
    batch = make_batch(encoder, lengths)
    keep = keep_from_input(batch["attention_mask"])
    for prune_at in adapters()[family].prune_points:
        removed = removed_states(encoder, batch, fixed_gate(keep), prune_at=prune_at)
        soft = removed_states(encoder, batch, fixed_gate(keep, soft=True), prune_at=prune_at)
        assert (removed - soft)[batch["attention_mask"].bool()].abs().max() < TOLERANCE


def test_keeping_every_embedding_equals_the_dense_model(
    encoder: nn.Module, attention: str, make_batch: Callable[..., Any], fixed_gate: Callable[..., Any], rounding: float
) -> None:
    batch = make_batch(encoder)
    real = batch["attention_mask"].bool()
    with torch.no_grad():
        dense = encoder(**batch).last_hidden_state
    for soft in (False, True):
        kept = removed_states(encoder, batch, fixed_gate({-1: real}, soft=soft))
        assert (kept - dense)[real].abs().max() < max(2e-6, rounding)


def test_removed_embeddings_return_unchanged(
    encoder: nn.Module,
    family: str,
    make_batch: Callable[..., Any],
    keep_from_input: Callable[..., Any],
    fixed_gate: Callable[..., Any],
    layers_of: Callable[..., Any],
    rounding: float,
) -> None:
    """Dropped tokens have the state that entered layer 0; ``cut`` leaves them out."""
    batch = make_batch(encoder)
    keep = keep_from_input(batch["attention_mask"])
    embeddings: list[Tensor] = []
    first = layers_of(encoder)[0]

    def store(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        embeddings.append(args[0] if args else kwargs["hidden_states"])

    handle = first.register_forward_pre_hook(store, with_kwargs=True)
    with torch.no_grad():
        encoder(**batch)
    handle.remove()
    width = batch["input_ids"].shape[1]
    last: list[Tensor] = []
    with torch.no_grad(), Retainer(encoder, fixed_gate(keep), layers=LAYERS) as retainer:
        layers_of(encoder)[-1].register_forward_hook(
            lambda layer, args, output: last.append(output[0] if isinstance(output, tuple) else output)
        )
        encoder(**batch)
    left = ~keep[-1] & batch["attention_mask"].bool()
    assert left.any() and (last[0] - embeddings[0][:, :width])[left].abs().max() <= rounding
    assert torch.equal(retainer.report.kept[-1], keep[-1].sum(1))
    assert torch.equal(retainer.report.depth(LAYERS, width), sum(mask.long() for mask in keep.values()))
    assert retainer.state.gates_run == set(LAYERS)
    cut = removed_states(encoder, batch, fixed_gate(keep), dropped="cut")
    assert cut.shape[1] == keep[2].sum(1).max()


def test_removal_before_layer_0_runs_under_bfloat16_autocast_and_in_double_precision(
    encoder: nn.Module,
    family: str,
    attention: str,
    make_batch: Callable[..., Any],
    keep_from_input: Callable[..., Any],
    fixed_gate: Callable[..., Any],
) -> None:
    batch = make_batch(encoder)
    keep = keep_from_input(batch["attention_mask"])
    for soft in (False, True):
        exact = removed_states(encoder, batch, fixed_gate(keep, soft=soft))
        with torch.autocast("cpu", torch.bfloat16):
            rough = removed_states(encoder, batch, fixed_gate(keep, soft=soft))
        assert (exact - rough)[keep[2]].abs().max() < 0.3 and torch.isfinite(rough).all()
    encoder = encoder.double()
    in_float32 = (family, attention) == ("modernbert", "eager")  # its softmax is always float32
    removed, soft_states = (removed_states(encoder, batch, fixed_gate(keep, soft=soft)) for soft in (False, True))
    assert (removed - soft_states)[keep[2]].abs().max() < (1e-6 if in_float32 else 1e-12)


# the method that every supported version of the library has
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("phase", ["soft", "hard"])
@pytest.mark.parametrize("recomputing", ["bert", "modernbert", "deberta-v2", "longformer", "t5"])
def test_checkpointed_training_has_the_same_gradients(
    recomputing: str,
    phase: str,
    build: Callable[..., nn.Module],
    make_batch: Callable[..., Any],
    policy_named: Callable[..., Any],
    attach: Callable[..., Retainer],
) -> None:
    encoder: Any = build(recomputing).train()
    policy, batch = policy_named("adaptive", layers=LAYERS), make_batch(encoder)
    retainer = attach(encoder, policy, protected_ids=[3])
    policy.train()
    policy.phase = phase
    gradients = []
    for checkpointed in (False, True):
        if checkpointed:
            encoder.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        encoder.zero_grad()
        policy.zero_grad()
        torch.manual_seed(4)
        with retainer:
            (encoder(**batch).last_hidden_state * torch.randn(23, 32)).sum().backward()
        named = [*encoder.named_parameters(), *policy.named_parameters()]
        gradients.append({name: each.grad.clone() for name, each in named if each.grad is not None})
    plain, recomputed = gradients
    assert plain.keys() == recomputed.keys()
    assert sum(float(value.abs().sum()) for name, value in plain.items() if name.startswith("scorers.-1.")) > 1e-3
    for name, expected in plain.items():
        torch.testing.assert_close(recomputed[name], expected, atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


class ReadsAttention:
    observes = ("attention",)

    def begin(self, report: ForwardReport) -> None:
        pass

    def decide(self, view: Any) -> None:
        return None


def test_gate_that_observes_attention_is_refused_before_layer_0(build: Callable[..., nn.Module]) -> None:
    encoder = build("bert", "eager")
    Retainer(encoder, ReadsAttention(), layers=[0])
    with pytest.raises(ConfigError, match=r"layers: .*no layer runs before gate -1"):
        Retainer(encoder, ReadsAttention(), layers=[-1, 0])
    with pytest.raises(ConfigError, match="layer -2 does not exist"):
        Retainer(encoder, ReadsAttention(), layers=[-2])
