"""Adaptive token retention with learned scorers, Hard-Concrete gates and a dual on the budget.

A variant of Adaptive Retention (Rafiuddin and Khan, EMNLP 2025 Findings, arXiv 2510.08798).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from retention.core.duals import Dual, ExactDual
from retention.core.flops import EncoderShape
from retention.core.hard_concrete import GateConfig, HardConcrete, log_gate
from retention.core.scorer import Scorer, ScorerConfig, build_scorer
from retention.engine.gate import Decision, LayerView
from retention.engine.pass_values import PassValue
from retention.engine.report import ForwardReport
from retention.engine.token_fusion import fuse_dropped
from retention.errors import require, require_number, require_object
from retention.policies.bases.saliency_scorers import SaliencyScorers

_DEFAULT_GATE = GateConfig()
_DEFAULT_SCORER = ScorerConfig()


@dataclass
class _PassResults:
    """Results of one forward pass that the losses need; part of the graph, so never copied or saved.

    Attributes:
        targets: [G, B] float, budget in tokens.
        slacks: layer_idx -> scalar, (expected kept - budget), mean over the batch.
    """

    targets: Tensor = field(default_factory=lambda: torch.zeros(0))
    slacks: dict[int, Tensor] = field(default_factory=dict)


class Adaptive(SaliencyScorers):
    """Keep the tokens that a learned scorer ranks highest.

    In the soft phase, gates z ~ Hard-Concrete enter every later layer as log z on the attention logits of the token as
    a key. In the hard phase the top M tokens are kept, the others are removed, and the keep probabilities of the kept
    tokens carry a straight-through gradient, so that training ends on the computation of inference. Needs no attention
    maps.

    Source: a variant of Adaptive Retention (Rafiuddin and Khan, EMNLP 2025 Findings, arXiv 2510.08798). Gates in the
    attention logits with real removal in batches were used before by MrT5 (Kallini et al., ICLR 2025); rankers that
    imitate gradient saliency (``set_saliency``) by TR-BERT (Ye et al., NAACL 2021).

    Differs from the paper:

    - tokens are removed between layers, not masked in the final states (eqs. 2 and 7), with an explicit schedule;
    - the default ``ExactDual`` solves for one multiplier per sample instead of dual ascent (eqs. 4-5, ``AscentDual``);
    - gates act on attention logits, where the paper multiplies states (H * z, ``gate_target="states"``): a token with
      zero states would keep its share of the attention;
    - training ends with hard pruning;
    - scorers project the states to ``scorer_dim`` dimensions and normalize them first.

    Args:
        rho: target keep ratio, see ``RetentionPolicy``.
        dual: enforces the expected count in training; None = ``ExactDual()``.
        gate: settings of the soft gates.
        scorer: settings of the scorers.
        schedule: see ``RetentionPolicy``.
        slope: see ``RetentionPolicy``.
        layers: see ``RetentionPolicy``.
        min_tokens: see ``RetentionPolicy``.
        ranking_noise: scale of logistic noise on the ranking during hard pruning in training, >= 0; 0 = no noise.
        token_fusion: fuse dropped tokens into the kept token of lowest score, see ``fuse_dropped``; with hard pruning
            only.
        name: see ``RetentionPolicy``.

    Raises:
        ConfigError: a setting is out of range, or the name of an object instead of the object.
    """

    soft: ClassVar[bool] = True

    _pass = PassValue[_PassResults](_PassResults)

    def __init__(
        self,
        *,
        rho: float,
        dual: Dual | None = None,
        gate: GateConfig = _DEFAULT_GATE,
        scorer: ScorerConfig = _DEFAULT_SCORER,
        schedule: str | Sequence[float] = "linear",
        slope: float = 1.0,
        layers: Sequence[int] | None = None,
        min_tokens: int = 1,
        ranking_noise: float = 0.0,
        token_fusion: bool = False,
        name: str | None = None,
    ) -> None:
        require_number("ranking_noise", ranking_noise, low=0, name="the noise scale")
        dual = ExactDual() if dual is None else dual
        require_object("dual", dual, Dual, "ExactDual() or AscentDual() of retention.core.duals")
        require_object("gate", gate, GateConfig, "GateConfig(beta=0.5) of retention.policies")
        require_object("scorer", scorer, ScorerConfig, "ScorerConfig(scorer_kind='mlp') of retention.policies")
        super().__init__(rho=rho, schedule=schedule, slope=slope, layers=layers, min_tokens=min_tokens, name=name)
        self.dual = dual
        self.gate_config = gate
        self.scorer_config = scorer
        self.ranking_noise = ranking_noise
        self.token_fusion = token_fusion

    def support_budgets(self, low: float, high: float) -> None:
        """Prepare the weights for every target keep ratio in [low, high].

        Raises:
            ConfigError: the dual is not exact, or the schedule is a list.
        """
        super().support_budgets(low, high)
        message = "sampled budgets need dual=exact: a multiplier shared by all samples fits the scores to one budget"
        require(isinstance(self.dual, ExactDual), "dual", message)

    def build(self, shape: EncoderShape, name: str = "the encoder") -> None:
        """Allocate a scorer for every gate that removes tokens, and the dual variables."""
        super().build(shape, name)
        self.scored = tuple(layer for layer, active in zip(self.layers, self.gates_in_use(), strict=True) if active)
        self.scorers = nn.ModuleDict(
            {str(layer): build_scorer(self.scorer_config, shape.hidden_size) for layer in self.scored}
        )
        self.hidden_size = shape.hidden_size
        self.dual.setup(len(self.layers))

    @property
    def gate(self) -> HardConcrete:
        """Return the distribution of the gates at the current temperature."""
        return self.gate_config.distribution(self.current_anneal)

    def begin(self, report: ForwardReport) -> None:
        """Start a forward pass."""
        super().begin(report)
        targets = self.budget.targets(report.lengths, self.current_anneal)
        # Removed tokens give no gradient of their value, so with hard pruning a learned division of the budget would
        # only see the kept tokens and move budget away from where tokens are missing. It is frozen then.
        self._pass = _PassResults(targets=targets.detach() if self.current_phase == "hard" else targets)

    def score(self, view: LayerView) -> Tensor:
        """Compute the scores, and their ranking loss if a saliency is set."""
        scorer: Scorer = self.scorers[str(view.layer_idx)]  # type: ignore[assignment]
        # A fused token counts once in the running summary, whose recurrence is defined for weights up to 1.
        scores: Tensor = scorer(view.hidden_states, view.weights.clamp_max(1.0)).float()
        self.imitate_saliency(scores, view)
        return scores

    def soft_decision(self, gate: int, scores: Tensor, view: LayerView) -> Decision:
        """Sample soft gates whose expected number meets the budget."""
        logits, keep_probs = self._keep_probs(gate, scores, view.survival.float(), view)
        sampled = self.gate.sample(logits) if self.gate_config.relaxed else torch.sigmoid(logits)
        if view.spans is not None:
            sampled = sampled.gather(1, view.spans)  # one sample per span; the sequence is complete in the soft phase
        gates = torch.where(view.protected, torch.ones_like(scores), sampled)
        survival = view.survival.float() * keep_probs
        self._record_slack(gate, survival.sum(1), view)
        self.report.keep_mass[view.layer_idx] = survival.detach().sum(1)
        self.report.targets[view.layer_idx] = self._target(gate, view)
        if self.gate_config.gate_target == "states":
            gates = torch.where(view.valid, gates, 1.0)
            return Decision(hidden_states=scale_states(view.hidden_states, gates), survival=survival)
        return Decision(log_gates=torch.where(view.valid, log_gate(gates), 0.0), survival=survival)

    def hard_decision(self, gate: int, scores: Tensor, view: LayerView) -> Decision:
        """Keep the top M tokens, with straight-through gates in training and token fusion if enabled."""
        if self.training:
            decision = self._straight_through(gate, scores, view)
        else:
            decision = super().hard_decision(gate, scores, view)
        return fuse_dropped(decision, scores, view) if self.token_fusion else decision

    def _straight_through(self, gate: int, scores: Tensor, view: LayerView) -> Decision:
        real = view.valid.float()
        _, keep_probs = self._keep_probs(gate, scores, real, view)
        self._record_slack(gate, (real * keep_probs).sum(1), view)
        keep_mask = self.select(gate, self._with_noise(scores, view), view)
        # The forward value is log 1 = 0, or a factor of 1; the gradient is that of the keep probability.
        zero = keep_probs - keep_probs.detach()
        if self.gate_config.gate_target == "states":
            factors = torch.where(keep_mask, 1.0 + zero, 1.0)  # dropped tokens return as they are
            return Decision(keep_mask=keep_mask, hidden_states=scale_states(view.hidden_states, factors))
        return Decision(keep_mask=keep_mask, log_gates=zero)

    @property
    def constrained(self) -> bool:
        """Return True if a gate has a scorer."""
        return bool(self.scored)

    def budget_slack(self) -> Tensor:
        """Compute (expected kept - budget) of the last pass, [G], mean over the batch; 0 at gates that did not act.

        Relative to the real tokens, or in tokens if the dual uses raw slack.
        """
        zero = self.dual.multipliers.new_zeros(())
        return torch.stack([self._pass.slacks.get(layer, zero) for layer in self.layers])

    def budget_loss(self) -> Tensor:
        """Compute the Lagrangian term of the last pass, scalar (eq. 5)."""
        return self.dual.penalty(self.budget_slack())

    def step_dual(self, slack: Tensor) -> None:
        """Update the multipliers."""
        self.dual.step(slack)

    def multipliers_by_layer(self) -> dict[int, float]:
        """Return layer_idx -> lambda for the gates that have a scorer."""
        multipliers = dict(zip(self.layers, self.dual.multipliers.tolist(), strict=True))
        return {layer: multipliers[layer] for layer in self.scored}

    def scorer_macs(self) -> dict[int, int]:
        """Return the multiply-accumulates per token of the active scorers, including the mean of token fusion."""
        active_layers = [str(layer) for layer, active in zip(self.layers, self.active, strict=True) if active]
        fusion = self.hidden_size if self.token_fusion else 0
        return {int(layer): self.scorers[layer].macs_per_token() + fusion for layer in active_layers}  # type: ignore[operator]

    def _keep_probs(self, gate: int, scores: Tensor, survival: Tensor, view: LayerView) -> tuple[Tensor, Tensor]:
        """Compute the gate logits and keep probabilities, both [B, N]."""
        logits = self.dual.gate_logits(scores, self._target(gate, view), survival, view.protected, self.gate)
        keep_probs = self.dual.keep_probs(logits, self.gate)
        return logits, torch.where(view.protected, torch.ones_like(keep_probs), keep_probs)

    def _target(self, gate: int, view: LayerView) -> Tensor:
        """Return the budget in tokens, [B] float, at least the number of protected tokens: no less can be reached."""
        return torch.maximum(self._pass.targets[gate], view.protected.sum(1))

    def _record_slack(self, gate: int, expected: Tensor, view: LayerView) -> None:
        slack = expected - self._target(gate, view)
        relative = slack / view.lengths.clamp_min(1)
        self._pass.slacks[view.layer_idx] = (slack if self.dual.uses_raw_slack() else relative).mean()

    def _with_noise(self, scores: Tensor, view: LayerView) -> Tensor:
        if self.ranking_noise == 0.0:
            return scores
        return scores + self.ranking_noise * view.by_span(torch.logit(torch.rand_like(scores), eps=1e-6))


def scale_states(hidden_states: Tensor, gates: Tensor) -> Tensor:
    """Multiply states [B, N, D] by gates [B, N]."""
    return hidden_states * gates.to(hidden_states.dtype).unsqueeze(-1)
