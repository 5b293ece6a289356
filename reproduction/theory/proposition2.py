"""Check Proposition 2 (appendix F): convergence of stochastic descent and dual ascent to a stationary point."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import numpy as np

from reproduction.theory.descent_ascent import BUDGET, ESTIMATORS, FEATURES, iterate, kkt_residual, random_regression
from reproduction.theory.evidence import Evidence, Measurement, TheoryClaim, TheoryVerdict

STEPS, CHAINS = 20_000, 32
# Exponents of the steps k^-e of w, s and lambda; between 1/2 and 1 all of them are Robbins-Monro steps.
ORDERS: Mapping[str, tuple[float, float, float]] = {
    "paper's order": (0.75, 0.65, 0.55),
    "reversed order": (0.55, 0.65, 0.75),
}
EXPONENTS = ", ".join(f"{each:g}" for each in ORDERS["paper's order"])
AUGMENTED: Mapping[str, float] = {"": 0.0, ", quadratic term": 1.0}
DECAY = 0.5  # of the residual over the last factor of 10 in the steps: it must at least halve
NEAR = 0.05  # residual of a run that counts as near a stationary point
_RESAMPLES = 500
UNBIASED, PATHWISE = "REINFORCE, paper's order", "Hard-Concrete, paper's order"


def run(steps: int = STEPS, chains: int = CHAINS) -> Evidence:
    """Follow the residual of the KKT conditions for every estimator, order of step sizes and dual form."""
    problem, measurements = random_regression(), []
    checkpoints = sorted({round(10 ** (0.25 * power)) for power in range(4, 18)} | {steps // 10, steps})
    checkpoints = [each for each in checkpoints if each <= steps]
    for estimator, order, form in product(ESTIMATORS, ORDERS, AUGMENTED):
        name = f"{estimator}, {order}{form}"
        states = iterate(problem, estimator, ORDERS[order], AUGMENTED[form], checkpoints, chains=chains, seed=40)
        for step, state in states:
            at, slack = {"k": float(step)}, state.logits.sigmoid().sum(-1) - BUDGET
            residual = kkt_residual(problem, state)
            measurements.append(_median(name, "KKT residual", residual.tolist(), at))
            near = float((residual < NEAR).double().mean())
            measurements.append(Measurement(name, "share of runs that are near", near, at=at))
            measurements.append(_median(name, "slack", slack.tolist(), at))
            measurements.append(_median(name, "lambda", state.multipliers.tolist(), at))
    return decide(measurements, steps)


def decide(measurements: list[Measurement], steps: int) -> Evidence:
    """Decide by the paper's order of steps: both estimators must come nearer, or at least the unbiased one."""
    ratios = []
    for name in (UNBIASED, PATHWISE):
        residuals = {each.at["k"]: each.value for each in measurements if _is_residual(each, name)}
        ratio = residuals[float(steps)] / residuals[float(steps // 10)]
        ratios.append(Measurement(name, "residual ratio of the last factor of 10", ratio))
    unbiased, pathwise = ratios
    verdict = TheoryVerdict.FAILS
    if unbiased.value <= DECAY:
        verdict = TheoryVerdict.HOLDS if pathwise.value <= DECAY else TheoryVerdict.ANOTHER_FORM
    decisive = max(ratios, key=lambda each: each.value)
    return Evidence(verdict, decisive, (*measurements, *ratios))


def _is_residual(measurement: Measurement, name: str) -> bool:
    return (measurement.instance, measurement.quantity) == (name, "KKT residual")


def _median(name: str, quantity: str, values: list[float], at: dict[str, float]) -> Measurement:
    """Return the median over runs; its standard error is that of medians of resampled runs (bootstrap)."""
    rows = np.random.default_rng(0).integers(len(values), size=(_RESAMPLES, len(values)))
    error = float(np.median(np.asarray(values)[rows], axis=1).std(ddof=1))
    return Measurement(name, quantity, float(np.median(values)), error, at)


def describe(evidence: Evidence) -> str:
    """State residual, slack and multiplier at the last step as a table, with the residual ten times earlier."""
    last = max(each.at["k"] for each in evidence.measurements if "k" in each.at)
    header = ("gradients and steps", f"residual at k = {last / 10:,.0f}", f"at k = {last:,.0f}", f"runs below {NEAR:g}")
    lines = [
        f"| {' | '.join(header)} | slack | lambda |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name in evidence.instances("KKT residual"):
        early = evidence.find(name, "KKT residual", k=last / 10)
        late, slack, price = (evidence.find(name, quantity, k=last) for quantity in ("KKT residual", "slack", "lambda"))
        near = evidence.find(name, "share of runs that are near", k=last)
        lines.append(
            f"| {name} | {early.value:.4f} | {late.value:.4f} +- {late.mc_error or 0:.4f} | "
            f"{100 * near.value:.0f} % | {slack.value:+.3f} | {price.value:.2f} |"
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
    method=(
        f"Least squares on {FEATURES} gated features with a budget of {BUDGET:g}, {CHAINS} random starts, up to "
        f"{STEPS:,} steps of size c (k + 10)^-e with e = {EXPONENTS} for weights, logits and lambda, and in reversed "
        "order; c is chosen so that this many steps suffice with exact gradients. The exact problem has a closed form, "
        "so the distance from its Karush-Kuhn-Tucker conditions is exact. Gradients are exact, or from one sample of "
        "Bernoulli gates (REINFORCE, unbiased) or Hard-Concrete gates; the multiplier is that of the project's "
        "AscentDual, with and without its quadratic term. Cells are medians. Refuted for an estimator if its residual "
        "in the paper's order does not at least halve over the last factor of 10 in k."
    ),
    run=run,
    describe=describe,
    valid_form=(
        "With unbiased gradients the distance from a stationary point shrinks. With Hard-Concrete gradients a part of "
        "the runs settles at a distance that further steps do not reduce, which is what a biased gradient does."
    ),
)
