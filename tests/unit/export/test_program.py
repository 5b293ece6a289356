"""Tests of the graph that ``torch.export`` records, and of models under ``torch.compile``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from retention import Adaptive, AttentionTopK, Embedder, Threshold, Truncate
from retention.core.summary import previous_summary
from retention.engine.compaction import compact_indices
from retention.errors import ConfigError
from retention.export import export_onnx, export_program

Make = Callable[..., Embedder]


def inputs_of(model: Embedder, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a batch without segments where the encoder has none."""
    types = getattr(model.encoder.config, "type_vocab_size", 0) > 1
    return {name: value for name, value in batch.items() if types or name != "token_type_ids"}


@pytest.mark.slow
def test_one_graph_serves_batches_of_every_size(make_embedder: Make, batches: list[dict[str, Tensor]]) -> None:
    model = make_embedder()
    graph: Any = export_program(model, rho=0.4).module()
    other: Any = export_program(model, rho=0.8).module()
    for batch in batches:
        with torch.no_grad():
            expected = model(**batch, rho=0.4)
            torch.testing.assert_close(graph(**batch), expected, atol=1e-5, rtol=0)
    assert (other(**batches[0]) - graph(**batches[0])).abs().max() > 1e-3  # control: the keep ratio is in the graph
    assert model.encoder.rho is None and model.policy.budget.rho == 0.5


def test_the_summary_of_any_length_equals_that_of_a_given_length(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    states = torch.randn(3, 50, 4)
    weights = (torch.arange(50)[None] < torch.tensor([50, 20, 1])[:, None]).float()
    real = weights > 0  # values on padding have no effect
    for decay in (0.0, 0.3, 0.9, 0.99, 1.0):
        expected = previous_summary(states, decay, weights)
        with monkeypatch.context() as patch:
            patch.setattr(torch.compiler, "is_exporting", lambda: True)
            summary = previous_summary(states, decay, weights)
            torch.testing.assert_close(summary[real], expected[real], atol=1e-6, rtol=0)
            if 0.0 < decay < 1.0:  # control: another decay is told apart
                other = previous_summary(states, decay / 2, weights)
                assert (other - expected)[real].abs().max() > 1e-3


def test_the_exported_gather_selects_the_same_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    keep_mask = torch.rand(6, 15) < 0.4
    keep_mask[0] = False
    expected, slots = compact_indices(keep_mask, minimum=1)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    indices, exported_slots = compact_indices(keep_mask, minimum=1)
    assert slots is not None and exported_slots is not None
    assert torch.equal(exported_slots, slots) and torch.equal(indices, expected)
    even = torch.tensor([[True, False, True]] * 2)
    assert compact_indices(even)[1] is not None  # a graph cannot leave the mask out


@pytest.mark.parametrize(
    ("policy", "key"),
    [
        (Threshold(rho=0.5), "policy"),
        (Adaptive(rho=0.5, token_fusion=True), "token_fusion"),
    ],
)
def test_policies_that_are_not_exported_are_refused(make_embedder: Make, policy: Any, key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        export_program(make_embedder(policy=policy))


def test_policies_on_attention_maps_are_refused(make_embedder: Make) -> None:
    model = make_embedder("mpnet", AttentionTopK(rho=0.5))  # MPNet has eager attention
    with pytest.raises(ConfigError, match="AttentionTopK"):
        export_program(model)


def test_settings_out_of_range_are_refused(make_embedder: Make, tmp_path: Any) -> None:
    model = make_embedder(policy=Truncate(rho=0.5))
    with pytest.raises(ConfigError, match="output"):
        export_program(model, output="logits")
    with pytest.raises(ConfigError, match="Embedder"):
        export_program(model.encoder)
    with pytest.raises(ConfigError, match="rho"):
        export_program(model, rho=1.5)
    with pytest.raises(ConfigError, match="opset"):
        export_onnx(model, tmp_path / "model.onnx", opset=9)
    with pytest.raises(ConfigError, match="eval"):
        export_program(model.train())


@pytest.mark.slow
def test_a_compiled_embedder_gives_the_same_embeddings(make_embedder: Make, batches: list[dict[str, Tensor]]) -> None:
    model = make_embedder()
    compiled: Any = torch.compile(model, backend="eager")
    for batch in batches[:3]:
        with torch.no_grad():
            assert torch.equal(compiled(**batch), model(**batch))
    assert model.encoder.report.kept[0].tolist() == [2]  # the last batch has three tokens; [CLS] and [SEP] stay
