"""Define the base class of retention policies: a policy ranks tokens, the engine removes them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from numbers import Real
from typing import ClassVar

import torch
from torch import Tensor, nn

from retention.core.attention import received_attention
from retention.core.budget import Budget, check_budget, check_min_tokens
from retention.core.flops import BEFORE_FIRST_LAYER, EncoderShape
from retention.core.settings import RecordsSettings
from retention.core.thread_override import ThreadOverride
from retention.core.topk import threshold_mask, topk_mask
from retention.engine.gate import Decision, LayerView
from retention.engine.observer import check_observed_layers
from retention.engine.pass_values import PassValue, PassValues
from retention.engine.report import ForwardReport
from retention.engine.retainer import check_layers
from retention.errors import require

PHASES = ("warmup", "soft", "hard")


def check_policy(rho: float, schedule: str | Sequence[float], slope: float, layers: Sequence[int] | None) -> None:
    """Check the settings of ``RetentionPolicy``.

    Raises:
        ConfigError: a setting is out of range.
    """
    is_number = isinstance(rho, Real) and not isinstance(rho, bool)
    require(is_number, "rho", f"the target keep ratio must be a number in (0, 1], got {rho!r}")
    check_budget(float(rho), schedule, slope)
    whole = layers is None or (
        isinstance(layers, Sequence)
        and not isinstance(layers, str)
        and all(isinstance(layer, int) and not isinstance(layer, bool) for layer in layers)
    )
    require(whole, "layers", f"must be a list of layer indices such as [0, 2], or null, got {layers!r:.80}")
    negative = [layer for layer in layers or () if layer < BEFORE_FIRST_LAYER]
    require(not negative, "layers", f"layer indices start at 0, -1 is the gate before layer 0, got {negative}")
    require(layers is None or len(layers) > 0, "layers", "is empty; use retention=dense to keep every token")


class RetentionPolicy(RecordsSettings, nn.Module):
    """Base class of policies, which rank the tokens of a batch after each gated layer, within a budget.

    A subclass implements ``score``; a trainable one also overrides ``soft_decision``. In evaluation mode every policy
    removes tokens with its full budget; in training mode ``phase`` and ``anneal`` decide what happens.

    Args:
        rho: target keep ratio, in (0, 1]: kept / real tokens of a sample, mean over the gated layers.
        schedule: how the budget is distributed over depth, see ``Budget``.
        slope: of the linear schedule, in [0, 1].
        layers: 0-based gated layers, -1 = a gate before layer 0, on the embeddings; None = all layers but the last,
            after which a removal would save nothing.
        min_tokens: tokens of a sample that every gate lets through at least, if there are as many; >= 1. Short texts
            hardly gain time by removal; ``rho`` is not reached by texts of fewer than ``min_tokens / rho`` tokens.
        name: display name in tables; None = name of the policy's module.

    Attributes:
        phase: ``warmup`` (keep all), ``soft`` (soft gating) or ``hard`` (hard pruning); used in training mode only.
        anneal: 0 = keep all, 1 = the full budget; used in training mode only.
        layers: gated layers of the encoder for which the policy was built.
        scored: gated layers with a learned scorer.
        name: display name in tables.
        encoder_shape: dimensions of the encoder that the policy was built for; None before ``build``.
        pass_values: values of the forward pass, which belong to a thread; attributes declared with ``PassValue``.
        soft: the policy has soft gates.
        supports_spans: spans of several tokens can be kept or removed together, by the mean of their scores.
        observes: what the policy reads of a layer's attention, see ``retention.engine.Gate``.
        any_budget: the number of kept tokens depends on ``budget`` alone, see ``support_budgets``.

    Raises:
        ConfigError: a setting is out of range.
    """

    soft: ClassVar[bool] = False
    supports_spans: ClassVar[bool] = True
    observes: ClassVar[tuple[str, ...]] = ()
    any_budget: ClassVar[bool] = True

    _report = PassValue["ForwardReport | None"](lambda: None)
    _counts = PassValue["Tensor | None"](lambda: None)
    _dtype = PassValue["torch.dtype | None"](lambda: None)  # of the weights; None without any

    def __init__(
        self,
        *,
        rho: float,
        schedule: str | Sequence[float] = "linear",
        slope: float = 1.0,
        layers: Sequence[int] | None = None,
        min_tokens: int = 1,
        name: str | None = None,
    ) -> None:
        check_policy(rho, schedule, slope, layers)
        check_min_tokens(min_tokens)
        super().__init__()
        self.pass_values = PassValues()
        self.name = name or type(self).__module__.rpartition(".")[2]
        self.rho = float(rho)
        self.schedule = schedule
        self.slope = slope
        self.min_tokens = int(min_tokens)
        self.requested_layers = None if layers is None else tuple(layers)
        self.phase = "hard"
        self.anneal = 1.0
        self.layers: tuple[int, ...] = ()
        self.scored: tuple[int, ...] = ()
        self.built = False
        self._active: tuple[bool, ...] = ()
        self._active_override = ThreadOverride()
        self.encoder_shape: EncoderShape | None = None
        self._supported_budgets: tuple[float, ...] = (self.rho,)

    def resolve_layers(self, shape: EncoderShape, name: str) -> tuple[int, ...]:
        """Return the gated layers of an encoder.

        Raises:
            ConfigError: a layer that the encoder does not have.
        """
        layers = range(shape.num_layers - 1) if self.requested_layers is None else self.requested_layers
        checked = check_layers(layers, shape.num_layers, name)
        check_observed_layers(self.observes, checked)
        return checked

    def set_rho(self, rho: float) -> None:
        """Replace the target keep ratio, in (0, 1]; call before ``build``."""
        check_policy(rho, self.schedule, self.slope, None)
        self.rho = float(rho)
        self._supported_budgets = (self.rho,)
        if self.constructor_settings is not None:
            self.constructor_settings = {**self.constructor_settings, "rho": self.rho}

    def support_budgets(self, low: float, high: float) -> None:
        """Prepare the weights for every target keep ratio in [low, high] and ``rho``; call before ``build``.

        Raises:
            ConfigError: the number of kept tokens cannot follow a budget that changes between passes.
        """
        message = f"{self.name} learns one number of tokens, which cannot follow a budget that changes; use adaptive"
        require(self.any_budget, "", f"{message} or disable the sampling of budgets (budgets.sampled=0)")
        message = f"a list of keep ratios is one budget; name a schedule to sample budgets, got {self.schedule}"
        require(isinstance(self.schedule, str), "schedule", message)
        self._supported_budgets = (self.rho, low, high)

    @property
    def budget_range(self) -> tuple[float, float]:
        """Return the lowest and the highest target keep ratio that the weights are for; both are rho by default."""
        return min(self._supported_budgets), max(self._supported_budgets)

    def build(self, shape: EncoderShape, name: str = "the encoder") -> None:
        """Allocate everything that depends on the encoder; call once, before training or loading weights.

        Args:
            shape: dimensions of the encoder.
            name: of the encoder, shown in messages.

        Raises:
            ConfigError: layers or schedule do not fit the encoder.
        """
        self.layers = self.resolve_layers(shape, name)
        self.budget = Budget(
            rho=self.rho,
            schedule=self.schedule,
            num_gates=len(self.layers),
            slope=self.slope,
            min_tokens=self.min_tokens,
        )
        self.active = self.budget.active()
        self.encoder_shape = shape
        self.built = True

    @contextmanager
    def at_budget(self, rho: float) -> Iterator[None]:
        """Use the target keep ratio ``rho`` in (0, 1] inside the block, in passes of this thread; 1 keeps everything.

        Raises:
            ConfigError: ``rho`` is out of range, or the policy cannot follow it, see ``check_followed``.
        """
        check_policy(rho, "flat", 0.0, None)
        self.check_followed(rho)
        if not self.follows_budget:  # rho is that of the policy
            yield
            return
        with self.budget.at(float(rho)), self._active_override.using(self.budget.active()):
            yield

    def check_followed(self, rho: float) -> None:
        """Check that the number of kept tokens of a built policy can follow another target keep ratio than ``rho``.

        Raises:
            ConfigError: the numbers are learned or listed, or a gate that removes tokens at this keep ratio has no
                scorer.
        """
        if rho == self.rho or not self.layers:
            return
        message = f"{self.name} keeps what it learned at {self.rho}, got {rho}; leave it at that"
        require(self.follows_budget, "rho", message)
        message = f"the schedule is a list of keep ratios, which {rho} cannot change; leave it at {self.rho}"
        require(isinstance(self.schedule, str), "rho", message)
        with self.budget.at(float(rho)):
            active = self.budget.active()
        gates = zip(self.layers, active, strict=True)
        missing = [layer for layer, removes in gates if removes and self.scored and layer not in self.scored]
        low, high = self.budget_range
        message = (
            f"no scorer after layer {', '.join(map(str, missing))}, where nothing was removed at the keep ratios of "
            f"the training, {low} to {high}; got {rho}, use one like those"
        )
        require(not missing, "rho", message)

    @property
    def follows_budget(self) -> bool:
        """Return True if a trained policy keeps another number of tokens at another target keep ratio."""
        return self.any_budget

    @property
    def active(self) -> tuple[bool, ...]:
        """Return for each of the G gates True if it removes tokens, at the budget of this thread."""
        override: tuple[bool, ...] | None = self._active_override.value
        return self._active if override is None else override

    @active.setter
    def active(self, active: tuple[bool, ...]) -> None:
        self._active = active

    def gates_in_use(self) -> tuple[bool, ...]:
        """Return for each of the G gates True if it removes tokens at some supported budget.

        Checking the ends of the range is enough: keep ratios are clipped at 1, at more gates the larger rho is.
        """
        active = []
        for rho in self._supported_budgets:
            with self.budget.at(rho):
                active.append(self.budget.active())
        return tuple(any(gate) for gate in zip(*active, strict=True))

    @abstractmethod
    def score(self, view: LayerView) -> Tensor:
        """Compute scores [B, N]; the highest are kept. Values on padding and protected tokens have no effect."""

    def reduce_attention(self, probabilities: Tensor, query_weights: Tensor, previous: Tensor | None = None) -> Tensor:
        """Reduce the attention of one layer to ``LayerView.attention_statistics``; by default ``received_attention``.

        Called in every layer up to the last gate if ``observes`` contains ``attention``. Under gradient checkpointing
        it runs again in the backward pass, so it must not change the policy. For statistics per head, return
        ``torch.einsum("bhqk,bq->bhk", probabilities, query_weights)``.

        Args:
            probabilities: attention probabilities [B, H, N, N]; queries before keys.
            query_weights: [B, N], product of the gates of each query; 0 on padding; dtype of ``probabilities``.
            previous: result of the layer before, for the current tokens and detached; None in the first layer.

        Returns:
            [B, ..., N], any number of values per token; the token dimension is the last one.
        """
        return received_attention(probabilities, query_weights)

    def select(self, gate: int, scores: Tensor, view: LayerView) -> Tensor:
        """Select the tokens to keep, [B, N] bool; by default the exact top-k of eq. 7."""
        return topk_mask(scores, self.counts[gate], view.valid, view.protected)

    def select_above(self, scores: Tensor, threshold: float | Tensor, view: LayerView) -> Tensor:
        """Select the tokens whose score reaches a threshold and the best ``min_tokens`` of each sample, [B, N] bool."""
        keep_mask = threshold_mask(scores, threshold, view.valid, view.protected)
        if self.min_tokens == 1:
            return keep_mask
        return keep_mask | topk_mask(scores, view.lengths.clamp_max(self.min_tokens), view.valid, view.protected)

    def soft_decision(self, gate: int, scores: Tensor, view: LayerView) -> Decision:
        """Compute soft gates for training; called only for policies with ``soft = True``."""
        raise TypeError(f"{type(self).__name__} has no soft gates")

    def hard_decision(self, gate: int, scores: Tensor, view: LayerView) -> Decision:
        """Decide which tokens are removed."""
        return Decision(keep_mask=self.select(gate, scores, view))

    @property
    def exact(self) -> bool:
        """Return True if every sample keeps exactly ``counts`` tokens at test time, or its protected ones if more."""
        return True

    @property
    def constrained(self) -> bool:
        """Return True if ``budget_loss`` enforces the budget in training."""
        return False

    def set_saliency(self, saliency: dict[int, Tensor]) -> None:
        """Set the token importance that scorers imitate in the next passes; layer_idx -> [B, T] float >= 0."""
        raise TypeError(f"{type(self).__name__} has no scorers for saliency distillation")

    def saliency_loss(self) -> Tensor:
        """Compute the loss of the saliency distillation in the last pass, scalar; 0 without saliency."""
        return torch.zeros(())

    def budget_slack(self) -> Tensor:
        """Compute (expected kept - budget) of the last pass, [G], mean over the batch; 0 without expectations."""
        return torch.zeros(len(self.layers))

    def budget_loss(self) -> Tensor:
        """Compute the loss term that enforces the budget, scalar, from the last pass; 0 where it is met exactly."""
        return torch.zeros(())

    def step_dual(self, slack: Tensor) -> None:
        """Update dual variables once per optimizer step.

        Args:
            slack: ``budget_slack``, averaged over micro-batches and ranks.
        """

    def multipliers_by_layer(self) -> dict[int, float]:
        """Return layer_idx -> lambda of the budget constraint; empty without one."""
        return {}

    def scorer_macs(self) -> dict[int, int]:
        """Return layer_idx -> multiply-accumulates per token of that gate's scorer, for counting FLOPs."""
        return {}

    @property
    def counts(self) -> Tensor:
        """Return the budget of the current forward pass in whole tokens, [G, B] long."""
        if self._counts is None:
            raise RuntimeError("the policy has not seen a batch yet; run the encoder inside a Retainer")
        return self._counts

    @property
    def report(self) -> ForwardReport:
        """Return the report of the current forward pass."""
        if self._report is None:
            raise RuntimeError("the policy has not seen a batch yet; run the encoder inside a Retainer")
        return self._report

    @property
    def current_anneal(self) -> float:
        """Return ``anneal`` in training mode and 1, the full budget, otherwise."""
        return self.anneal if self.training else 1.0

    @property
    def current_phase(self) -> str:
        """Return ``phase`` in training mode; ``hard`` otherwise and instead of ``soft`` without soft gates."""
        if not self.training:
            return "hard"
        return "hard" if self.phase == "soft" and not self.soft else self.phase

    def begin(self, report: ForwardReport) -> None:
        """Start a forward pass: compute the budget of every gate."""
        self.pass_values.start()
        self._dtype = next((each.dtype for each in self.parameters() if each.is_floating_point()), None)
        self._report = report
        self._counts = self.budget.counts(report.lengths, self.current_anneal)

    def decide(self, view: LayerView) -> Decision | None:
        """Decide after a gated layer, according to the current phase; None = every token is kept."""
        if self.current_phase == "warmup":
            return None
        gate = self.layers.index(view.layer_idx)
        self.report.targets[view.layer_idx] = self.counts[gate].float()
        if not self.active[gate]:
            if self.current_phase == "hard":
                self.report.record_kept(view.layer_idx, view.valid, view.positions)
            return None
        scores = self.score(self._in_weight_dtype(view))
        shape = None if scores is None else tuple(scores.shape)  # None from a subclass without a method of its own
        if shape != tuple(view.valid.shape):
            expected = list(view.valid.shape)
            got = "None" if shape is None else str(list(shape))
            raise TypeError(f"{type(self).__name__}.score must return [batch, tokens] = {expected}, got {got}")
        scores = view.by_span(scores)
        if self.current_phase == "soft":
            return self.soft_decision(gate, scores, view)
        return self.hard_decision(gate, scores, view)

    def _in_weight_dtype(self, view: LayerView) -> LayerView:
        """Return the view with hidden states in the dtype of the policy's weights; autocast converts by itself."""
        dtype, states = self._dtype, view.hidden_states
        if dtype is None or dtype == states.dtype or torch.is_autocast_enabled(states.device.type):
            return view
        return replace(view, hidden_states=states.to(dtype))


def observed(values: Tensor | None) -> Tensor:
    """Return what the engine observed for a policy.

    Raises:
        RuntimeError: nothing, because the class lacks the name in ``observes``.
    """
    if values is None:
        raise RuntimeError("nothing was observed; add its name to the policy's `observes` and use a Retainer")
    return values
