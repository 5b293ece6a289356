"""The base of all retention policies: a policy ranks tokens, the engine removes them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from retention.core.budget import Budget, check_budget
from retention.core.flops import EncoderShape
from retention.core.topk import topk_mask
from retention.engine.gate import Decision, LayerView
from retention.engine.report import ForwardReport
from retention.engine.retainer import check_layers
from retention.errors import Checks

PHASES = ("warmup", "soft", "hard")


def check_policy(rho: float, schedule: str | Sequence[float], slope: float, layers: Sequence[int] | None) -> None:
    """Raise ``ConfigError`` with every setting of ``RetentionPolicy`` that is out of range."""
    checks = Checks()
    checks.gather(lambda: check_budget(rho, schedule, slope))
    negative = [layer for layer in layers or () if layer < 0]
    checks.require(not negative, "layers", f"layer indices start at 0, got {negative}")
    checks.require(layers is None or len(layers) > 0, "layers", "is empty; use retention=dense for no gate at all")
    checks.finish()


class RetentionPolicy(nn.Module):
    """Ranks the tokens of a batch after each gated layer, within a budget.

    A subclass implements ``score``; a trainable one also overrides ``soft_decision``. In evaluation mode every policy
    removes for real with its full budget; while training, ``phase`` and ``anneal`` say what happens.

    Args:
        rho: mean share of a sample's real tokens that is kept, over the gated layers, in (0, 1].
        schedule: how the budget is spread over depth, see ``Budget``.
        slope: of the linear schedule, in [0, 1].
        layers: 0-based gated layers; None = all but the last, where a removal would save nothing.
        name: of the policy in tables, like its yaml; None = that of its file.

    Attributes:
        phase: ``warmup``, ``soft`` or ``hard``; used in training mode only.
        anneal: 0 = keep all, 1 = the full budget; used in training mode only.
        layers: gated layers of the encoder it was built for.
        scored: those of them with a learned scorer.
        name: of the policy in tables.

    Raises:
        ConfigError: a setting is out of range.
    """

    soft: ClassVar[bool] = False
    groups: ClassVar[bool] = True  # whether it keeps units of several tokens whole, by the mean of their scores
    observes: ClassVar[tuple[str, ...]] = ()  # what it reads of a layer's attention, see engine.Gate
    any_budget: ClassVar[bool] = True  # whether ``budget`` alone decides how many tokens go on, see ``serve``

    def __init__(
        self,
        *,
        rho: float,
        schedule: str | Sequence[float] = "linear",
        slope: float = 1.0,
        layers: Sequence[int] | None = None,
        name: str | None = None,
    ) -> None:
        check_policy(rho, schedule, slope, layers)
        super().__init__()
        self.name = name or type(self).__module__.rpartition(".")[2]
        self.rho = rho
        self.schedule = schedule
        self.slope = slope
        self.requested_layers = None if layers is None else tuple(layers)
        self.phase = "hard"
        self.anneal = 1.0
        self.layers: tuple[int, ...] = ()
        self.scored: tuple[int, ...] = ()
        self.built = False
        self._supported_budgets: tuple[float, ...] = (rho,)
        self._report: ForwardReport | None = None
        self._counts: Tensor | None = None

    @classmethod
    def check(cls, **settings: Any) -> None:
        """Raise ``ConfigError`` with every setting of this class that is out of range."""
        cls(**settings)

    def resolve_layers(self, shape: EncoderShape, name: str) -> tuple[int, ...]:
        """The gated layers of this encoder.

        Raises:
            ConfigError: a layer that the encoder does not have.
        """
        asked = range(shape.num_layers - 1) if self.requested_layers is None else self.requested_layers
        return check_layers(asked, shape.num_layers, name)

    def support_budgets(self, low: float, high: float) -> None:
        """Prepare one set of weights for every budget in [low, high] beside ``rho``; call before ``build``.

        Raises:
            ConfigError: the number of tokens does not follow a budget that changes from pass to pass.
        """
        checks = Checks()
        message = f"{self.name} learns one number of tokens, which cannot follow a budget that changes; use adaptive"
        checks.require(self.any_budget, "", f"{message} or switch the sampling off (budgets.sampled=0)")
        message = f"a list of shares is one budget; with sampled budgets name a schedule, got {self.schedule}"
        checks.require(isinstance(self.schedule, str), "schedule", message)
        checks.finish()
        self._supported_budgets = (self.rho, low, high)

    def build(self, shape: EncoderShape, name: str = "the encoder") -> None:
        """Allocate what depends on the encoder; call once, before training or loading weights.

        Raises:
            ConfigError: layers or schedule do not fit the encoder.
        """
        self.layers = self.resolve_layers(shape, name)
        self.budget = Budget(rho=self.rho, schedule=self.schedule, num_gates=len(self.layers), slope=self.slope)
        self.active = self.budget.active()
        self.built = True

    @contextmanager
    def at_budget(self, rho: float) -> Iterator[None]:
        """Passes inside the block have the budget ``rho`` in (0, 1] instead of ``self.rho``; 1 keeps everything."""
        before = self.active
        with self.budget.at(rho):
            self.active = self.budget.active()
            try:
                yield
            finally:
                self.active = before

    def gates_in_use(self) -> tuple[bool, ...]:
        """[G]: whether each gate removes anything at some budget that is served.

        The ends of the range suffice: shares are cut at 1, at more gates the larger rho is, and idle gates follow.
        """
        found = []
        for rho in self._supported_budgets:
            with self.budget.at(rho):
                found.append(self.budget.active())
        return tuple(any(gate) for gate in zip(*found, strict=True))

    @abstractmethod
    def score(self, view: LayerView) -> Tensor:
        """Scores [B, N]; the highest are kept. Values on padding and protected tokens do not matter."""

    def select(self, gate: int, scores: Tensor, view: LayerView) -> Tensor:
        """keep_mask [B, N] bool; by default the strict top-M of eq. 7."""
        return topk_mask(scores, self.counts[gate], view.valid, view.protected)

    def soft_decision(self, gate: int, scores: Tensor, view: LayerView) -> Decision:
        """Soft gates for training; only policies with ``soft = True`` are asked."""
        raise TypeError(f"{type(self).__name__} has no soft gates")

    def remove(self, gate: int, scores: Tensor, view: LayerView) -> Decision:
        """Real removal."""
        return Decision(keep_mask=self.select(gate, scores, view))

    @property
    def exact(self) -> bool:
        """Whether every text keeps exactly ``counts`` at test time, or all its protected tokens where they are more."""
        return True

    @property
    def constrained(self) -> bool:
        """Whether ``budget_loss`` holds anything at the budget."""
        return False

    def set_saliency(self, saliency: dict[int, Tensor]) -> None:
        """Importance that the scorers should rank by in the next passes; layer_idx -> [B, T] float >= 0."""
        raise TypeError(f"{type(self).__name__} has no scorers to guide")

    def saliency_loss(self) -> Tensor:
        """Ranking loss of the last pass, scalar; 0 where nothing guides."""
        return torch.zeros(())

    def budget_slack(self) -> Tensor:
        """(expected kept - budget) of the last pass, [G], mean over the batch; 0 without expectations."""
        return torch.zeros(len(self.layers))

    def budget_loss(self) -> Tensor:
        """What holds the expected count at the budget, scalar, from the last pass; 0 where it is met exactly."""
        return torch.zeros(())

    def step_dual(self, slack: Tensor) -> None:
        """Dual step on the slack [G], averaged over micro-batches and ranks; once per optimiser step."""

    def price(self) -> dict[int, float]:
        """layer_idx -> lambda of the budget constraint; empty without one."""
        return {}

    def scorer_macs(self) -> dict[int, int]:
        """layer_idx -> multiply-accumulates per token of that gate's scorer, for the FLOPs ledger."""
        return {}

    @property
    def counts(self) -> Tensor:
        """[G, B] long, budget in whole tokens of the current forward pass."""
        if self._counts is None:
            raise RuntimeError("the policy has not been asked about a batch yet; run the encoder inside a Retainer")
        return self._counts

    @property
    def report(self) -> ForwardReport:
        """The account of the current forward pass."""
        if self._report is None:
            raise RuntimeError("the policy has not been asked about a batch yet; run the encoder inside a Retainer")
        return self._report

    @property
    def current_anneal(self) -> float:
        """The annealing in force: the full budget outside training."""
        return self.anneal if self.training else 1.0

    @property
    def current_phase(self) -> str:
        """The phase in force: real removal outside training and for policies without soft gates."""
        if not self.training:
            return "hard"
        return "hard" if self.phase == "soft" and not self.soft else self.phase

    def begin(self, report: ForwardReport) -> None:
        self._report = report
        self._counts = self.budget.counts(report.lengths, self.current_anneal)

    def decide(self, view: LayerView) -> Decision | None:
        if self.current_phase == "warmup":
            return None
        gate = self.layers.index(view.layer_idx)
        self.report.targets[view.layer_idx] = self.counts[gate].float()
        if not self.active[gate]:
            if self.current_phase == "hard":
                self.report.record_kept(view.layer_idx, view.valid, view.positions)
            return None
        scores = view.by_span(self.score(view))
        if self.current_phase == "soft":
            return self.soft_decision(gate, scores, view)
        return self.remove(gate, scores, view)


def observed(values: Tensor | None) -> Tensor:
    """What a policy asked the engine to observe, [B, N].

    Raises:
        RuntimeError: the engine was not asked; the class lacks the name in ``observes``.
    """
    if values is None:
        raise RuntimeError("nothing was observed; name it in the policy's `observes`, and run it inside a Retainer")
    return values
