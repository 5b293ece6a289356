"""Test observations of a layer's attention against the maps and keys that the model itself returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from retention.core.attention import received_attention
from retention.engine import Decision, ForwardReport, LayerView, Retainer, adapter_for, adapters
from retention.errors import ConfigError

FAMILIES = sorted(name for name, adapter in adapters().items() if "attention" in adapter.observable)
CLOSED = torch.finfo(torch.float32).min / 4


each_family = pytest.mark.parametrize("observed", FAMILIES)


@dataclass
class RecordingGate:
    """Gate that keeps given original positions, by removal or by closed gates, and records its inputs."""

    keep: dict[int, Tensor] = field(default_factory=dict)
    soft: bool = False
    observes: tuple[str, ...] = ("attention", "keys")
    views: list[LayerView] = field(default_factory=list)

    def begin(self, report: ForwardReport) -> None:
        self.views.clear()

    def decide(self, view: LayerView) -> Decision | None:
        self.views.append(view)
        if view.layer_idx not in self.keep:
            return None
        keep = self.keep[view.layer_idx].gather(1, view.positions) & view.valid
        return Decision(log_gates=torch.where(keep, 0.0, CLOSED)) if self.soft else Decision(keep_mask=keep)


@dataclass
class AccumulatingGate(RecordingGate):
    """Gate that observes the received attention accumulated over layers."""

    def reduce_attention(self, probabilities: Tensor, query_weights: Tensor, previous: Tensor | None) -> Tensor:
        received = received_attention(probabilities, query_weights)
        return received if previous is None else previous + received.detach()


@dataclass
class PerHeadGate(RecordingGate):
    """Gate that observes the received attention per head."""

    def reduce_attention(self, probabilities: Tensor, query_weights: Tensor, previous: Tensor | None) -> Tensor:
        return torch.einsum("bhqk,bq->bhk", probabilities, query_weights)


GATES = (RecordingGate, AccumulatingGate, PerHeadGate)


@each_family
def test_statistics_are_those_of_the_models_own_maps(
    observed: str, build: Callable[..., nn.Module], make_batch: Callable[..., Any]
) -> None:
    encoder = build(observed, "eager")
    batch, gates = make_batch(encoder), [kind() for kind in GATES]
    with torch.no_grad():
        maps = encoder(**batch, output_attentions=True).attentions
        for gate in gates:
            with Retainer(encoder, gate, layers=range(4)):
                encoder(**batch)
    real, total = batch["attention_mask"].float(), torch.zeros(batch["attention_mask"].shape)
    assert len(maps) == 4 and all(len(gate.views) == 4 for gate in gates)
    for view, accumulated, per_head, probabilities in zip(*(gate.views for gate in gates), maps, strict=True):
        expected = (probabilities.mean(1) * real.unsqueeze(2)).sum(1)
        total = total + expected
        received = view.attention_statistics
        torch.testing.assert_close(received, expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(accumulated.attention_statistics, total, atol=1e-5, rtol=0)
        by_head = (probabilities * real[:, None, :, None]).sum(2)
        torch.testing.assert_close(per_head.attention_statistics, by_head, atol=1e-5, rtol=0)
        assert (received[~view.valid] < 1e-6).all()
        torch.testing.assert_close(received.sum(1), real.sum(1), atol=1e-4, rtol=0)  # 1 on average


@each_family
def test_model_returns_attention_maps_only_on_request(
    observed: str, build: Callable[..., nn.Module], make_batch: Callable[..., Any]
) -> None:
    encoder = build(observed, "eager")
    with torch.no_grad(), Retainer(encoder, RecordingGate(), layers=[1]):
        assert len(encoder(**make_batch(encoder), output_attentions=True).attentions) == 4
        assert getattr(encoder(**make_batch(encoder)), "attentions", None) is None


@each_family
def test_closed_gates_and_removal_give_the_same_observations(
    observed: str, build: Callable[..., nn.Module], make_batch: Callable[..., Any], nested_keep: Callable[..., Any]
) -> None:
    encoder = build(observed, "eager")
    batch = make_batch(encoder)
    keep = nested_keep(batch["attention_mask"])
    for kind in GATES:
        hard, soft = kind(keep), kind(keep, soft=True)
        for gate in (hard, soft):
            with torch.no_grad(), Retainer(encoder, gate, layers=range(4)):
                encoder(**batch)
        for short, long in zip(hard.views, soft.views, strict=True):
            for name in ("attention_statistics", "key_norms"):
                values, full = getattr(short, name), getattr(long, name)
                heads = (1,) * (full.dim() - 2)
                index = short.positions.view(len(full), *heads, -1).expand(*full.shape[:-1], -1)
                valid = short.valid.view(len(full), *heads, -1).expand_as(values)
                assert (values - full.gather(-1, index))[valid].abs().max() < 2e-5, (kind, name)


@each_family
def test_key_norms_need_no_attention_maps(
    observed: str, build: Callable[..., nn.Module], make_batch: Callable[..., Any]
) -> None:
    encoder = build(observed, adapter_for(observed).attention[0])
    batch, gate, seen = make_batch(encoder), RecordingGate(observes=("keys",)), []
    parts = [adapter_for(observed).attention_parts(layer) for layer in adapter_for(observed).layers(encoder)]
    handles = [part.keys.register_forward_hook(lambda module, args, output: seen.append(output)) for part in parts]
    with torch.no_grad(), Retainer(encoder, gate, layers=range(4)):
        encoder(**batch)
    for handle in handles:
        handle.remove()
    for view, output in zip(gate.views, seen, strict=True):
        keys = output if output.shape[-1] == 32 else output[..., 32:64]
        by_head = keys.reshape(*keys.shape[:2], 4, 8).norm(dim=-1).mean(-1)
        torch.testing.assert_close(view.key_norms, by_head)
        assert view.attention_statistics is None


def test_nothing_is_observed_without_request(build: Callable[..., nn.Module], make_batch: Callable[..., Any]) -> None:
    encoder, gate = build("bert", "sdpa"), RecordingGate(observes=())
    with torch.no_grad(), Retainer(encoder, gate, layers=[0]):
        encoder(**make_batch(encoder))
    assert gate.views[0].attention_statistics is None and gate.views[0].key_norms is None


def test_attention_maps_are_freed_with_their_layer(
    build: Callable[..., nn.Module], make_batch: Callable[..., Any]
) -> None:
    """Under no_grad no tensor of the size of a map is left after the forward pass."""
    import gc

    encoder = build("mpnet", "eager")
    batch, gate = make_batch(encoder), RecordingGate()
    with torch.no_grad(), Retainer(encoder, gate, layers=range(4)):
        encoder(**batch)
        gc.collect()
        alive = [x for x in gc.get_objects() if type(x) is Tensor and x.shape == (3, 4, 23, 23)]
    assert not alive


def test_checkpointed_layers_give_the_same_observations_and_gradients(
    build: Callable[..., nn.Module], make_batch: Callable[..., Any], nested_keep: Callable[..., Any]
) -> None:
    gradients, observations = [], []
    for checkpointing in (False, True):
        encoder: Any = build("bert", "eager", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()
        if checkpointing:
            encoder.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        batch = make_batch(encoder)
        gate = RecordingGate(nested_keep(batch["attention_mask"]))
        with Retainer(encoder, gate, layers=range(4)):
            states = encoder(**batch).last_hidden_state
            received = gate.views[1].attention_statistics
            (states.square().sum() + received[:, 0].sum()).backward()
        observations.append(received.detach())
        gradients.append(encoder.encoder.layer[0].attention.self.query.weight.grad)
    torch.testing.assert_close(*observations)
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-4)


def test_sdpa_is_refused_with_the_remedy(build: Callable[..., nn.Module]) -> None:
    with pytest.raises(ConfigError, match=r"attn_implementation: .* sdpa .* set attn_implementation=eager"):
        Retainer(build("bert", "sdpa"), RecordingGate(), layers=[0])


def test_unknown_observation_is_refused(build: Callable[..., nn.Module]) -> None:
    with pytest.raises(ConfigError, match=r"observes: .* attention, keys, got 'thoughts'"):
        Retainer(build("bert", "eager"), RecordingGate(observes=("thoughts",)), layers=[0])
