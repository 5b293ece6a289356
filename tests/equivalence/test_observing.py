"""What a gate is shown of a layer's attention, against the maps and states that the model itself gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from retention.engine import Decision, ForwardReport, LayerView, Retainer, adapter_for, adapters
from retention.errors import ConfigError

FAMILIES = sorted(name for name, adapter in adapters().items() if "attention" in adapter.observable)
CLOSED = torch.finfo(torch.float32).min / 4

each_family = pytest.mark.parametrize("observed", FAMILIES)


@dataclass
class Watching:
    """Keeps the given original positions, by removal or by closed gates, and remembers what it was shown."""

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


@each_family
def test_received_attention_is_that_of_the_models_own_maps(
    observed: str, build: Callable[..., nn.Module], make_batch: Callable[..., Any]
) -> None:
    encoder = build(observed, "eager")
    batch, gate = make_batch(encoder), Watching()
    with torch.no_grad():
        maps = encoder(**batch, output_attentions=True).attentions
        with Retainer(encoder, gate, layers=range(4)):
            encoder(**batch)
    real, total = batch["attention_mask"].float(), torch.zeros(batch["attention_mask"].shape)
    assert len(gate.views) == len(maps) == 4
    for view, probabilities in zip(gate.views, maps, strict=True):
        expected = (probabilities.mean(1) * real.unsqueeze(2)).sum(1)
        total = total + expected
        torch.testing.assert_close(view.received_attention, expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(view.accumulated_attention, total, atol=1e-5, rtol=0)
        assert (view.received_attention[~view.valid] < 1e-6).all()
        torch.testing.assert_close(view.received_attention.sum(1), real.sum(1), atol=1e-4, rtol=0)  # 1 on average


@each_family
def test_maps_that_were_asked_for_still_arrive_and_others_do_not(
    observed: str, build: Callable[..., nn.Module], make_batch: Callable[..., Any]
) -> None:
    encoder = build(observed, "eager")
    with torch.no_grad(), Retainer(encoder, Watching(), layers=[1]):
        assert len(encoder(**make_batch(encoder), output_attentions=True).attentions) == 4
        assert getattr(encoder(**make_batch(encoder)), "attentions", None) is None


@each_family
def test_closed_gates_and_removal_show_the_same(
    observed: str, build: Callable[..., nn.Module], make_batch: Callable[..., Any], nested_keep: Callable[..., Any]
) -> None:
    encoder = build(observed, "eager")
    batch = make_batch(encoder)
    keep = nested_keep(batch["attention_mask"])
    hard, soft = Watching(keep), Watching(keep, soft=True)
    for gate in (hard, soft):
        with torch.no_grad(), Retainer(encoder, gate, layers=range(4)):
            encoder(**batch)
    for short, long in zip(hard.views, soft.views, strict=True):
        for name in ("received_attention", "accumulated_attention", "key_norms"):
            shown, reference = getattr(short, name), getattr(long, name).gather(1, short.positions)
            assert (shown - reference)[short.valid].abs().max() < 2e-5, name


@each_family
def test_key_norms_need_no_maps(observed: str, build: Callable[..., nn.Module], make_batch: Callable[..., Any]) -> None:
    encoder = build(observed, adapter_for(observed).attention[0])
    batch, gate, seen = make_batch(encoder), Watching(observes=("keys",)), []
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
        assert view.received_attention is None and view.accumulated_attention is None


def test_nothing_is_observed_unless_asked(build: Callable[..., nn.Module], make_batch: Callable[..., Any]) -> None:
    encoder, gate = build("bert", "sdpa"), Watching(observes=())
    with torch.no_grad(), Retainer(encoder, gate, layers=[0]):
        encoder(**make_batch(encoder))
    assert gate.views[0].received_attention is None and gate.views[0].key_norms is None


def test_no_map_outlives_its_layer(build: Callable[..., nn.Module], make_batch: Callable[..., Any]) -> None:
    """Under no_grad nothing as large as one map is left over when the encoder has finished."""
    import gc

    encoder = build("mpnet", "eager")
    batch, gate = make_batch(encoder), Watching()
    with torch.no_grad(), Retainer(encoder, gate, layers=range(4)):
        encoder(**batch)
        gc.collect()
        alive = [x for x in gc.get_objects() if type(x) is Tensor and x.shape == (3, 4, 23, 23)]
    assert not alive


def test_checkpointed_layers_show_the_same_and_train(
    build: Callable[..., nn.Module], make_batch: Callable[..., Any], nested_keep: Callable[..., Any]
) -> None:
    gradients, shown = [], []
    for checkpointing in (False, True):
        encoder: Any = build("bert", "eager", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()
        if checkpointing:
            encoder.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        batch = make_batch(encoder)
        gate = Watching(nested_keep(batch["attention_mask"]))
        with Retainer(encoder, gate, layers=range(4)):
            states = encoder(**batch).last_hidden_state
            received = gate.views[1].received_attention
            (states.square().sum() + received[:, 0].sum()).backward()
        shown.append(received.detach())
        gradients.append(encoder.encoder.layer[0].attention.self.query.weight.grad)
    torch.testing.assert_close(*shown)
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-4)


def test_fused_attention_is_refused_with_the_remedy(build: Callable[..., nn.Module]) -> None:
    with pytest.raises(ConfigError, match=r"attn_implementation: .* sdpa never forms; set attn_implementation=eager"):
        Retainer(build("bert", "sdpa"), Watching(), layers=[0])


def test_only_known_things_can_be_observed(build: Callable[..., nn.Module]) -> None:
    with pytest.raises(ConfigError, match="observes: must be among attention, keys, got 'thoughts'"):
        Retainer(build("bert", "eager"), Watching(observes=("thoughts",)), layers=[0])
