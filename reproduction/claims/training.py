"""Claims on the knobs (Figure 2) and on theory."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from statistics import fmean

from reproduction.claims.claim import Claim, Finding, Verdict, not_testable
from reproduction.data_provenance import Rows, kind_of_rows, rows_note
from reproduction.paper import BENCHMARKS, KNOBS, SEEDS
from reproduction.runs import columns_of, points, rows_of
from reproduction.sources import Evidence
from reproduction.sweep_curves import studies

# Figure 2 gives no figures for its "broad plateaus". Our reading: every swept value in these ranges, round the
# default, scores within one point of the default, with at least one of them below the default and one above.
PLATEAUS = {"beta": (0.33, 1.0), "gamma": (-0.3, -0.01), "zeta": (1.01, 1.3)}
WITHIN = 1.0
_THEORY = "Theory"


def knob_claims() -> list[Claim]:
    """One claim per knob and benchmark."""
    return [
        Claim(
            "Plateaus round the default knobs",
            f"{benchmark.title}: {knob} from {PLATEAUS[knob][0]:g} to {PLATEAUS[knob][1]:g} stays within "
            f"{WITHIN:g} point of the default {KNOBS[knob]:g}",
            "Figure 2",
            partial(_plateau, task=benchmark.task, knob=knob),
        )
        for benchmark in BENCHMARKS
        for knob in KNOBS
    ]


def theory_claims() -> list[Claim]:
    """Propositions 1-3, Lemmas 1-3 and Theorem 1."""
    limit = "a statement on limits and expectations; no finite number of runs decides it"
    return [
        Claim(_THEORY, "Proposition 1: the slack is at most (F* - E[loss]) / lambda", "appendix C", _slack),
        Claim(
            _THEORY,
            "Lemma 1: the Hard-Concrete gradient is an unbiased estimate of the Bernoulli objective's",
            "appendix D",
            not_testable("cannot hold as stated: the stretched, clamped gate is not Bernoulli(p)"),
        ),
        Claim(
            _THEORY,
            "Lemma 2: averaging B samples leaves a variance of at most C / B",
            "appendix E",
            not_testable(limit),
        ),
        Claim(_THEORY, "Proposition 2: the iterates converge to a stationary point", "appendix F", not_testable(limit)),
        Claim(
            _THEORY,
            "Lemma 3: the duality gap is at least lambda times the slack",
            "appendix G",
            not_testable("the optimum of the dual problem is not known for a neural encoder"),
        ),
        Claim(
            _THEORY,
            "Proposition 3: attention among M kept tokens stores M x M scores instead of T x T",
            "appendix I",
            not_testable("holds by construction: removed tokens leave the tensors (tests/equivalence)"),
        ),
        Claim(
            _THEORY,
            "Theorem 1: the Rademacher complexity shrinks by M / T under a random mask",
            "appendix H",
            not_testable("the complexity of a trained encoder's class cannot be computed"),
        ),
    ]


def _plateau(evidence: Evidence, *, task: str, knob: str) -> Iterator[Finding]:
    default, (low, high) = KNOBS[knob], PLATEAUS[knob]
    for study in studies(evidence.records):
        curve = study.curves.get(knob, {})
        near = {value: runs for value, runs in curve.items() if low <= value <= high and points(runs)}
        if study.column.task != task or default not in near or len(near) < 2:
            continue
        base = fmean(points(near[default]))
        gaps = {value: fmean(points(runs)) - base for value, runs in near.items() if value != default}
        listed = ", ".join(f"{value:g}: {gap:+.1f}" for value, gap in gaps.items())
        fewest = min(len(points(runs)) for runs in near.values())
        inside = all(abs(gap) <= WITHIN for gap in gaps.values())
        verdict = Verdict.REPRODUCED if inside else Verdict.NOT_REPRODUCED
        both = min(near) < default < max(near)
        if fewest < SEEDS or (inside and not both):
            verdict = Verdict.UNDECIDED
        if kind_of_rows(study.column) is Rows.OTHER:
            verdict = Verdict.NOT_RUN
        setting = f"{study.column.backbone}; rho {study.rho:g}; {rows_note(study.column)}"
        records = tuple(run for runs in near.values() for run in runs)
        yield Finding(verdict, f"{listed} points; {fewest} of {SEEDS} seeds", setting, records)


def _slack(evidence: Evidence) -> Iterator[Finding]:
    """The bound is on the slack averaged over layers with their multipliers as weights, see ``callbacks.Slack``."""
    cells = evidence.runs
    for column in columns_of(cells):
        for row in rows_of(cells, column):
            runs = [run for run in cells[row, column] if _bounded(run) is not None]
            pairs = [pair for run in runs if (pair := _bounded(run)) is not None]
            if not pairs:
                continue
            held = all(slack <= bound for slack, bound in pairs)
            measured = "; ".join(f"slack {slack:+.4f}, bound {bound:+.4f}" for slack, bound in pairs)
            setting = f"{row.label()} at {row.rho:g}; {column.backbone}; {rows_note(column)}"
            yield Finding(Verdict.REPRODUCED if held else Verdict.NOT_REPRODUCED, measured, setting, tuple(runs))


def _bounded(run: object) -> tuple[float, float] | None:
    """Weighted slack and its bound; None where a run has no multiplier or no feasible epoch."""
    training = run.get("training") if isinstance(run, dict) else None
    slack = (training or {}).get("slack") or {}
    bound, prices, shares = slack.get("slack_bound"), slack.get("price") or {}, slack.get("by_layer") or {}
    total = sum(prices.values())
    if bound is None or total <= 0:
        return None
    return sum(prices[layer] * shares[layer] for layer in prices if layer in shares) / total, float(bound)
