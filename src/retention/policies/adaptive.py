"""Adaptive Retention: learned scores, Hard-Concrete gates, a dual that meets the budget (paper, sections 3-4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from retention.core.duals import Dual, ExactDual
from retention.core.flops import EncoderShape
from retention.core.hard_concrete import HardConcrete, log_gate
from retention.core.scorer import Scorer, build_scorer, check_scorer
from retention.engine.gate import Decision, LayerView
from retention.engine.report import ForwardReport
from retention.engine.token_fusion import fuse_dropped
from retention.errors import Checks
from retention.policies.bases.retention_policy import RetentionPolicy, check_policy

GATE_TARGETS = ("attention", "states")


@dataclass
class _Pass:
    """What one forward pass leaves for the losses; holds the graph, so it is never copied or saved.

    Attributes:
        targets: [G, B] float, budget in tokens.
        slacks: layer_idx -> scalar, (expected kept - budget), mean over the batch.
        ranking: ranking losses of the guided gates.
    """

    targets: Tensor = field(default_factory=lambda: torch.zeros(0))
    slacks: dict[int, Tensor] = field(default_factory=dict)
    ranking: list[Tensor] = field(default_factory=list)


class Adaptive(RetentionPolicy):
    """Keeps the tokens that a learned scorer ranks highest.

    Soft phase: gates z ~ Hard-Concrete enter every later layer as log z on the attention logits of the token as a key
    (Differs from the paper: H * z would leave a removed token its attention mass). Removal phase: the top M tokens
    stay, the rest leaves, and the keep probabilities of the survivors carry a straight-through gradient, so training
    ends on exactly what inference does.

    Args:
        dual: holds the expected count at the budget.
        rho, schedule, slope, layers: see ``RetentionPolicy``.
        beta, gamma, zeta: of the Hard-Concrete gates (eq. 6).
        scorer: ``gated`` (eq. 3), ``mlp`` (Fig. 1) or ``linear``.
        inner: width of the gated scorer.
        decay: of the running summary (eq. 3), in [0, 1]; 1 = no summary.
        both_ways: whether the gated scorer also sums up the tokens that follow.
        keep_bias: initial score; positive starts near "keep all" (matters with ``dual=ascent`` only).
        explore: scale of logistic noise on the ranking in the removal phase of training, >= 0; 0 = the ranking itself.
        relaxed: whether soft gates are drawn from the Hard-Concrete; False = the keep probability itself is the gate,
            without noise or stretch, so that beta, gamma and zeta do not matter (Table 3, no variational relaxation).
        beta_end: temperature at the full budget, > 0; it moves from ``beta`` geometrically while the budget is
            annealed. None = it stays.
        acts_on: ``attention``, or ``states``: gates multiply the states, as the paper writes it. A token of state 0
            keeps its share of attention until it is removed for real.
        carry: whether the kept token of lowest score stands for those that leave, see ``carrier.carry``; only real
            removal has it, soft gates do not.
        name: see ``RetentionPolicy``.

    Raises:
        ConfigError: a setting is out of range.
    """

    soft: ClassVar[bool] = True

    def __init__(
        self,
        *,
        dual: Dual,
        rho: float,
        schedule: str | Sequence[float] = "linear",
        slope: float = 1.0,
        layers: Sequence[int] | None = None,
        beta: float = 0.66,
        gamma: float = -0.1,
        zeta: float = 1.1,
        scorer_kind: str = "gated",
        scorer_dim: int = 32,
        decay: float = 0.9,
        keep_bias: float = 3.0,
        ranking_noise: float = 0.0,
        relaxed: bool = True,
        bidirectional: bool = False,
        beta_end: float | None = None,
        gate_target: str = "attention",
        token_fusion: bool = False,
        name: str | None = None,
    ) -> None:
        checks = Checks()
        checks.gather(
            lambda: check_scorer(kind=scorer_kind, inner=scorer_dim, decay=decay, bidirectional=bidirectional)
        )
        checks.gather(lambda: HardConcrete(beta=beta, gamma=gamma, zeta=zeta))
        checks.gather(lambda: check_policy(rho, schedule, slope, layers))
        checks.require(ranking_noise >= 0, "ranking_noise", f"the noise scale must be >= 0, got {ranking_noise}")
        message = f"the temperature must be > 0, or null to stay at beta, got {beta_end}"
        checks.require(beta_end is None or beta_end > 0, "beta_end", message)
        checks.require(
            gate_target in GATE_TARGETS, "gate_target", f"must be one of {', '.join(GATE_TARGETS)}, got {gate_target!r}"
        )
        checks.finish()
        super().__init__(rho=rho, schedule=schedule, slope=slope, layers=layers, name=name)
        self.beta, self.beta_end = beta, beta if beta_end is None else beta_end
        self.gamma, self.zeta = gamma, zeta
        self.dual = dual
        self.scorer_kind = scorer_kind
        self.scorer_dim = scorer_dim
        self.decay = decay
        self.keep_bias = keep_bias
        self.ranking_noise = ranking_noise
        self.relaxed = relaxed
        self.bidirectional = bidirectional
        self.gate_target = gate_target
        self.token_fusion = token_fusion
        self._saliency: dict[int, Tensor] = {}
        self._pass = _Pass()

    def __getstate__(self) -> dict[str, Any]:
        """Copies leave out the last forward pass: tensors of a graph cannot be copied."""
        return {**self.__dict__, "_pass": _Pass(), "_saliency": {}}

    def support_budgets(self, low: float, high: float) -> None:
        checks = Checks()
        checks.gather(lambda: super(Adaptive, self).support_budgets(low, high))
        message = "sampled budgets need dual=exact: a multiplier shared by all samples holds one level of scores, hence"
        checks.require(isinstance(self.dual, ExactDual), "dual", f"{message} one budget")
        checks.finish()

    def build(self, shape: EncoderShape, name: str = "the encoder") -> None:
        super().build(shape, name)
        scored = [layer for layer, active in zip(self.layers, self.gates_in_use(), strict=True) if active]
        self.scorers = nn.ModuleDict(
            {
                str(layer): build_scorer(
                    self.scorer_kind,
                    shape.hidden_size,
                    inner=self.scorer_dim,
                    decay=self.decay,
                    keep_bias=self.keep_bias,
                    bidirectional=self.bidirectional,
                )
                for layer in scored
            }
        )
        self.scored = tuple(scored)
        self.hidden_size = shape.hidden_size
        self.dual.setup(len(self.layers))

    @property
    def gate(self) -> HardConcrete:
        """The distribution of the gates at the temperature in force."""
        beta = self.beta * (self.beta_end / self.beta) ** self.current_anneal
        return HardConcrete(beta=beta, gamma=self.gamma, zeta=self.zeta)

    def begin(self, report: ForwardReport) -> None:
        super().begin(report)
        targets = self.budget.targets(report.lengths, self.current_anneal)
        # a removed token leaves no gradient that says what it would have been worth: a division of the budget learned
        # from the survivors alone moves tokens away from where they are missed
        self._pass = _Pass(targets=targets.detach() if self.current_phase == "hard" else targets)

    def score(self, view: LayerView) -> Tensor:
        scorer: Scorer = self.scorers[str(view.layer_idx)]  # type: ignore[assignment]
        # a token that stands for others counts as one in the summary, whose recurrence holds for weights up to 1
        scores: Tensor = scorer(view.hidden_states, view.weights.clamp_max(1.0)).float()
        if self.training and view.layer_idx in self._saliency:
            saliency = self._saliency[view.layer_idx].gather(1, view.positions)
            self._pass.ranking.append(ranking_loss(scores, saliency, view.valid & ~view.protected))
        return scores

    def set_saliency(self, saliency: dict[int, Tensor]) -> None:
        """Importance that the scorers should rank by in the next passes; layer_idx -> [B, T] float >= 0."""
        self._saliency = saliency

    def saliency_loss(self) -> Tensor:
        """Mean ranking loss of the last pass over the gates, scalar; 0 where nothing guides."""
        return torch.stack(self._pass.ranking).mean() if self._pass.ranking else torch.zeros(())

    def soft_decision(self, gate: int, scores: Tensor, view: LayerView) -> Decision:
        logits, keep_probs = self._probabilities(gate, scores, view.survival.float(), view)
        drawn = self.gate.sample(logits) if self.relaxed else torch.sigmoid(logits)
        if view.spans is not None:
            drawn = drawn.gather(1, view.spans)  # one draw per unit; nothing is removed while gates are soft
        gates = torch.where(view.protected, torch.ones_like(scores), drawn)
        survival = view.survival.float() * keep_probs
        self._account(gate, survival.sum(1), view)
        self.report.keep_mass[view.layer_idx] = survival.detach().sum(1)
        self.report.targets[view.layer_idx] = self._target(gate, view)
        if self.gate_target == "states":
            gates = torch.where(view.valid, gates, 1.0)
            return Decision(hidden_states=scaled(view.hidden_states, gates), survival=survival)
        return Decision(log_gates=torch.where(view.valid, log_gate(gates), 0.0), survival=survival)

    def remove(self, gate: int, scores: Tensor, view: LayerView) -> Decision:
        decision = self._removed(gate, scores, view) if self.training else super().remove(gate, scores, view)
        return fuse_dropped(decision, scores, view) if self.token_fusion else decision

    def _removed(self, gate: int, scores: Tensor, view: LayerView) -> Decision:
        real = view.valid.float()
        _, keep_probs = self._probabilities(gate, scores, real, view)
        self._account(gate, (real * keep_probs).sum(1), view)
        keep_mask = self.select(gate, self._explored(scores, view), view)
        # the forward value is log 1 = 0, or a factor of 1; the gradient is that of the keep probability
        open_gates = keep_probs - keep_probs.detach()
        if self.gate_target == "states":
            return Decision(keep_mask=keep_mask, hidden_states=scaled(view.hidden_states, 1.0 + open_gates))
        return Decision(keep_mask=keep_mask, log_gates=open_gates)

    @property
    def constrained(self) -> bool:
        return bool(self.scored)

    def budget_slack(self) -> Tensor:
        """(expected kept - budget) of the last pass, [G], mean over the batch; 0 at gates that were not asked.

        As a share of the real tokens, or in tokens where the dual asks for raw slack.
        """
        idle = self.dual.multipliers.new_zeros(())
        return torch.stack([self._pass.slacks.get(layer, idle) for layer in self.layers])

    def budget_loss(self) -> Tensor:
        """Lagrangian term of the last pass, scalar (eq. 5)."""
        return self.dual.penalty(self.budget_slack())

    def step_dual(self, slack: Tensor) -> None:
        self.dual.step(slack)

    def price(self) -> dict[int, float]:
        prices = dict(zip(self.layers, self.dual.multipliers.tolist(), strict=True))
        return {layer: prices[layer] for layer in self.scored}

    def scorer_macs(self) -> dict[int, int]:
        at_work = [str(layer) for layer, active in zip(self.layers, self.active, strict=True) if active]
        mean = self.hidden_size if self.token_fusion else 0
        return {int(layer): self.scorers[layer].macs_per_token() + mean for layer in at_work}  # type: ignore[operator]

    def _probabilities(self, gate: int, scores: Tensor, survival: Tensor, view: LayerView) -> tuple[Tensor, Tensor]:
        logits = self.dual.gate_logits(scores, self._target(gate, view), survival, view.protected, self.gate)
        keep_probs = self.dual.keep_probs(logits, self.gate)
        return logits, torch.where(view.protected, torch.ones_like(keep_probs), keep_probs)

    def _target(self, gate: int, view: LayerView) -> Tensor:
        """[B] float; protected tokens stay whatever the budget says, so a smaller one could never be met."""
        return torch.maximum(self._pass.targets[gate], view.protected.sum(1))

    def _account(self, gate: int, mass: Tensor, view: LayerView) -> None:
        slack = mass - self._target(gate, view)
        self._pass.slacks[view.layer_idx] = (slack if self.dual.uses_raw_slack() else slack / view.lengths).mean()

    def _explored(self, scores: Tensor, view: LayerView) -> Tensor:
        if self.ranking_noise == 0.0:
            return scores
        return scores + self.ranking_noise * view.by_span(torch.logit(torch.rand_like(scores), eps=1e-6))


def scaled(hidden_states: Tensor, gates: Tensor) -> Tensor:
    """States [B, N, D] times gates [B, N]."""
    return hidden_states * gates.to(hidden_states.dtype).unsqueeze(-1)


def ranking_loss(scores: Tensor, importance: Tensor, candidates: Tensor) -> Tensor:
    """Cross-entropy between the distributions that importance and scores induce over a sample's tokens (ListNet).

    Args:
        scores: [B, N].
        importance: [B, N] >= 0, any scale.
        candidates: [B, N] bool, tokens that are ranked; samples without any do not count.

    Returns:
        Scalar, mean over samples.
    """
    wanted = importance.masked_fill(~candidates, 0.0)
    wanted = wanted / wanted.sum(1, keepdim=True).clamp_min(1e-12)
    log_shares = torch.log_softmax(scores.masked_fill(~candidates, -1e4), dim=1)
    return -(wanted * log_shares).sum(1).mean()
