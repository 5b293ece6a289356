"""Check which variants run, their weights, and the tokens they keep."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from retention.bench.forwards import DenseForward, PrunedForward, ScoreOnlyGate
from retention.bench.inputs import make_inputs, pad_batch
from retention.bench.plan import BenchPlan
from retention.bench.training import TrainingStep
from retention.bench.variants import Variant, VariantBuilder, VariantSpec, list_variants
from retention.engine import Retainer
from retention.policies import Adaptive


@pytest.fixture
def builder(plan: Callable[..., BenchPlan]) -> Callable[..., VariantBuilder]:
    """Return ``builder(**changes)``, which builds variants for random ids, with a padded copy."""

    def make(**changes: Any) -> VariantBuilder:
        made = plan(**changes)
        inputs = make_inputs(made, 16, 3)
        return VariantBuilder(made, replace(inputs, padded=[pad_batch(batch, 20, 0) for batch in inputs.bucketed]))

    return make


def build_variant(builder: VariantBuilder, name: str) -> Variant:
    return builder.build(next(spec for spec in list_variants(builder.plan, builder.inputs) if spec.name == name))


def encoder_in(variant: Variant) -> Any:
    """Return the encoder of a variant."""
    if variant.retainer is not None:
        return variant.retainer.encoder
    forward: DenseForward = variant.step.args[0]  # type: ignore[attr-defined]
    return forward.encoder


def test_dense_variants_come_first_and_scoring_last(builder: Callable[..., VariantBuilder]) -> None:
    made = builder(policies=("adaptive", "truncate"), rhos=(0.5, 0.3), compiled=True)
    names = [spec.name for spec in list_variants(made.plan, made.inputs)]
    assert names == [
        *("dense-sdpa", "dense-eager", "dense-sdpa-padded", "dense-packed", "dense-sdpa-compiled"),
        *("adaptive 0.5", "adaptive 0.3", "truncate 0.5", "truncate 0.3"),
        "adaptive scoring",
    ]


def test_synthetic_inputs_have_no_padded_variant(plan: Callable[..., BenchPlan]) -> None:
    made = plan(policies=("truncate",))
    names = [spec.name for spec in list_variants(made, make_inputs(made, 16, 3))]
    assert names == ["dense-sdpa", "dense-eager", "truncate 0.5"]


def test_training_has_no_scoring_variant(builder: Callable[..., VariantBuilder]) -> None:
    made = builder(phase="train", policies=("adaptive",))
    assert not any(spec.score_only for spec in list_variants(made.plan, made.inputs))


def test_scoring_is_measured_where_most_layers_have_scorers(builder: Callable[..., VariantBuilder]) -> None:
    # of four layers three have a gate; at 0.5 and slope 1 the first one keeps everything and has no scorer
    made = builder(policies=("adaptive",), rhos=(0.5, 0.3), sets=("backbone.fields.num_hidden_layers=4",))
    assert [len(each.policy.scorer_macs()) for each in made.plan.candidates] == [2, 3]
    [spec] = [spec for spec in list_variants(made.plan, made.inputs) if spec.score_only]
    assert spec == VariantSpec("adaptive scoring", "sdpa", candidate=1, score_only=True)


def test_variants_share_weights_and_have_their_attention(builder: Callable[..., VariantBuilder]) -> None:
    made = builder(policies=("truncate",))
    variants = [build_variant(made, name) for name in ("dense-sdpa", "dense-eager", "truncate 0.5")]
    encoders = [encoder_in(variant) for variant in variants]
    assert [encoder.config._attn_implementation for encoder in encoders] == ["sdpa", "eager", "sdpa"]
    for encoder in encoders[1:]:
        pairs = zip(encoders[0].parameters(), encoder.parameters(), strict=True)
        assert all(first is second for first, second in pairs)
    batch = made.inputs.bucketed[0]
    with torch.no_grad():
        torch.testing.assert_close(DenseForward(encoders[0])(batch), DenseForward(encoders[1])(batch))
    assert not any(encoder.training for encoder in encoders)


def test_only_the_padded_variant_gets_padded_batches(builder: Callable[..., VariantBuilder]) -> None:
    made = builder(policies=("truncate",))
    widths = {
        name: [batch["input_ids"].shape[1] for batch in build_variant(made, name).batches]
        for name in ("dense-sdpa", "dense-sdpa-padded", "truncate 0.5")
    }
    assert widths == {"dense-sdpa": [16, 16], "dense-sdpa-padded": [20, 20], "truncate 0.5": [16, 16]}


def test_candidate_removes_tokens(builder: Callable[..., VariantBuilder]) -> None:
    variant = build_variant(builder(policies=("truncate",), rhos=(0.25,)), "truncate 0.25")
    assert [report.kept[0].tolist() for report in variant.reports()] == [[4, 4, 4]] * 2
    assert build_variant(builder(policies=("truncate",)), "dense-sdpa").reports() == []


def test_removed_tokens_are_missing_from_the_output(builder: Callable[..., VariantBuilder]) -> None:
    made = builder(policies=("truncate",), rhos=(0.25,))
    policy = made.plan.candidates[0].policy.eval()
    encoder = encoder_in(build_variant(made, "dense-sdpa"))
    with torch.no_grad():
        states = PrunedForward(encoder, policy, policy.layers)(made.inputs.bucketed[0])
    assert states.shape == (3, 4, 16)


def test_score_only_keeps_every_token(builder: Callable[..., VariantBuilder]) -> None:
    made = builder(policies=("adaptive",))
    policy = made.plan.candidates[0].policy.eval()
    assert isinstance(policy, Adaptive)
    scored: list[tuple[int, ...]] = []
    for scorer in policy.scorers.values():
        scorer.register_forward_hook(lambda module, args, output: scored.append(tuple(output.shape)))
    encoder = encoder_in(build_variant(made, "dense-sdpa"))
    batch = made.inputs.bucketed[0]
    with torch.no_grad():
        torch.testing.assert_close(
            PrunedForward(encoder, ScoreOnlyGate(policy), (0,))(batch), DenseForward(encoder)(batch)
        )
    assert scored == [(3, 16)]


def test_score_only_skips_layers_without_a_scorer(builder: Callable[..., VariantBuilder]) -> None:
    made = builder(policies=("adaptive",), rhos=(0.5,), sets=("backbone.fields.num_hidden_layers=4",))
    build_variant(made, "adaptive scoring").calls()[0]()  # layer 0 has no scorer: calling it would fail


def test_inference_builds_no_graph(builder: Callable[..., VariantBuilder]) -> None:
    variant = build_variant(builder(policies=("adaptive",)), "adaptive 0.5")
    variant.calls()[0]()
    assert isinstance(variant.retainer, Retainer)
    assert variant.retainer.state.positions.is_inference()


def parameters_of(module: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in module.parameters()]


def test_training_step_updates_encoder_scorers_and_head(builder: Callable[..., VariantBuilder]) -> None:
    variant = build_variant(builder(phase="train", policies=("adaptive",)), "adaptive 0.5")
    step, policy = variant.step, variant.policy
    assert isinstance(step, TrainingStep) and isinstance(policy, Adaptive)
    encoder = encoder_in(variant)
    assert encoder.training and policy.training and policy.current_phase == "hard"
    modules = (encoder.encoder.layer, policy.scorers, step.head)
    before = [parameters_of(module) for module in modules]
    variant.calls()[0]()
    for module, old in zip(modules, before, strict=True):
        assert any(not torch.equal(first, second) for first, second in zip(old, module.parameters(), strict=True))
    assert [report.kept[0].tolist() for report in variant.reports()] == [[8, 8, 8]] * 2


def test_training_variants_share_the_encoder_optimizer(builder: Callable[..., VariantBuilder]) -> None:
    made = builder(phase="train", policies=("adaptive",))
    steps = [build_variant(made, name).step for name in ("dense-sdpa", "dense-eager", "adaptive 0.5")]
    assert all(isinstance(step, TrainingStep) for step in steps)
    shared = [step.optimizers[0] for step in steps if isinstance(step, TrainingStep)]
    assert shared[0] is shared[1] is shared[2]
    for step in steps:
        step(made.inputs.bucketed[0])


def test_longformer_has_an_engine_attention_variant(plan: Callable[..., BenchPlan], tmp_path: Path) -> None:
    fields = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    fields |= {"max_position_embeddings": 40, "attention_window": 8}
    node = {"_target_": "retention.models.backbone.ScratchBackbone", "name": "long", "model_type": "longformer"}
    path = tmp_path / "long.yaml"
    path.write_text(json.dumps({**node, "fields": fields}))
    made = plan(backbone=str(path), policies=("adaptive",))
    builder = VariantBuilder(made, make_inputs(made, 16, 3))
    assert [spec.name for spec in list_variants(made, builder.inputs)] == [
        *("dense-eager", "dense-engine", "adaptive 0.5", "adaptive scoring")
    ]
    library, engine = (build_variant(builder, name).step.args[0] for name in ("dense-eager", "dense-engine"))  # type: ignore[attr-defined]
    batch = builder.inputs.bucketed[0]
    with torch.no_grad():
        torch.testing.assert_close(engine(batch), library(batch))
    assert library.encoder is engine.encoder
    [report] = build_variant(builder, "adaptive 0.5").reports()[:1]
    assert report.global_tokens is not None and report.global_tokens.tolist() == [1, 1, 1]
