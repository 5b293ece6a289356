"""Check Lemma 3 (appendix G): the duality gap against lambda times the slack."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from reproduction.theory.duality import FAMILIES, Problems, best_feasible_loss, optimal_multiplier, random_problems
from reproduction.theory.evidence import Evidence, Measurement, TheoryClaim, TheoryVerdict
from reproduction.theory.instances import all_masks

PROBLEMS = 1000
EPS = 1e-9
ANALYTIC = "min (1 - p)^2, p <= 1/2"
MULTIPLIERS = tuple(round(0.05 * step, 2) for step in range(1, 20))
_ALL = "all families"
# Readings of "duality gap": name in records.
AT_LAMBDA, AT_OPTIMUM, LOSS_GAP = "gap F* - g(lambda)", "gap F* - max g", "gap F* - E[loss]"


def run(number: int = PROBLEMS) -> Evidence:
    """Count the problems in which the gap, in each of three readings, is below lambda times the slack."""
    measurements, totals = [], dict.fromkeys((AT_LAMBDA, AT_OPTIMUM, LOSS_GAP), 0)
    for seed, family in enumerate(FAMILIES):
        for reading, failed in failures(random_problems(family, number, 300 + seed)).items():
            totals[reading] += failed
            measurements.append(Measurement(family, reading, float(failed)))
    for multiplier in MULTIPLIERS:
        slack, gap = analytic_case(0.5, multiplier)
        at = {"lambda": multiplier}
        measurements.append(Measurement(ANALYTIC, "gap", gap, at=at))
        measurements.append(Measurement(ANALYTIC, "lambda D", multiplier * slack, at=at))
    measurements += [Measurement(_ALL, reading, float(failed)) for reading, failed in totals.items()]
    verdict = TheoryVerdict.FAILS
    if totals[AT_LAMBDA] == 0:
        verdict = TheoryVerdict.HOLDS
    elif totals[LOSS_GAP] == 0:
        verdict = TheoryVerdict.ANOTHER_FORM
    decisive = next(each for each in measurements if (each.instance, each.quantity) == (_ALL, AT_LAMBDA))
    return Evidence(verdict, decisive, tuple(measurements))


def failures(problems: Problems) -> dict[str, int]:
    """Count the problems with gap < lambda D at a minimizer of the Lagrangian, for each reading of the gap."""
    feasible, rows = best_feasible_loss(problems), problems.minimizers()
    scaled = problems.multipliers * problems.slack(rows)
    optimal = replace(problems, multipliers=_optimal_multipliers(problems))
    return {
        AT_LAMBDA: _count_below(feasible - problems.dual_value(), scaled),
        AT_OPTIMUM: _count_below(feasible - optimal.dual_value(), optimal.multipliers * _largest_slack(optimal)),
        LOSS_GAP: _count_below(feasible - problems.loss(rows), scaled),
    }


def analytic_case(limit: float, multiplier: float) -> tuple[float, float]:
    """Return slack and gap F* - g(lambda) of min (1 - p)^2 subject to p <= limit, in closed form.

    (1 - p)^2 is the expected loss of two tokens with a common keep probability, if the loss is 1 where both are dropped
    and else 0. The minimizer of the Lagrangian is p = 1 - lambda / 2, so D = 1 - limit - lambda / 2 and the gap is D^2:
    it is below lambda D for every lambda in (2/3 (1 - limit), 2 (1 - limit)).

    Args:
        limit: in (0, 1).
        multiplier: lambda, in (0, 2).
    """
    slack = 1.0 - limit - 0.5 * multiplier
    return slack, slack**2


def _optimal_multipliers(problems: Problems) -> Tensor:
    counts = all_masks(problems.values.shape[-1].bit_length() - 1).sum(-1)
    best = torch.stack([problems.values[:, counts == k].amin(-1) for k in range(int(counts.max()) + 1)], dim=-1)
    pairs = zip(best.tolist(), problems.budgets.tolist(), strict=True)
    return torch.tensor([optimal_multiplier(losses, budget) for losses, budget in pairs], dtype=torch.float64)


def _largest_slack(problems: Problems) -> Tensor:
    """Return the largest slack of all minimizers, [n]: at the optimal multiplier there are several."""
    lagrangian = problems.lagrangian()
    minimal = lagrangian <= lagrangian.amin(-1, keepdim=True) + EPS
    slack = problems.counts - problems.budgets[:, None]
    return slack.masked_fill(~minimal, -float("inf")).amax(-1)


def _count_below(gap: Tensor, scaled_slack: Tensor) -> int:
    return int((gap < scaled_slack - EPS).sum())


def describe(evidence: Evidence) -> str:
    """State the failures by family and reading as a table, then the closed form."""
    readings = (AT_LAMBDA, AT_OPTIMUM, LOSS_GAP)
    lines = ["| losses | " + " | ".join(readings) + " |", "| --- | ---: | ---: | ---: |"]
    for family in FAMILIES:
        counts = " | ".join(f"{evidence.find(family, reading).value:.0f}" for reading in readings)
        lines.append(f"| {family} | {counts} |")
    gap, scaled = (evidence.find(ANALYTIC, quantity, **{"lambda": 0.5}).value for quantity in ("gap", "lambda D"))
    lines.append(
        f"\nThe cells count problems, of {PROBLEMS:,}, with a gap below lambda D. In closed form: for min (1 - p)^2 "
        f"with p <= 1/2 the gap is D^2 for every lambda. At lambda = 0.5 the gap is {gap:g} and lambda D is "
        f"{scaled:g}, so the claim fails; it does for every lambda in (1/3, 1)."
    )
    return "\n".join(lines)


CLAIM = TheoryClaim(
    name="lemma3",
    title="Lemma 3: duality gap and slack",
    source="appendix G",
    statement="The duality gap is at least lambda D, so the slack is at most gap / lambda.",
    method=(
        "The problems of Proposition 1, with the dual function g(lambda) = min_p of the Lagrangian. Three readings "
        "of the gap: F* - g(lambda) at the present lambda, F* - max g at the optimal lambda with the largest slack "
        "of its minimizers, and F* - E[loss]. Refuted by one problem."
    ),
    run=run,
    describe=describe,
    valid_form=(
        "With the gap read as F* - E[loss] the lemma is Proposition 1 and holds. For the duality gap proper, F* - "
        "g(lambda) = (F* - E[loss]) - lambda D, only gap >= 0 holds (weak duality)."
    ),
)
