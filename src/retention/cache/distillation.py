"""Train the scorers of a bounded cache through the loss of the decoder itself.

The full-cache model is the teacher of the same model with gated attention: log z is added to the attention logits of
keys that have left the recent window, and the exact multiplier holds the expected number of open gates at the size of
the bank, for every query. The last part of training evicts as the cache does. The decoder is frozen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from retention.cache.budget import CacheBudget
from retention.cache.eviction import eviction_counts, visible_mask
from retention.cache.families import HeadCounts, attention_modules
from retention.cache.phase import EpochPhase, PhaseStep
from retention.cache.policies.learned import LearnedScores
from retention.cache.training import text_scores
from retention.core.duals import ExactDual
from retention.core.hard_concrete import HardConcrete, log_gate
from retention.errors import require, require_number


@dataclass(frozen=True, kw_only=True)
class DistillationSettings:
    """Settings of the training through the decoder's loss.

    Attributes:
        epochs: passes over the examples, >= 1.
        lr: learning rate of AdamW, > 0.
        weight_decay: of AdamW, >= 0.
        hard_share: share of the steps, the last ones, in which tokens are evicted instead of gated, in [0, 1].
        max_norm: gradients are clipped to this norm, > 0.
        gate: distribution of the soft gates.
        seed: of the order of the examples and of the gates.

    Raises:
        ConfigError: a setting is out of range.
    """

    epochs: int = 2
    lr: float = 1e-3
    weight_decay: float = 0.0
    hard_share: float = 0.3
    max_norm: float = 1.0
    gate: HardConcrete = field(default_factory=HardConcrete)
    seed: int = 0

    def __post_init__(self) -> None:
        require_number("epochs", self.epochs, low=1)
        require_number("lr", self.lr, above=0)
        require_number("weight_decay", self.weight_decay, low=0)
        require_number("hard_share", self.hard_share, low=0, high=1)
        require_number("max_norm", self.max_norm, above=0)


@dataclass(frozen=True)
class DistillationExample:
    """Sequences of equal length, and the positions at which teacher and student are compared.

    Attributes:
        input_ids: [B, T] long, without padding.
        counted: [T] bool, True = the distribution of the next token after this position is part of the loss.
    """

    input_ids: Tensor
    counted: Tensor

    @classmethod
    def of_text(cls, input_ids: Tensor, budget: CacheBudget) -> DistillationExample:
        """Count the positions from which on the cache has evicted, of sequences [B, T]."""
        return cls(input_ids, torch.arange(input_ids.shape[1]) >= budget.size)

    @classmethod
    def of_columns(cls, input_ids: Tensor, columns: Tensor) -> DistillationExample:
        """Count the positions ``columns`` [N] long of sequences [B, T]."""
        counted = torch.zeros(input_ids.shape[1], dtype=torch.bool)
        counted[columns] = True
        return cls(input_ids, counted)


@dataclass(frozen=True)
class DistillationStep(PhaseStep):
    """Result of one optimizer step.

    Attributes:
        step: number of the step, from 1.
        steps: number of all steps.
        loss: KL divergence of the student from the teacher, mean over the counted positions, in nats.
        bank_tokens: expected number of open gates, mean over layers and queries; the number of tokens that are held
            for their score where ``hard``.
        hard: True if tokens were evicted, False if attention was gated.
    """

    bank_tokens: float
    hard: bool


class BankGates:
    """Compute what is added to the attention logits of one layer from the scores of its tokens.

    Args:
        budget: size, sinks, window and block of the cache.
        gate: distribution of the soft gates.
        hard: evict as the cache does, with the gradient of the keep probabilities; False = soft gates.
        generator: draws the soft gates.

    Attributes:
        bank_tokens: (expected) number of tokens in the bank of each layer that was computed.

    Raises:
        ConfigError: the budget leaves no room for a bank.
    """

    def __init__(
        self, budget: CacheBudget, gate: HardConcrete, *, hard: bool, generator: torch.Generator | None = None
    ) -> None:
        message = f"must be > sinks + window + block - 1, or there is nothing to choose, got {budget.size}"
        require(budget.bank >= 1, "size", message)
        self.budget, self.gate, self.hard, self._generator = budget, gate, hard, generator
        self.dual = ExactDual(count="nonzero")
        self.bank_tokens: list[float] = []

    def bias(self, scores: Tensor) -> Tensor:
        """Return what is added to the attention logits, [B, T, T], queries before keys.

        Args:
            scores: [B, T], rows of sequences without padding, or of their key-value heads.
        """
        batch, length = scores.shape
        index = torch.arange(length, device=scores.device)
        lowest = torch.finfo(scores.dtype).min
        causal = scores.new_zeros(length, length).masked_fill(index > index.unsqueeze(1), lowest)
        causal = causal.expand(batch, -1, -1)
        start = min(self.budget.size, length)  # earlier queries see every token before them
        if start == length:
            return causal
        left = (index >= self.budget.sinks) & (index <= (index - self.budget.window).unsqueeze(1))  # the window
        left = left[start:].expand(batch, -1, -1)
        logits = self._logits(scores, left)
        keep_probs = self.dual.keep_probs(logits, self.gate)
        if not self.hard:
            self.bank_tokens.append(float((keep_probs.detach() * left).sum(2).mean()))
            gates = self.gate.sample(logits, self._uniform(scores).unsqueeze(1).expand_as(logits))
            added = torch.where(left, log_gate(gates), 0.0)
            return torch.cat([causal[:, :start], causal[:, start:] + added], dim=1)
        visible = self._visible(scores)[:, start:]
        self.bank_tokens.append(float((visible & left).sum(2).float().mean()))
        # the forward value of a token in the bank is log 1 = 0; its gradient is that of the keep probability
        added = torch.where(left & visible, keep_probs - keep_probs.detach(), 0.0)
        return torch.cat([causal[:, :start], added.masked_fill(~visible, lowest)], dim=1)

    def _logits(self, scores: Tensor, left: Tensor) -> Tensor:
        """Return the logits of the gates [B, Q, T]; each query has a multiplier of its own."""
        batch, queries, length = left.shape
        rows = scores.unsqueeze(1).expand(-1, queries, -1).reshape(-1, length)
        target = scores.new_full((batch * queries,), float(self.budget.bank))
        free = left.reshape(-1, length)
        logits = self.dual.gate_logits(rows, target, free.to(scores.dtype), torch.zeros_like(free), self.gate)
        return logits.view(batch, queries, length)

    def _uniform(self, scores: Tensor) -> Tensor:
        """Draw one number per token: a token that is closed to a query stays so while the multiplier grows."""
        drawn = torch.rand(scores.shape, generator=self._generator)
        return drawn.to(scores).clamp(1e-6, 1 - 1e-6)

    def _visible(self, scores: Tensor) -> Tensor:
        """Return which keys each query sees in the cache, [B, T, T] bool."""
        ranks = torch.arange(scores.shape[1], device=scores.device).expand(len(scores), -1)
        evicted = eviction_counts(scores.detach().float(), ranks, self.budget)
        return visible_mask(evicted, ranks, ranks + 1, torch.ones_like(ranks, dtype=torch.bool))


@contextmanager
def gated_attention(model: nn.Module, policy: LearnedScores, gates: BankGates) -> Iterator[None]:
    """Return a context in which every layer of a decoder adds the gates of its scorer to its attention logits.

    Scores do not send gradients to the hidden states that they are computed from. With sdpa the kernel of plain
    matrix products is used, as others have no gradient for masks.

    Args:
        model: a supported decoder; call it without padding and without a cache.
        policy: the scorers.
        gates: soft gates, or eviction.

    Raises:
        ConfigError: the decoder is not supported, or the scorers were built for another one.
    """
    modules = attention_modules(model)
    policy.check(model.config)
    heads = HeadCounts.of(model.config)

    def add_gates(index: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        states: Tensor = (args[0] if args else kwargs["hidden_states"]).detach()
        scores = text_scores(policy, index, states)
        rows = scores.flatten(0, -2)  # a head with scores of its own has gates of its own
        bias = gates.bias(rows).to(states.dtype)
        bias = bias.view(len(scores), -1, *bias.shape[1:])
        if policy.heads > 1:
            bias = bias.repeat_interleave(heads.query // policy.heads, dim=1)
        return args, {**kwargs, "attention_mask": bias}

    handles = [
        module.register_forward_pre_hook(partial(add_gates, index), with_kwargs=True)
        for index, module in enumerate(modules)
    ]
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        for handle in handles:
            handle.remove()


def divergence(
    model: Any,
    policy: LearnedScores,
    example: DistillationExample,
    gates: BankGates,
    teacher: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Tensor:
    """Compute KL(full cache || gated attention) of the next-token distributions, mean over the counted positions.

    Args:
        model: a supported decoder with a language-model head.
        policy: the scorers.
        example: sequences and positions.
        gates: soft gates, or eviction.
        teacher: makes a context in which the model is the teacher, for example without its adapters.

    Returns:
        Scalar in nats, >= 0.
    """
    positions = example.counted.nonzero().flatten()
    arguments = {"use_cache": False, "logits_to_keep": positions}
    with torch.no_grad(), teacher():
        expected = model(example.input_ids, **arguments).logits.float().log_softmax(-1)
    with gated_attention(model, policy, gates):
        logits = model(example.input_ids, **arguments).logits.float().log_softmax(-1)
    loss: Tensor = F.kl_div(logits, expected, log_target=True, reduction="none").sum(-1).mean()
    return loss


class DistillationPhase(EpochPhase[DistillationExample]):
    """Training of the scorers so that the decoder with a bounded cache predicts what it does with the full one.

    Args:
        model: a supported decoder with a language-model head, in evaluation mode. Its weights are not changed, except
            for ``adapters``.
        policy: the scorers, changed in place; scorers that rank by future attention are a good start.
        examples: one per step, in random order.
        budget: of the cache.
        settings: optimizer, phases and gates.
        adapters: parameters of the decoder that are trained too, such as those of LoRA.
        teacher: makes a context in which the model is the teacher, for example without its adapters.

    Raises:
        ConfigError: there are no examples, one is not longer than the cache, or the budget has no bank.
    """

    name = "distillation"

    def __init__(
        self,
        model: Any,
        policy: LearnedScores,
        examples: Sequence[DistillationExample],
        budget: CacheBudget,
        settings: DistillationSettings,
        *,
        adapters: Sequence[nn.Parameter] = (),
        teacher: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        for example in examples:
            length = example.input_ids.shape[1]
            message = f"a text must have more tokens than the cache, {budget.size}, and counted positions; got {length}"
            require(length > budget.size and bool(example.counted.any()), "texts", message)
        trained = [*policy.parameters(), *adapters]
        optimizer = torch.optim.AdamW(trained, lr=settings.lr, weight_decay=settings.weight_decay)
        generator = torch.Generator().manual_seed(settings.seed)
        super().__init__(optimizer, examples, settings.epochs, generator, settings.max_norm)
        self.model, self.policy, self.budget, self.settings = model, policy, budget, settings
        self._adapters, self._teacher = adapters, teacher
        self._first_hard = self.steps - round(settings.hard_share * self.steps)
        self._gates = self._next_gates()

    def advance(self, step: Callable[[], Any] | None = None) -> PhaseStep:
        """Do one step, in which the model is frozen except for the adapters."""
        with _frozen(self.model, self._adapters):
            return super().advance(step)

    def _next_gates(self) -> BankGates:
        hard = self.done >= self._first_hard
        return BankGates(self.budget, self.settings.gate, hard=hard, generator=self.generator)

    def _loss(self) -> Tensor:
        example, self._gates = self._next_example(), self._next_gates()
        return divergence(self.model, self.policy, example, self._gates, self._teacher)

    def _result(self, loss: float) -> DistillationStep:
        return DistillationStep(self.done, self.steps, loss, fmean(self._gates.bank_tokens), self._gates.hard)


def distill_scores(
    model: Any,
    policy: LearnedScores,
    examples: Sequence[DistillationExample],
    budget: CacheBudget,
    settings: DistillationSettings,
    *,
    adapters: Sequence[nn.Parameter] = (),
    teacher: Callable[[], AbstractContextManager[Any]] = nullcontext,
    on_step: Callable[[DistillationStep], None] | None = None,
) -> list[DistillationStep]:
    """Train the scorers through the decoder's loss, see ``DistillationPhase`` for arguments and errors.

    Args:
        model: the decoder.
        policy: the scorers, changed in place.
        examples: one per step.
        budget: of the cache.
        settings: optimizer, phases and gates.
        adapters: parameters of the decoder that are trained too.
        teacher: makes a context in which the model is the teacher.
        on_step: called after each step, for progress.

    Returns:
        The results of all steps.

    Raises:
        ConfigError: see ``DistillationPhase``.
        TrainingError: the loss is not finite.
    """
    phase = DistillationPhase(model, policy, examples, budget, settings, adapters=adapters, teacher=teacher)
    results: list[DistillationStep] = []
    policy.train()
    for result in phase.run():
        assert isinstance(result, DistillationStep)
        results.append(result)
        if on_step is not None:
            on_step(result)
    policy.eval()
    return results


@contextmanager
def _frozen(model: nn.Module, adapters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Return a context in which the parameters of a model need no gradient, except for ``adapters``."""
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    trained = {id(parameter) for parameter in adapters}
    try:
        for parameter, _ in before:
            parameter.requires_grad_(id(parameter) in trained)
        yield
    finally:
        for parameter, needed in before:
            parameter.requires_grad_(needed)
