"""Check Lemma 1 and Theorem 1 on a trained model: real losses and real states instead of small made-up ones."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from reproduction.theory import theorem1
from reproduction.theory.estimators import pathwise_gradients, reinforce_gradients
from reproduction.theory.evidence import Evidence, Measurement, TheoryClaim, TheoryVerdict
from reproduction.theory.instances import all_masks, exact_gradient, generator
from reproduction.theory.lemma1 import ERRORS, SHOWN_BETAS, compare_gradients, largest_bias, table_of_gradients
from retention.bench.trained_models import test_batches
from retention.core.hard_concrete import GATE_TARGETS, HardConcrete, log_gate
from retention.engine import Decision, ForwardReport, LayerView, Retainer
from retention.errors import DataError
from retention.models.encoded import Batch, Encoded
from retention.models.retention_model import RetentionModel
from retention.policies.adaptive import Adaptive, scale_states
from retention.trained.loading import load

ROWS, FREE = 3, 6  # test rows of Lemma 1, and their tokens that are not protected
DRAWS, CHUNK = 8_192, 512
_SEARCHED = 1_000  # first test rows among which rows of the right length are looked for


@dataclass(frozen=True)
class FixedGates:
    """Gate that applies given gates z after one layer.

    Attributes:
        gates: [B, T] float in [0, 1]; 1 on protected tokens.
        target: what z multiplies, see ``GateConfig.gate_target``.
    """

    gates: Tensor
    target: str

    def begin(self, report: ForwardReport) -> None:
        """Start a forward pass."""

    def decide(self, view: LayerView) -> Decision:
        """Weigh the tokens."""
        if self.target == "states":
            return Decision(hidden_states=scale_states(view.hidden_states, self.gates))
        return Decision(log_gates=log_gate(self.gates))


@dataclass
class GateLogits:
    """Gate that keeps every token and records the logits that a trained policy gives.

    Attributes:
        policy: trained policy.
        logits: [B, T], of the last pass.
    """

    policy: Adaptive
    logits: Tensor | None = None

    def begin(self, report: ForwardReport) -> None:
        """Start a forward pass."""
        self.policy.begin(report)

    def decide(self, view: LayerView) -> None:
        """Compute the logits at the policy's full budget."""
        target = self.policy.counts[self.policy.layers.index(view.layer_idx)].float()
        survival = view.valid.float()
        target = torch.maximum(target, view.protected.sum(1))
        self.logits = self.policy.dual.gate_logits(
            self.policy.score(view), target, survival, view.protected, self.policy.gate
        )


class ModelLoss:
    """Loss of a trained model on one row as a function of the gates after one layer; later layers have no gate.

    Args:
        model: classification model in evaluation mode, its policy an ``Adaptive``.
        row: batch of one row without padding.
        layer: 0-based gated layer.
        target: what z multiplies, ``attention`` or ``states``.
    """

    def __init__(self, model: RetentionModel, row: Batch, layer: int, target: str) -> None:
        self._model, self._row, self._layer, self._target = model, row, layer, target
        self._free = ~model.head.protected(row)[0]

    def __call__(self, gates: Tensor) -> Tensor:
        """Compute losses [K] of gates of the free tokens, [K, free tokens] float64 in [0, 1]."""
        losses = [self._losses(part) for part in torch.split(gates, CHUNK)]
        return torch.cat(losses).double()

    def logits(self) -> Tensor:
        """Return the logits that the trained scorer gives the free tokens, [free tokens] float64."""
        policy = self._model.policy
        assert isinstance(policy, Adaptive)
        gate = GateLogits(policy)
        with torch.no_grad():
            self._encode(gate, self._row)
        assert gate.logits is not None
        return gate.logits[0][self._free].double()

    def _losses(self, gates: Tensor) -> Tensor:
        count = len(gates)
        batch = {key: value.expand(count, *value.shape[1:]) for key, value in self._row.items()}
        full = torch.ones(count, len(self._free))
        full[:, self._free] = gates.float()
        encoded = self._encode(FixedGates(full, self._target), batch)
        logits = self._model.head.logits(encoded, batch)
        return F.cross_entropy(logits.float(), batch["labels"], reduction="none")

    def _encode(self, gate: FixedGates | GateLogits, batch: Batch) -> Encoded:
        own = self._model.retainer
        retainer = Retainer(self._model.encoder, gate, layers=[self._layer], dropped=own.dropped, prune_at=own.prune_at)
        with retainer, retainer.protect(self._model.head.protected(batch)):
            output = self._model.encoder(**retainer.adapter.inputs(batch))
        return Encoded.from_pass(output.last_hidden_state, batch["attention_mask"], retainer)


def lemma1_evidence(run: Path, data: Path | None) -> Evidence:
    """Compare pathwise gradients with the exact gradient on ``ROWS`` test rows with ``FREE`` free tokens.

    Args:
        run: run folder.
        data: folder with the task's test file; None = the hub.

    Raises:
        DataError: there are not enough such rows.
    """
    model, batches = _load(run, data)
    rows = [row for row in _rows(batches) if int((~model.head.protected(row)).sum()) == FREE][:ROWS]
    if len(rows) < ROWS:
        raise DataError(f"{run}: {len(rows)} of the first {_SEARCHED} test rows have {FREE} free tokens, need {ROWS}")
    return compare_on_rows(model, rows)


def compare_on_rows(model: RetentionModel, rows: Sequence[Batch], draws: int = DRAWS) -> Evidence:
    """Compare pathwise gradients with the exact gradient of the expected loss, at the logits of the trained scorer.

    Args:
        model: classification model in evaluation mode, its policy an ``Adaptive``.
        rows: batches of one row without padding, with equally many free tokens.
        draws: of the gates, per row and setting.
    """
    policy = model.policy
    assert isinstance(policy, Adaptive)
    measurements = []
    for number, row in enumerate(rows):
        for target in GATE_TARGETS:
            loss = ModelLoss(model, row, policy.scored[0], target)
            logits, name = loss.logits(), f"row {number + 1}, gates on {target}"
            exact, values = exact_gradient(loss, logits), loss(all_masks(len(logits))).detach()
            for beta in SHOWN_BETAS:
                print(f"{name}, beta {beta:g} ...", file=sys.stderr, flush=True)
                gradients = pathwise_gradients(
                    loss, logits, HardConcrete(beta=beta), draws, generator(number), chunk=CHUNK
                )
                measurements += compare_gradients(name, gradients, exact, "", {"beta": beta})
            reinforce = reinforce_gradients(partial(_looked_up, values), logits, draws, generator(number))
            measurements += compare_gradients(name, reinforce, exact, "REINFORCE ", {})
    decisive = largest_bias(measurements)
    holds = decisive.value <= ERRORS * (decisive.mc_error or 0.0)
    return Evidence(TheoryVerdict.HOLDS if holds else TheoryVerdict.FAILS, decisive, tuple(measurements))


def theorem1_evidence(run: Path, data: Path | None, draws: int = theorem1.DRAWS) -> Evidence:
    """Estimate the complexity of linear functions of the model's last states under random masks.

    Args:
        run: run folder.
        data: folder with the task's test file; None = the hub.
        draws: of signs and masks.

    Raises:
        DataError: there are not enough test rows of ``theorem1.TOKENS`` tokens.
    """
    model, batches = _load(run, data)
    long = [row for row in _rows(batches) if row["input_ids"].shape[1] >= theorem1.TOKENS][: theorem1.TEXTS]
    if len(long) < theorem1.TEXTS:
        raise DataError(f"{run}: {len(long)} test rows have {theorem1.TOKENS} tokens, need {theorem1.TEXTS}")
    with torch.no_grad():
        outputs = [model.encoder(**model.retainer.adapter.inputs(row)).last_hidden_state[0] for row in long]
    states = torch.stack([output[: theorem1.TOKENS] for output in outputs]).double()
    measurements: list[Measurement] = []
    for pooling in theorem1.POOLINGS:
        measurements += theorem1.ratios(f"last states, {pooling} pooling", states, pooling, draws)
    return theorem1.decide(measurements)


def _load(run: Path, data: Path | None) -> tuple[RetentionModel, list[Batch]]:
    model = load(run).model
    if not isinstance(model.policy, Adaptive):
        raise DataError(f"{run}: is a run of {model.policy.name}; give one of retention=adaptive or retention=paper")
    return model, test_batches(run, data, _SEARCHED, 1)[0]


def _rows(batches: Sequence[Batch]) -> list[Batch]:
    """Return batches of one row each, with tensors only."""
    return [{key: value for key, value in batch.items() if isinstance(value, Tensor)} for batch in batches]


def _looked_up(values: Tensor, masks: Tensor) -> Tensor:
    """Return the losses of masks [K, T], looked up in those of all masks."""
    powers = 2 ** torch.arange(masks.shape[-1])
    return values[(masks.long() * powers).sum(-1)]


def describe_lemma1(evidence: Evidence) -> str:
    """State bias, direction and variance by row, gates and temperature as a table."""
    return table_of_gradients(evidence, evidence.instances("relative bias"), ["REINFORCE"])


def trained_claims(run: Path = Path(), data: Path | None = None) -> tuple[TheoryClaim, ...]:
    """Return the checks on the model of a run.

    Args:
        run: run folder; any path if the checks are only described.
        data: folder with the task's test file; None = the hub.
    """
    return (
        TheoryClaim(
            name="lemma1_trained_model",
            title="Lemma 1 on a trained model",
            source="appendix D",
            statement="As above, with the loss of a trained model as f.",
            method=(
                f"MiniLM, trained on SST-2 with retention; {ROWS} test sentences of {FREE} free tokens, gates after "
                "the first gated layer at the logits of the trained scorer, no gate after it. The exact gradient "
                f"enumerates all {2**FREE} masks; the pathwise gradient is the mean of {DRAWS:,} draws. Gates act on "
                "the attention logits, as in the project, or multiply the states, as the paper writes it."
            ),
            run=partial(lemma1_evidence, run, data),
            describe=describe_lemma1,
            valid_form=(
                "The estimate is the gradient of another objective on real losses, too. Its direction is close to the "
                "right one at the default temperature (0.66); the cosines say how close. At 0.1 the bias is hardly "
                "larger than the error of its estimate, and the variance far larger than that of REINFORCE."
            ),
        ),
        TheoryClaim(
            name="theorem1_trained_model",
            title="Theorem 1 on a trained model",
            source="appendix H",
            statement="As above, with the states of a trained model.",
            method=(
                f"Last states of the same model without removal: the first {theorem1.TOKENS} tokens of "
                f"{theorem1.TEXTS} test sentences; linear functions with weights in the unit ball, random sets of M "
                "tokens."
            ),
            run=partial(theorem1_evidence, run, data),
            describe=theorem1.describe,
            valid_form=(
                "With sum pooling the ratio is near M / T, because the last states of a text are nearly alike. With "
                "mean pooling, as embeddings and several heads here use it, the complexity does not shrink."
            ),
        ),
    )
