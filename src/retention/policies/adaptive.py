"""Adaptive Retention: learned scores, Hard-Concrete gates, a dual that meets the budget (paper, sections 3-4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from retention.core.dual import Dual, ExactDual
from retention.core.flops import EncoderShape
from retention.core.hard_concrete import HardConcrete, log_gate
from retention.core.scorer import Scorer, build_scorer, check_scorer
from retention.engine.gate import Decision, LayerView
from retention.engine.report import ForwardReport
from retention.errors import Checks
from retention.policies.base import RetentionPolicy, check_policy


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
        decay: of the running summary (eq. 3), in [0, 1].
        keep_bias: initial score; positive starts near "keep all" (matters with ``dual=ascent`` only).
        explore: scale of logistic noise on the ranking in the removal phase of training, >= 0; 0 = the ranking itself.
        relaxed: whether soft gates are drawn from the Hard-Concrete; False = the keep probability itself is the gate,
            without noise or stretch, so that beta, gamma and zeta do not matter (Table 3, no variational relaxation).
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
        scorer: str = "gated",
        inner: int = 32,
        decay: float = 0.9,
        keep_bias: float = 3.0,
        explore: float = 0.0,
        relaxed: bool = True,
        name: str | None = None,
    ) -> None:
        checks = Checks()
        checks.gather(lambda: check_scorer(kind=scorer, inner=inner, decay=decay))
        checks.gather(lambda: HardConcrete(beta=beta, gamma=gamma, zeta=zeta))
        checks.gather(lambda: check_policy(rho, schedule, slope, layers))
        checks.require(explore >= 0, "explore", f"the noise scale must be >= 0, got {explore}")
        checks.finish()
        super().__init__(rho=rho, schedule=schedule, slope=slope, layers=layers, name=name)
        self.gate = HardConcrete(beta=beta, gamma=gamma, zeta=zeta)
        self.dual = dual
        self.scorer = scorer
        self.inner = inner
        self.decay = decay
        self.keep_bias = keep_bias
        self.explore = explore
        self.relaxed = relaxed
        self._saliency: dict[int, Tensor] = {}
        self._pass = _Pass()

    def __getstate__(self) -> dict[str, Any]:
        """Copies leave out the last forward pass: tensors of a graph cannot be copied."""
        return {**self.__dict__, "_pass": _Pass(), "_saliency": {}}

    def serve(self, low: float, high: float) -> None:
        checks = Checks()
        checks.gather(lambda: super(Adaptive, self).serve(low, high))
        message = "sampled budgets need dual=exact: a multiplier shared by all samples holds one level of scores, hence"
        checks.require(isinstance(self.dual, ExactDual), "dual", f"{message} one budget")
        checks.finish()

    def build(self, shape: EncoderShape, name: str = "the encoder") -> None:
        super().build(shape, name)
        scored = [layer for layer, active in zip(self.layers, self.active_anywhere(), strict=True) if active]
        self.scorers = nn.ModuleDict(
            {
                str(layer): build_scorer(
                    self.scorer, shape.hidden_size, inner=self.inner, decay=self.decay, keep_bias=self.keep_bias
                )
                for layer in scored
            }
        )
        self.scored = tuple(scored)
        self.dual.setup(len(self.layers))

    def begin(self, report: ForwardReport) -> None:
        super().begin(report)
        targets = self.budget.targets(report.lengths, self.current_anneal)
        # a removed token leaves no gradient that says what it would have been worth: a division of the budget learned
        # from the survivors alone moves tokens away from where they are missed
        self._pass = _Pass(targets=targets.detach() if self.current_phase == "removal" else targets)

    def score(self, view: LayerView) -> Tensor:
        scorer: Scorer = self.scorers[str(view.layer_idx)]  # type: ignore[assignment]
        scores: Tensor = scorer(view.hidden_states, view.weights).float()
        if self.training and view.layer_idx in self._saliency:
            saliency = self._saliency[view.layer_idx].gather(1, view.positions)
            self._pass.ranking.append(ranking_loss(scores, saliency, view.valid & ~view.protected))
        return scores

    def guide(self, saliency: dict[int, Tensor]) -> None:
        """Importance that the scorers should rank by in the next passes; layer_idx -> [B, T] float >= 0."""
        self._saliency = saliency

    def guidance_loss(self) -> Tensor:
        """Mean ranking loss of the last pass over the gates, scalar; 0 where nothing guides."""
        return torch.stack(self._pass.ranking).mean() if self._pass.ranking else torch.zeros(())

    def soft_decision(self, gate: int, scores: Tensor, view: LayerView) -> Decision:
        logits, keep_probs = self._probabilities(gate, scores, view.survival.float(), view)
        drawn = self.gate.sample(logits) if self.relaxed else torch.sigmoid(logits)
        if view.units is not None:
            drawn = drawn.gather(1, view.units)  # one draw per unit; nothing is removed while gates are soft
        gates = torch.where(view.protected, torch.ones_like(scores), drawn)
        survival = view.survival.float() * keep_probs
        self._account(gate, survival.sum(1), view)
        self.report.keep_mass[view.layer_idx] = survival.detach().sum(1)
        self.report.targets[view.layer_idx] = self._target(gate, view)
        return Decision(log_gates=torch.where(view.valid, log_gate(gates), 0.0), survival=survival)

    def remove(self, gate: int, scores: Tensor, view: LayerView) -> Decision:
        if not self.training:
            return Decision(keep_mask=self.select(gate, scores, view))
        real = view.valid.float()
        _, keep_probs = self._probabilities(gate, scores, real, view)
        self._account(gate, (real * keep_probs).sum(1), view)
        keep_mask = self.select(gate, self._explored(scores, view), view)
        # the forward value is log 1 = 0; the gradient is that of the keep probability
        return Decision(keep_mask=keep_mask, log_gates=keep_probs - keep_probs.detach())

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
        return {int(layer): self.scorers[layer].macs_per_token() for layer in at_work}  # type: ignore[operator]

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
        if self.explore == 0.0:
            return scores
        return scores + self.explore * view.by_unit(torch.logit(torch.rand_like(scores), eps=1e-6))


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
