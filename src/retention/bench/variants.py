"""Build the dense models and the policies that are timed side by side."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from retention.bench.activations import Activations
from retention.bench.forwards import DenseForward, EngineAttentionForward, PrunedForward, ScoreOnlyGate
from retention.bench.inputs import Batch, Inputs
from retention.bench.packed import FAMILIES, PackedForward, pack_batch, packed_implementation
from retention.bench.plan import BenchPlan
from retention.bench.settings import DTYPES, VOCABULARY
from retention.bench.training import TrainingStep
from retention.engine import ForwardReport, Gate, Retainer
from retention.errors import ConfigError, Problem, RetentionError
from retention.models.backbone import Backbone
from retention.policies import RetentionPolicy


@dataclass(frozen=True)
class VariantSpec:
    """Description of a variant in plain values.

    Attributes:
        name: unique name, shown in the table.
        attention: attention implementation.
        padded: True = sequences are padded to the full length.
        compiled: True = the encoder is compiled with ``torch.compile``.
        packed: True = sequences are concatenated without padding, see ``PackedForward``.
        engine: True = the dense model uses the attention that the engine uses for token removal.
        candidate: index in ``BenchPlan.candidates``; None = dense.
        score_only: True = the candidate scores the tokens and removes none.
    """

    name: str
    attention: str
    padded: bool = False
    compiled: bool = False
    packed: bool = False
    engine: bool = False
    candidate: int | None = None
    score_only: bool = False


def list_variants(plan: BenchPlan, inputs: Inputs) -> list[VariantSpec]:
    """List the variants of one case: dense models first, then the candidates, then scoring alone."""
    best = plan.attention[0]
    variants = [VariantSpec(f"dense-{name}", name) for name in plan.attention]
    if plan.engine_attention:
        variants.append(VariantSpec("dense-engine", best, engine=True))
    if inputs.padded is not None:
        variants.append(VariantSpec(f"dense-{best}-padded", best, padded=True))
    if _can_be_packed(plan, inputs):
        variants.append(VariantSpec("dense-packed", best, packed=True))
    if plan.settings.compiled:
        variants.append(VariantSpec(f"dense-{best}-compiled", best, compiled=True))
    for index, candidate in enumerate(plan.candidates):
        variants.append(VariantSpec(candidate.title, _attention(plan, index), candidate=index))
    return variants + ([] if plan.settings.phase == "train" else _scoring(plan))


def _can_be_packed(plan: BenchPlan, inputs: Inputs) -> bool:
    """Return True where packing can be faster: with padding, or on CUDA, whose kernel skips keys outside the window."""
    family = str(plan.backbone.config(VOCABULARY).model_type)
    return family in FAMILIES and (inputs.padded is not None or plan.settings.device == "cuda")


def _attention(plan: BenchPlan, index: int) -> str:
    """Return the fastest attention implementation that shows a candidate what it observes."""
    return "eager" if "attention" in plan.candidates[index].policy.observes else plan.attention[0]


def _scoring(plan: BenchPlan) -> list[VariantSpec]:
    """List scoring alone, once per kind of policy with scorers, at the keep ratio where most layers have one."""
    most_scorers: dict[str, int] = {}
    for index, candidate in enumerate(plan.candidates):
        scorers = len(candidate.policy.scorer_macs())
        best = most_scorers.get(candidate.name)
        if scorers and (best is None or scorers > len(plan.candidates[best].policy.scorer_macs())):
            most_scorers[candidate.name] = index
    return [
        VariantSpec(f"{name} scoring", _attention(plan, index), candidate=index, score_only=True)
        for name, index in most_scorers.items()
    ]


@dataclass(frozen=True)
class Variant:
    """Variant that is ready to be timed.

    Attributes:
        spec: its description.
        batches: its inputs.
        step: runs one forward pass or one training step.
        retainer: None for dense variants.
        policy: None for dense variants.
    """

    spec: VariantSpec
    batches: list[Batch]
    step: Callable[[Batch], None]
    retainer: Retainer | None = None
    policy: RetentionPolicy | None = None

    def activations(self) -> Activations | None:
        """Measure what a training step saves for its backward pass, mean over the batches; None for inference."""
        if not isinstance(self.step, TrainingStep):
            return None
        return Activations.mean([self.step.activations(batch) for batch in self.batches])

    def calls(self) -> list[Callable[[], None]]:
        """Return one call per batch."""
        return [partial(self.step, batch) for batch in self.batches]

    def reports(self) -> list[ForwardReport]:
        """Run every batch once and return the reports of the kept tokens; empty for dense models."""
        if self.retainer is None:
            return []
        reports = []
        for call in self.calls():
            call()
            reports.append(self.retainer.report)
        return reports


class VariantBuilder:
    """Build variants that share one set of weights.

    Args:
        plan: parts of the measurement.
        inputs: batches on the device.
    """

    def __init__(self, plan: BenchPlan, inputs: Inputs) -> None:
        torch.manual_seed(plan.settings.seed)
        self.plan = plan
        self.inputs = inputs
        self._encoders: dict[tuple[str, bool], nn.Module] = {}
        self._dtype = DTYPES[plan.settings.dtype]
        self._optimizer: torch.optim.Optimizer | None = None

    def build(self, spec: VariantSpec) -> Variant:
        """Build one variant."""
        encoder = self._encoder(spec)
        if spec.candidate is None:
            forward = self._dense(spec, encoder)
            return Variant(spec, self._batches(spec, encoder), self._step(forward, encoder, None))
        policy = self._policy(spec.candidate)
        gate: Gate = ScoreOnlyGate(policy) if spec.score_only else policy
        prune_at = self.plan.candidates[spec.candidate].prune_at
        retained = PrunedForward(encoder, gate, policy.layers, prune_at)
        step = self._step(retained, encoder, policy)
        return Variant(spec, self.inputs.bucketed, step, retained.retainer, policy)

    def _dense(self, spec: VariantSpec, encoder: nn.Module) -> Callable[[Batch], Tensor]:
        if spec.packed:
            return PackedForward(encoder)
        return (
            EngineAttentionForward(encoder)
            if spec.engine
            else DenseForward(torch.compile(encoder) if spec.compiled else encoder)
        )

    def _batches(self, spec: VariantSpec, encoder: Any) -> list[Batch]:
        if spec.packed:
            return [pack_batch(batch, encoder.config) for batch in self.inputs.bucketed]
        return self.inputs.padded if spec.padded and self.inputs.padded is not None else self.inputs.bucketed

    def _encoder(self, spec: VariantSpec) -> nn.Module:
        """Load one encoder per attention implementation and one to compile; all share the parameters of the first."""
        settings = self.plan.settings
        attention = packed_implementation(settings.device, self._dtype) if spec.packed else spec.attention
        key = (attention, spec.compiled)
        if key not in self._encoders:
            backbone = copy.deepcopy(self.plan.backbone)
            backbone.attn_implementation = attention
            encoder = _load_encoder(backbone, self.inputs.vocab_size).to(settings.device, self._weights_dtype)
            for first in self._encoders.values():
                encoder.load_state_dict(first.state_dict(keep_vars=True), assign=True)
            self._encoders[key] = encoder.train(settings.phase == "train")
        return self._encoders[key]

    @property
    def _weights_dtype(self) -> torch.dtype:
        return torch.float32 if self.plan.settings.phase == "train" else self._dtype

    def _policy(self, index: int) -> RetentionPolicy:
        settings = self.plan.settings
        policy = copy.deepcopy(self.plan.candidates[index].policy).to(settings.device, self._weights_dtype)
        return policy.train(settings.phase == "train")

    def _step(
        self, forward: Callable[[Batch], Tensor], encoder: nn.Module, policy: RetentionPolicy | None
    ) -> Callable[[Batch], None]:
        if self.plan.settings.phase == "inference":
            return partial(_infer, forward)
        if self._optimizer is None:
            self._optimizer = TrainingStep.optimizer_of(encoder)
        return TrainingStep(forward, encoder, self._optimizer, policy, self.plan.shape.hidden_size, self._dtype)


def _load_encoder(backbone: Backbone, vocab_size: int) -> nn.Module:
    try:
        return backbone.encoder(vocab_size)
    except RetentionError:
        raise
    except ValueError as error:  # transformers rejects incompatible sizes
        raise ConfigError([Problem("backbone", str(error))]) from error


def _infer(forward: Callable[[Batch], Tensor], batch: Batch) -> None:
    with torch.inference_mode():
        forward(batch)
