"""Check Proposition 2 (appendix F): convergence of stochastic descent and dual ascent to a stationary point."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import numpy as np

from reproduction.theory.descent_ascent import BUDGET, ESTIMATORS, FEATURES, iterate, kkt_residual, random_regression
from reproduction.theory.evidence import Evidence, Measurement, TheoryClaim, TheoryVerdict

STEPS, CHAINS = 50_000, 16
# Exponents of the steps k^-e of w, s and lambda; between 1/2 and 1 all of them are Robbins-Monro steps.
ORDERS: Mapping[str, tuple[float, float, float]] = {
    "paper's order": (0.75, 0.65, 0.55),
    "reversed order": (0.55, 0.65, 0.75),
}
AUGMENTED: Mapping[str, float] = {"": 0.0, ", quadratic term": 1.0}
DECAY = 0.5  # of the residual over the last factor of 10 in the steps: it must at least halve
DECISIVE = "REINFORCE, paper's order"


def run(steps: int = STEPS, chains: int = CHAINS) -> Evidence:
    """Follow the residual of the KKT conditions for every estimator, order of step sizes and dual form."""
    problem, measurements = random_regression(), []
    checkpoints = sorted({round(10 ** (0.25 * power)) for power in range(4, 21)} | {steps // 10, steps})
    checkpoints = [each for each in checkpoints if each <= steps]
    for estimator, order, form in product(ESTIMATORS, ORDERS, AUGMENTED):
        name = f"{estimator}, {order}{form}"
        states = iterate(problem, estimator, ORDERS[order], AUGMENTED[form], checkpoints, chains=chains, seed=40)
        for step, state in states:
            at, slack = {"k": float(step)}, state.logits.sigmoid().sum(-1) - BUDGET
            residual = kkt_residual(problem, state)
            measurements.append(_median(name, "KKT residual", residual.tolist(), at))
            measurements.append(_median(name, "slack", slack.tolist(), at))
            measurements.append(_median(name, "lambda", state.multipliers.tolist(), at))
    return judge(measurements, steps)


def judge(measurements: list[Measurement], steps: int) -> Evidence:
    """Decide by the unbiased estimator in the paper's order: its residual must still fall over the last decade."""
    residuals = {
        each.at["k"]: each for each in measurements if (each.instance, each.quantity) == (DECISIVE, "KKT residual")
    }
    early, late = residuals[float(steps // 10)], residuals[float(steps)]
    ratio = late.value / early.value
    verdict = TheoryVerdict.HOLDS if ratio <= DECAY else TheoryVerdict.FAILS
    decisive = Measurement(DECISIVE, "residual ratio of the last decade", ratio)
    return Evidence(verdict, decisive, (*measurements, decisive))


def _median(name: str, quantity: str, values: list[float], at: dict[str, float]) -> Measurement:
    """Return the median over chains; the standard error is that of a median of normal values."""
    error = 1.2533 * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return Measurement(name, quantity, float(np.median(values)), error, at)


def describe(evidence: Evidence) -> str:
    """State residual, slack and multiplier at the last step as a table, with the residual ten times earlier."""
    last = max(each.at["k"] for each in evidence.measurements if "k" in each.at)
    lines = [
        f"| gradients and steps | residual at k = {last / 10:,.0f} | at k = {last:,.0f} | slack | lambda |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name in evidence.instances("KKT residual"):
        early = evidence.find(name, "KKT residual", k=last / 10)
        late, slack, price = (evidence.find(name, quantity, k=last) for quantity in ("KKT residual", "slack", "lambda"))
        lines.append(
            f"| {name} | {early.value:.4f} | {late.value:.4f} +- {late.mc_error or 0:.4f} | {slack.value:+.3f} | "
            f"{price.value:.2f} |"
        )
    return "\n".join(lines)


CLAIM = TheoryClaim(
    name="proposition2",
    title="Proposition 2: convergence",
    source="appendix F",
    statement=(
        "Under Robbins-Monro steps a_k = o(b_k), b_k = o(g_k) for weights, probabilities and multiplier the "
        "iterates converge to a stationary point."
    ),
    method=f"Least squares on {FEATURES} gated features with a budget of {BUDGET:g}, {CHAINS} random starts, up to "
    f"{STEPS:,} steps of size (k + 10)^-e with e = "
    f"{', '.join(f'{each:g}' for each in ORDERS[next(iter(ORDERS))])} for weights, logits and lambda, and in reversed "
    "order. The exact problem has a closed form, so the distance from its Karush-Kuhn-Tucker conditions is exact. "
    "Gradients are exact, or from one sample of Bernoulli gates (REINFORCE, unbiased) or Hard-Concrete gates; the "
    "multiplier is that of the project's AscentDual, with and without its quadratic term. Cells are medians. "
    "Refuted if the residual of REINFORCE in the paper's order does not at least halve over the last factor of 10 in k.",
    run=run,
    describe=describe,
    valid_form="",
)
