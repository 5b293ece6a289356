"""The dense models and the policies that run beside each other."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from retention.bench.activations import Activations
from retention.bench.forwards import Dense, EngineDense, KeepsAll, Retained
from retention.bench.inputs import Batch, Inputs
from retention.bench.packed import FAMILIES, PackedDense, packed, packed_implementation
from retention.bench.plan import Plan
from retention.bench.settings import DTYPES, VOCABULARY
from retention.bench.training import TrainingStep
from retention.engine import ForwardReport, Gate, Retainer
from retention.errors import ConfigError, Problem, RetentionError
from retention.models.backbone import Backbone
from retention.policies import RetentionPolicy


@dataclass(frozen=True)
class Spec:
    """What a variant is, in plain values.

    Attributes:
        name: unique, as shown in the table.
        attention: attention implementation.
        padded: whether texts are padded to the full length.
        compiled: whether the encoder goes through ``torch.compile``.
        packed: whether texts are laid end to end without padding, see ``PackedDense``.
        engine: whether the dense model's attention is the engine's, which the contenders have.
        contender: index in ``Plan.contenders``; None = dense.
        keeps_all: whether the contender only scores, and removes nothing.
    """

    name: str
    attention: str
    padded: bool = False
    compiled: bool = False
    packed: bool = False
    engine: bool = False
    candidate: int | None = None
    keeps_all: bool = False


def specs(plan: Plan, inputs: Inputs) -> list[Spec]:
    """Everything that runs in one case: dense models first, then the contenders, then scoring alone."""
    best = plan.attention[0]
    found = [Spec(f"dense-{name}", name) for name in plan.attention]
    if plan.engine_attention:
        found.append(Spec("dense-engine", best, engine=True))
    if inputs.padded is not None:
        found.append(Spec(f"dense-{best}-padded", best, padded=True))
    if _can_be_packed(plan, inputs):
        found.append(Spec("dense-packed", best, packed=True))
    if plan.settings.compiled:
        found.append(Spec(f"dense-{best}-compiled", best, compiled=True))
    for index, candidate in enumerate(plan.candidates):
        found.append(Spec(candidate.title, _attention(plan, index), candidate=index))
    return found + ([] if plan.settings.phase == "train" else _scoring(plan))


def _can_be_packed(plan: Plan, inputs: Inputs) -> bool:
    """Where it can be faster: on texts with padding, and on CUDA, whose kernel skips what windows leave out."""
    family = str(plan.backbone.config(VOCABULARY).model_type)
    return family in FAMILIES and (inputs.padded is not None or plan.settings.device == "cuda")


def _attention(plan: Plan, index: int) -> str:
    """The best implementation that shows a contender what it observes."""
    return "eager" if "attention" in plan.candidates[index].policy.observes else plan.attention[0]


def _scoring(plan: Plan) -> list[Spec]:
    """Scoring alone, once per kind of trainable policy: at the share where most layers have a scorer."""
    most: dict[str, int] = {}
    for index, candidate in enumerate(plan.candidates):
        scorers = len(candidate.policy.scorer_macs())
        before = most.get(candidate.name)
        if scorers and (before is None or scorers > len(plan.candidates[before].policy.scorer_macs())):
            most[candidate.name] = index
    return [
        Spec(f"{name} scoring", _attention(plan, index), candidate=index, keeps_all=True)
        for name, index in most.items()
    ]


@dataclass(frozen=True)
class Variant:
    """Something to time.

    Attributes:
        spec: what it is.
        batches: its inputs.
        step: one forward pass or one training step.
        retainer: of a variant that removes tokens.
        policy: likewise.
    """

    spec: Spec
    batches: list[Batch]
    step: Callable[[Batch], None]
    retainer: Retainer | None = None
    policy: RetentionPolicy | None = None

    def activations(self) -> Activations | None:
        """What a training step keeps for its backward pass, mean over the batches; None for inference."""
        if not isinstance(self.step, TrainingStep):
            return None
        return Activations.mean([self.step.activations(batch) for batch in self.batches])

    def calls(self) -> list[Callable[[], None]]:
        """One call per batch."""
        return [partial(self.step, batch) for batch in self.batches]

    def reports(self) -> list[ForwardReport]:
        """What is kept of each batch; runs all of them once. Empty for dense models."""
        if self.retainer is None:
            return []
        found = []
        for call in self.calls():
            call()
            found.append(self.retainer.report)
        return found


class VariantBuilder:
    """Builds variants that share one set of weights.

    Args:
        plan: what to build.
        inputs: on the device.
    """

    def __init__(self, plan: Plan, inputs: Inputs) -> None:
        torch.manual_seed(plan.settings.seed)
        self.plan = plan
        self.inputs = inputs
        self._encoders: dict[tuple[str, bool], nn.Module] = {}
        self._dtype = DTYPES[plan.settings.dtype]
        self._optimizer: torch.optim.Optimizer | None = None

    def build(self, spec: Spec) -> Variant:
        """One variant, ready to run."""
        encoder = self._encoder(spec)
        if spec.candidate is None:
            forward = self._dense(spec, encoder)
            return Variant(spec, self._batches(spec, encoder), self._step(forward, encoder, None))
        policy = self._policy(spec.candidate)
        gate: Gate = KeepsAll(policy) if spec.keeps_all else policy
        prune_at = self.plan.candidates[spec.candidate].prune_at
        retained = Retained(encoder, gate, policy.layers, prune_at)
        step = self._step(retained, encoder, policy)
        return Variant(spec, self.inputs.bucketed, step, retained.retainer, policy)

    def _dense(self, spec: Spec, encoder: nn.Module) -> Callable[[Batch], Tensor]:
        if spec.packed:
            return PackedDense(encoder)
        return EngineDense(encoder) if spec.engine else Dense(torch.compile(encoder) if spec.compiled else encoder)

    def _batches(self, spec: Spec, encoder: Any) -> list[Batch]:
        if spec.packed:
            return [packed(batch, encoder.config) for batch in self.inputs.bucketed]
        return self.inputs.padded if spec.padded and self.inputs.padded is not None else self.inputs.bucketed

    def _encoder(self, spec: Spec) -> nn.Module:
        """One encoder per attention implementation, and one for compilation; all have the parameters of the first."""
        settings = self.plan.settings
        attention = packed_implementation(settings.device, self._dtype) if spec.packed else spec.attention
        key = (attention, spec.compiled)
        if key not in self._encoders:
            backbone = copy.deepcopy(self.plan.backbone)
            backbone.attn_implementation = attention
            encoder = _loaded(backbone, self.inputs.vocab_size).to(settings.device, self._weights_dtype)
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


def _loaded(backbone: Backbone, vocab_size: int) -> nn.Module:
    try:
        return backbone.encoder(vocab_size)
    except RetentionError:
        raise
    except ValueError as error:  # transformers refuses sizes that do not go together
        raise ConfigError([Problem("backbone", str(error))]) from error


def _infer(forward: Callable[[Batch], Tensor], batch: Batch) -> None:
    with torch.inference_mode():
        forward(batch)
