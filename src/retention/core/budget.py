"""Provide budgets: how many tokens go on after each gated layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn

from retention.core.thread_override import ThreadOverride
from retention.errors import require, require_number

SCHEDULES = ("flat", "linear", "geometric", "learned")
_ROUNDING = 1e-6
_MIN_KEEP_RATIO = 1e-3  # of a gate with the learned schedule
_MIN_INITIAL = 0.25  # smallest initial keep ratio of a gate with the learned schedule, relative to rho


def check_budget(rho: float, schedule: str | Sequence[float], slope: float) -> None:
    """Check the settings of a budget.

    Raises:
        ConfigError: a setting is out of range.
    """
    require_number("rho", rho, above=0, high=1, name="the target keep ratio")
    require_number("slope", slope, low=0, high=1, name="the slope (0 = flat)")
    if isinstance(schedule, str):
        message = f"must be one of {', '.join(SCHEDULES)} or a list of keep ratios, got {schedule!r}"
        require(schedule in SCHEDULES, "schedule", message)
    else:
        ratios = list(schedule)
        descending = all(a >= b for a, b in pairwise(ratios))
        in_range = all(0.0 < ratio <= 1.0 for ratio in ratios)
        message = f"a list must hold keep ratios in (0, 1], one per gated layer, in descending order, got {ratios}"
        require(bool(ratios) and in_range and descending, "schedule", message)


def check_min_tokens(min_tokens: int) -> None:
    """Raise ``ConfigError`` unless ``min_tokens`` is a whole number >= 1."""
    require_number("min_tokens", min_tokens, low=1, high=2**20, name="the smallest number of kept tokens")
    whole = isinstance(min_tokens, int) and not isinstance(min_tokens, bool)
    require(whole, "min_tokens", f"must be a whole number >= 1, got {min_tokens!r}")


class Budget(nn.Module):
    """Keep ratios of the gated layers, relative to the real tokens of a sample.

    ``rho``, the target keep ratio, is the mean of kept / real tokens over the gated layers. Counting real tokens only
    makes a result independent of the padding of its batch. Schedules:

    - ``flat``: rho at every gate, so all tokens are removed after the first gated layer;
    - ``linear``: from rho (1 + slope) down to rho (1 - slope), same mean, as in Tables 5-6 of the paper; ratios above 1
      are clipped and the others raised to restore the mean;
    - ``geometric``: M_l = floor(rho T_l) of the current length, as written in Fig. 1, which compounds to rho^l;
    - ``learned``: a softmax over the gates divides the total budget G rho. Excess above 1 goes to the other gates and
      the ratios are sorted, so the mean stays rho. Counts at test time are floor(ratio T), as for every schedule;
    - a list: the keep ratios themselves; ``rho`` has no effect and should be their mean, as the experiment framework
      sets it.

    Training of the learned schedule: ``targets`` are differentiable in ``allocation``, and ``ExactDual`` carries the
    gradient of the task to them by the implicit derivative of each sample's multiplier while gates are soft. With hard
    pruning the division is frozen, see ``Adaptive.begin``. At the optimum a token is worth the same at every gate.
    Other duals only penalize the expected count, so they give the division no gradient of the task.

    Equal keep ratios mean equal FLOPs in everything that is linear in the length. Attention products grow with the
    square of a ratio, so at the same rho a steep schedule costs more on long sequences: compare by the FLOPs ratio.

    Args:
        rho: target keep ratio, in (0, 1].
        schedule: name of a schedule or a list of keep ratios.
        num_gates: G, number of gated layers.
        slope: of the linear schedule, in [0, 1].
        min_tokens: tokens that every gate lets through at least, if there are as many; >= 1. Removal makes short texts
            hardly faster, so a floor costs nothing there.

    Raises:
        ConfigError: a value is out of range, or a list does not have one keep ratio per gate.
    """

    def __init__(
        self, *, rho: float, schedule: str | Sequence[float], num_gates: int, slope: float = 1.0, min_tokens: int = 1
    ) -> None:
        check_budget(rho, schedule, slope)
        check_min_tokens(min_tokens)
        super().__init__()
        self.min_tokens = int(min_tokens)
        self._rho = rho
        self._override = ThreadOverride()
        self.schedule = schedule if isinstance(schedule, str) else tuple(schedule)
        self.num_gates = num_gates
        self.slope = slope
        if not isinstance(self.schedule, str):
            message = f"has {len(self.schedule)} keep ratios for {num_gates} gated layers; give one per gated layer"
            require(len(self.schedule) == num_gates, "schedule", message)
        self.allocation = nn.Parameter(torch.zeros(num_gates)) if self.schedule == "learned" else None
        if self.allocation is not None:
            # Start from the linear shape: with equal ratios later gates would remove nothing, and a softmax recovers
            # from values near zero too slowly.
            with torch.no_grad():
                self.allocation.copy_(torch.tensor(self._linear()).clamp_min(_MIN_INITIAL * rho).log())

    @contextmanager
    def at(self, rho: float) -> Iterator[None]:
        """Use another target keep ratio in (0, 1] inside the block, in this thread."""
        with self._override.using(rho):
            yield

    @property
    def rho(self) -> float:
        """Return the target keep ratio, or that of the block of ``at`` in this thread."""
        return self._rho if self._override.value is None else float(self._override.value)

    def keep_ratios(self) -> Tensor:
        """Compute the keep ratio of every gate, [G] float, never increasing; differentiable where learned."""
        return self._annealed(1.0).float()

    def active(self) -> tuple[bool, ...]:
        """Return for each of the G gates True if it removes tokens that the gate before it kept."""
        if self.allocation is not None or self.schedule == "geometric":
            return (self.rho < 1.0,) * self.num_gates
        values = [1.0, *self.keep_ratios().tolist()]
        return tuple(after < before - _ROUNDING for before, after in pairwise(values))

    def targets(self, lengths: Tensor, anneal: float = 1.0) -> Tensor:
        """Compute the budget in tokens without rounding, [G, B] float.

        Args:
            lengths: [B] long, real tokens.
            anneal: 0 = keep all, 1 = the full budget; linear in between.
        """
        ratios = self._annealed(anneal).float().to(lengths.device)
        return torch.maximum(ratios.unsqueeze(1) * lengths.unsqueeze(0), self._floor(lengths).float())

    def counts(self, lengths: Tensor, anneal: float = 1.0) -> Tensor:
        """Compute the budget in whole tokens, [G, B] long: floor(ratio T), at least ``min_tokens``."""
        return torch.maximum(self._counts(lengths, anneal), self._floor(lengths))

    def counts_of(self, keep_ratios: Tensor, lengths: Tensor) -> Tensor:
        """Compute whole tokens from keep ratios other than those of the schedule, at least ``min_tokens``.

        Args:
            keep_ratios: see ``token_counts``.
            lengths: likewise.
        """
        return torch.maximum(token_counts(keep_ratios, lengths), self._floor(lengths))

    def _floor(self, lengths: Tensor) -> Tensor:
        return lengths.clamp(1, self.min_tokens)

    def _counts(self, lengths: Tensor, anneal: float) -> Tensor:
        if self.schedule == "geometric":
            ratio = 1.0 - anneal * (1.0 - self.rho)
            rows, current = [], lengths
            for _ in range(self.num_gates):
                current = torch.floor(ratio * current.double() + _ROUNDING).long().clamp_min(1)
                rows.append(current)
            return torch.stack(rows) if rows else lengths.new_zeros(0, lengths.shape[0])
        return token_counts(self._annealed(anneal).unsqueeze(1), lengths)

    def _annealed(self, anneal: float) -> Tensor:
        """Return the keep ratios [G], annealed from keep-all; float64, as float32 products miss whole tokens."""
        if self.allocation is not None:
            return 1.0 - anneal * (1.0 - self._learned(self.allocation.double()))
        if self.schedule == "geometric":
            step = 1.0 - anneal * (1.0 - self.rho)
            return step ** torch.arange(1, self.num_gates + 1, dtype=torch.float64)
        if self.schedule == "flat":
            values = [self.rho] * self.num_gates
        elif self.schedule == "linear":
            values = self._linear()
        else:
            values = [float(ratio) for ratio in self.schedule]
        return 1.0 - anneal * (1.0 - torch.tensor(values, dtype=torch.float64))

    def _linear(self) -> list[float]:
        if self.num_gates == 1:
            return [self.rho]
        steps = [1.0 - 2.0 * gate / (self.num_gates - 1) for gate in range(self.num_gates)]
        return restore_mean([self.rho * (1.0 + self.slope * step) for step in steps], self.rho)

    def _learned(self, allocation: Tensor) -> Tensor:
        floor = min(_MIN_KEEP_RATIO, 0.5 * self.rho)
        raw = floor + (self.rho - floor) * self.num_gates * torch.softmax(allocation, 0)
        excess, clipped = (raw - 1.0).clamp_min(0.0).sum(), raw.clamp_max(1.0)
        room = 1.0 - clipped  # since rho <= 1, the other gates always have room for the whole excess
        ratios = clipped + excess * room / room.sum().clamp_min(1e-12)
        return ratios.clamp_max(1.0).sort(descending=True).values


def token_counts(keep_ratios: Tensor, lengths: Tensor) -> Tensor:
    """Compute floor(ratio T), at least 1, never increasing with depth, [G, B] long.

    Args:
        keep_ratios: [G, 1], or [G, B] for a ratio per sample.
        lengths: [B] long, real tokens.
    """
    exact = keep_ratios.detach().double().to(lengths.device) * lengths.unsqueeze(0).double()
    counts = torch.floor(exact + _ROUNDING).long().clamp_min(1)
    # Not Tensor.cummin, which has no counterpart in ONNX.
    return torch.stack(list(accumulate(counts.unbind(0), torch.minimum))) if len(counts) else counts


def restore_mean(ratios: list[float], mean: float) -> list[float]:
    """Clip ratios above 1 and raise the others until the mean is reached again."""
    for _ in range(len(ratios)):
        clipped = [min(ratio, 1.0) for ratio in ratios]
        missing = mean * len(ratios) - sum(clipped)
        free = [index for index, ratio in enumerate(clipped) if ratio < 1.0]
        if missing <= _ROUNDING or not free:
            return clipped
        ratios = [ratio + missing / len(free) if index in free else ratio for index, ratio in enumerate(clipped)]
    return [min(ratio, 1.0) for ratio in ratios]
