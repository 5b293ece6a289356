"""Budgets: how many tokens each gate lets through."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Tensor, nn

from retention.errors import Checks

SCHEDULES = ("flat", "linear", "geometric", "learned")
_ROUNDING = 1e-6
_FLOOR = 1e-3  # least share of a learned gate
_START = 0.25  # least share of a learned gate at the start, of rho


def check_budget(rho: float, schedule: str | Sequence[float], slope: float) -> None:
    """Raise ``ConfigError`` with every budget setting that is out of range."""
    checks = Checks()
    checks.require(0.0 < rho <= 1.0, "rho", f"the kept share must be in (0, 1], got {rho}")
    checks.require(0.0 <= slope <= 1.0, "slope", f"must be in [0, 1] (0 = flat), got {slope}")
    if isinstance(schedule, str):
        names = ", ".join(SCHEDULES)
        checks.require(
            schedule in SCHEDULES, "schedule", f"must be one of {names} or a list of shares, got {schedule!r}"
        )
    else:
        shares = list(schedule)
        ordered = all(a >= b for a, b in pairwise(shares))
        within = all(0.0 < share <= 1.0 for share in shares)
        checks.require(
            bool(shares) and within and ordered,
            "schedule",
            f"a list must hold shares in (0, 1], one per gated layer, never rising, got {shares}",
        )
    checks.finish()


class Budget(nn.Module):
    """Shares of a sample's real tokens that go on after each gated layer.

    ``rho`` is the mean over the gated layers of kept / real tokens (paper.md, ruling 2). Schedules:

    - ``flat``: rho at every gate, so one removal after the first gated layer;
    - ``linear``: from rho (1 + slope) down to rho (1 - slope), same mean, as in Tables 5-6; shares above 1 are cut
      and the rest is raised to restore the mean;
    - ``geometric``: the literal M_l = floor(rho T_l) of Fig. 1, which compounds to rho^l;
    - ``learned``: a softmax over the gates divides the global budget G rho; what would exceed 1 goes to the others, and
      shares are sorted, so the mean is rho wherever training leads. Counts at test time are floor(share T), as for
      every schedule;
    - a list: the shares themselves; ``rho`` then only names the run.

    What moves a learned division: ``targets`` are differentiable in ``allocation``, and ``ExactDual`` carries the
    gradient of the task to them by the implicit derivative of each sample's multiplier, while gates are soft; in the
    removal phase the division stays as it is, see ``Adaptive.begin``. A gate whose budget is worth more to the task
    than that of the others grows at their expense; at the optimum a token is worth the same at every gate: one price
    for the one global constraint. Duals that only press an expected count towards the target get no gradient from the
    task there.

    Equal kept tokens are equal FLOPs in everything that is linear in length. Attention products grow with the square
    of a share, so at the same rho a steep division costs more on long texts: compare by the FLOPs share of a record.

    Args:
        rho: share in (0, 1].
        schedule: name or list of shares.
        num_gates: G, gated layers.
        slope: of the linear schedule, in [0, 1].

    Raises:
        ConfigError: a value is out of range, or a list does not have one share per gate.
    """

    def __init__(self, *, rho: float, schedule: str | Sequence[float], num_gates: int, slope: float = 1.0) -> None:
        check_budget(rho, schedule, slope)
        super().__init__()
        self.rho = rho
        self.schedule = schedule if isinstance(schedule, str) else tuple(schedule)
        self.num_gates = num_gates
        self.slope = slope
        if not isinstance(self.schedule, str):
            checks = Checks()
            checks.require(
                len(self.schedule) == num_gates,
                "schedule",
                f"has {len(self.schedule)} shares for {num_gates} gated layers; give one per gated layer",
            )
            checks.finish()
        self.allocation = nn.Parameter(torch.zeros(num_gates)) if self.schedule == "learned" else None
        if self.allocation is not None:
            # start from the linear shape: equal shares would make later gates idle, and from next to nothing a softmax
            # does not find back
            with torch.no_grad():
                self.allocation.copy_(torch.tensor(self._linear()).clamp_min(_START * rho).log())

    @contextmanager
    def at(self, rho: float) -> Iterator[None]:
        """Everything asked inside the block is answered for another ``rho`` in (0, 1]."""
        before, self.rho = self.rho, rho
        try:
            yield
        finally:
            self.rho = before

    def shares(self) -> Tensor:
        """[G] float, never rising; differentiable where learned."""
        return self._annealed(1.0).float()

    def active(self) -> tuple[bool, ...]:
        """[G]: whether each gate removes anything that the one before let through."""
        if self.allocation is not None or self.schedule == "geometric":
            return (self.rho < 1.0,) * self.num_gates
        values = [1.0, *self.shares().tolist()]
        return tuple(after < before - _ROUNDING for before, after in pairwise(values))

    def targets(self, lengths: Tensor, anneal: float = 1.0) -> Tensor:
        """Budget in tokens, not rounded, [G, B] float.

        Args:
            lengths: [B] long, real tokens.
            anneal: 0 = keep all, 1 = the full budget; linear in between.
        """
        shares = self._annealed(anneal).float().to(lengths.device)
        return (shares.unsqueeze(1) * lengths.unsqueeze(0)).clamp_min(1.0)

    def counts(self, lengths: Tensor, anneal: float = 1.0) -> Tensor:
        """Budget in whole tokens, [G, B] long: floor(share T), at least 1, never rising with depth."""
        if self.schedule == "geometric":
            share = 1.0 - anneal * (1.0 - self.rho)
            rows, current = [], lengths
            for _ in range(self.num_gates):
                current = torch.floor(share * current.double() + _ROUNDING).long().clamp_min(1)
                rows.append(current)
            return torch.stack(rows) if rows else lengths.new_zeros(0, lengths.shape[0])
        return whole_counts(self._annealed(anneal).unsqueeze(1), lengths)

    def _annealed(self, anneal: float) -> Tensor:
        """Shares [G] on the way from keep-all; float64, because a float32 share times T misses whole tokens."""
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
            values = [float(share) for share in self.schedule]
        return 1.0 - anneal * (1.0 - torch.tensor(values, dtype=torch.float64))

    def _linear(self) -> list[float]:
        if self.num_gates == 1:
            return [self.rho]
        steps = [1.0 - 2.0 * gate / (self.num_gates - 1) for gate in range(self.num_gates)]
        return restore_mean([self.rho * (1.0 + self.slope * step) for step in steps], self.rho)

    def _learned(self, allocation: Tensor) -> Tensor:
        floor = min(_FLOOR, 0.5 * self.rho)
        raw = floor + (self.rho - floor) * self.num_gates * torch.softmax(allocation, 0)
        excess, cut = (raw - 1.0).clamp_min(0.0).sum(), raw.clamp_max(1.0)
        room = 1.0 - cut  # what exceeds 1 goes to the others; rho <= 1, so there is always room for all of it
        shares = cut + excess * room / room.sum().clamp_min(1e-12)
        return shares.clamp_max(1.0).sort(descending=True).values


def whole_counts(shares: Tensor, lengths: Tensor) -> Tensor:
    """floor(share T), at least 1, never rising with depth, [G, B] long.

    Args:
        shares: [G, 1], or [G, B] where each sample has its own.
        lengths: [B] long, real tokens.
    """
    wanted = shares.detach().double().to(lengths.device) * lengths.unsqueeze(0).double()
    counts = torch.floor(wanted + _ROUNDING).long().clamp_min(1)
    return counts.cummin(0).values if len(counts) else counts


def restore_mean(shares: list[float], mean: float) -> list[float]:
    """Cut shares above 1 and raise the others until the mean is met again."""
    for _ in range(len(shares)):
        cut = [min(share, 1.0) for share in shares]
        missing = mean * len(shares) - sum(cut)
        free = [index for index, share in enumerate(cut) if share < 1.0]
        if missing <= _ROUNDING or not free:
            return cut
        shares = [share + missing / len(free) if index in free else share for index, share in enumerate(cut)]
    return [min(share, 1.0) for share in shares]
