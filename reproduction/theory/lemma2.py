"""Check Lemma 2 (appendix E): the variance of a gradient averaged over B samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from reproduction.theory.estimators import pathwise_gradients, variance_trace
from reproduction.theory.evidence import Evidence, Measurement, TheoryClaim, TheoryVerdict
from reproduction.theory.instances import OBJECTIVES, attention_objective, generator
from retention.core.hard_concrete import HardConcrete

TOKENS = 6
DRAWS = 2**19
SAMPLES = (1, 2, 4, 8, 16, 32, 64)
TEXTS, DRAWS_PER_TEXT = 64, 2**13
GROUPS = 16  # independent parts of the draws, for the error of a slope
TOLERANCE = 0.1
MINIBATCH = "minibatch of one text"


def run(draws: int = DRAWS, draws_per_text: int = DRAWS_PER_TEXT) -> Evidence:
    """Measure the variance of means of B draws, for fixed data and for data drawn with the gates."""
    logits, gate = torch.randn(TOKENS, generator=generator(7), dtype=torch.float64), HardConcrete()
    measurements = []
    for number, (name, build) in enumerate(OBJECTIVES.items()):
        gradients = pathwise_gradients(build(11 + number), logits, gate, draws, generator(200 + number))
        measurements += _variances(name, gradients[None])
        slopes = [_fit(variances_of_means(part[None])) for part in gradients.chunk(GROUPS)]
        error = float(np.std(slopes, ddof=1)) / GROUPS**0.5
        measurements.append(Measurement(name, "slope", float(np.mean(slopes)), error))
    texts = torch.stack(
        [
            pathwise_gradients(attention_objective(1000 + text), logits, gate, draws_per_text, generator(2000 + text))
            for text in range(TEXTS)
        ]
    )
    measurements += _variances(MINIBATCH, texts)
    floor = float(texts.mean(1).var(0, correction=0).sum())
    measurements.append(Measurement(MINIBATCH, "variance between texts", floor))
    return decide(measurements)


def decide(measurements: list[Measurement]) -> Evidence:
    """Decide by the slope that is farthest from -1."""
    decisive = max((each for each in measurements if each.quantity == "slope"), key=lambda each: abs(each.value + 1.0))
    holds = abs(decisive.value + 1.0) <= TOLERANCE
    return Evidence(TheoryVerdict.HOLDS if holds else TheoryVerdict.FAILS, decisive, tuple(measurements))


def variances_of_means(gradients: Tensor) -> list[float]:
    """Compute the variance of means of B draws for every B, over all data.

    Args:
        gradients: [data, draws, T]; ``draws`` a multiple of the largest B.
    """
    variances = []
    for size in SAMPLES:
        means = gradients.reshape(len(gradients), -1, size, gradients.shape[-1]).mean(2)
        variances.append(variance_trace(means.flatten(0, 1)))
    return variances


def _variances(name: str, gradients: Tensor) -> list[Measurement]:
    values = variances_of_means(gradients)
    return [
        Measurement(name, "variance", value, at={"B": float(size)}) for size, value in zip(SAMPLES, values, strict=True)
    ]


def _fit(variances: Sequence[float]) -> float:
    """Return the slope of log variance against log B."""
    return float(np.polyfit(np.log(SAMPLES), np.log(variances), 1)[0])


def describe(evidence: Evidence) -> str:
    """State the slopes, and the share of the variance that gate samples cannot reduce."""
    slopes = ", ".join(
        f"{name} {slope.value:.3f} +- {slope.mc_error or 0:.3f}"
        for name in OBJECTIVES
        for slope in [evidence.find(name, "slope")]
    )
    one, many = (evidence.find(MINIBATCH, "variance", B=float(size)).value for size in (SAMPLES[0], SAMPLES[-1]))
    floor = evidence.find(MINIBATCH, "variance between texts").value
    return (
        f"- Fixed data, slope of log variance against log B: {slopes}.\n"
        f"- One random text per step: B = {SAMPLES[-1]} leaves {100 * many / one:.0f} % of the variance at B = 1; the "
        f"variance between texts alone is {100 * floor / one:.0f} %."
    )


CLAIM = TheoryClaim(
    name="lemma2",
    title="Lemma 2: variance of averaged samples",
    source="appendix E",
    statement="Averaging the gradient over B samples of the gates leaves a variance of at most C / B.",
    method=(
        f"The objectives of Lemma 1 with the default gates: trace of the covariance of means of B = 1 ... "
        f"{SAMPLES[-1]} of {DRAWS:,} draws. Then {TEXTS} texts with a loss each, of which one is drawn per step and "
        f"its gates B times. Refuted by a slope outside -1 +- {TOLERANCE:g} in log-log axes."
    ),
    run=run,
    describe=describe,
    valid_form=(
        "C is conditional on the minibatch. More samples of the gates do not reduce the variance between "
        "minibatches; only more data per step does."
    ),
)
