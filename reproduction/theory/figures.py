"""Draw the figures of the theory lab from its evidence."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reproduction.figures.canvas import Subplot, draw_subplots
from reproduction.theory import lemma2, lemma3, proposition2, theorem1
from reproduction.theory.evidence import Curve, Evidence
from reproduction.theory.instances import OBJECTIVES
from retention.report.figure_style import GREY, curve_style

EvidenceByClaim = Mapping[str, Evidence]


def theory_figures(evidence: EvidenceByClaim) -> dict[str, Figure]:
    """Return the figures by name: gradients, duality, convergence and complexity."""
    return {
        "theory_gradients": _gradients(evidence["lemma1"], evidence["lemma2"]),
        "theory_duality": _duality(evidence["proposition1"], evidence["lemma3"]),
        "theory_convergence": _convergence(evidence["proposition2"]),
        "theory_complexity": _complexity(evidence["theorem1"]),
    }


def _gradients(bias: Evidence, averaging: Evidence) -> Figure:
    return draw_subplots(
        [
            Subplot("Lemma 1: bias of the pathwise gradient", partial(_draw_bias, evidence=bias, along="beta")),
            Subplot("Lemma 1: bias against variance", partial(_draw_tradeoff, evidence=bias)),
            Subplot("Lemma 1: stretch at beta = 0.66", partial(_draw_bias, evidence=bias, along="stretch")),
            Subplot("Lemma 2: variance of a mean of B samples", partial(_draw_averaging, evidence=averaging)),
        ]
    )


def _draw_bias(axes: Axes, evidence: Evidence, along: str) -> None:
    for number, name in enumerate(OBJECTIVES):
        _plot(axes, evidence.curve(name, "relative bias", along), name, number, scale=100.0)
    axes.set_xlabel(along if along == "beta" else "-gamma = zeta - 1")
    axes.set_ylabel("bias, % of the gradient")
    axes.set_ylim(bottom=0.0)
    axes.legend()


def _draw_tradeoff(axes: Axes, evidence: Evidence) -> None:
    for number, name in enumerate(OBJECTIVES):
        bias, variance = (evidence.curve(name, f"relative {quantity}", "beta") for quantity in ("bias", "variance"))
        axes.plot(variance.y, [100.0 * each for each in bias.y], label=name, **curve_style(number))
        for beta, x, y in zip(bias.x, variance.y, bias.y, strict=True):
            if name == "attention" and beta in (0.1, 0.33, 0.66, 1.5):
                axes.annotate(f"{beta:g}", (x, 100.0 * y), xytext=(4, 4), textcoords="offset points", color=GREY)
        control = evidence.find(name, "REINFORCE relative variance")
        style = curve_style(number) | {"linestyle": "none", "markersize": 9.0, "markerfacecolor": "none"}
        axes.plot([control.value], [0.0], **style)
    axes.set_xscale("log")
    axes.set_xlabel("variance of a sample, relative (open: REINFORCE)")
    axes.set_ylabel("bias, % of the gradient")
    axes.legend(title="beta from 0.1 to 1.5")


def _draw_averaging(axes: Axes, evidence: Evidence) -> None:
    for number, name in enumerate((*OBJECTIVES, lemma2.MINIBATCH)):
        curve = evidence.curve(name, "variance", "B")
        axes.plot(curve.x, [value / curve.y[0] for value in curve.y], label=name, **curve_style(number))
    axes.plot(lemma2.SAMPLES, [1.0 / size for size in lemma2.SAMPLES], "--", color=GREY, label="1 / B")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("B")
    axes.set_ylabel("variance, relative to B = 1")
    axes.legend()


def _duality(slack: Evidence, gap: Evidence) -> Figure:
    return draw_subplots(
        [
            Subplot("Proposition 1: violations of the bound", partial(_draw_violations, evidence=slack)),
            Subplot("Lemma 3: min (1 - p)^2, p <= 1/2", partial(_draw_gap, evidence=gap)),
        ]
    )


def _draw_violations(axes: Axes, evidence: Evidence) -> None:
    families = evidence.instances("minimizers over budget")
    shares: dict[str, list[float]] = {"minimizers": [], "other stationary corners": [], "late dual ascent": []}
    for family in families:
        value = {each.quantity: each.value for each in evidence.measurements if each.instance == family and not each.at}
        shares["minimizers"].append(100.0 * value["violations at minimizers"] / max(value["minimizers over budget"], 1))
        others = max(value["other stationary corners"], 1.0)
        shares["other stationary corners"].append(100.0 * value["violations at other corners"] / others)
        ascent = evidence.find(family, "violated late ascent steps", augmented=0.0)
        shares["late dual ascent"].append(100.0 * ascent.value)
    for number, (label, heights) in enumerate(shares.items()):
        left = [index + 0.27 * (number - 1) for index in range(len(families))]
        bars = axes.bar(left, heights, width=0.25, label=label, color=curve_style(number)["color"])
        axes.bar_label(bars, fmt="%.0f", fontsize=7.0)
    axes.set_xticks(range(len(families)), families)
    axes.set_ylim(0.0, 135.0)
    axes.set_ylabel("bound violated, %")
    axes.legend(ncols=3, loc="upper center", handlelength=1.0, columnspacing=1.0)


def _draw_gap(axes: Axes, evidence: Evidence) -> None:
    for number, quantity in enumerate(("gap", "lambda D")):
        _plot(axes, evidence.curve(lemma3.ANALYTIC, quantity, "lambda"), quantity, number)
    axes.axvspan(1 / 3, 1.0, color=GREY, alpha=0.12, linewidth=0.0, label="gap < lambda D")
    axes.set_xlabel("lambda")
    axes.legend()


def _convergence(evidence: Evidence) -> Figure:
    return draw_subplots(
        [Subplot(order, partial(_draw_residuals, evidence=evidence, order=order)) for order in proposition2.ORDERS]
    )


def _draw_residuals(axes: Axes, evidence: Evidence, order: str) -> None:
    number = 0
    for name in evidence.instances("KKT residual"):
        if order not in name:
            continue
        label = name.replace(f", {order}", "")
        curve = evidence.curve(name, "KKT residual", "k")
        axes.plot(curve.x, curve.y, label=label, **curve_style(number))
        number += 1
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("step k")
    axes.set_ylabel("distance from the KKT conditions")
    axes.legend(fontsize=7.0)


def _complexity(evidence: Evidence) -> Figure:
    return draw_subplots(
        [
            Subplot(f"{pooling} pooling", partial(_draw_ratios, evidence=evidence, pooling=pooling))
            for pooling in theorem1.POOLINGS
        ]
    )


def _draw_ratios(axes: Axes, evidence: Evidence, pooling: str) -> None:
    number = 0
    for name in evidence.instances("complexity ratio"):
        if f"{pooling} pooling" in name:
            label = name.replace(f", {pooling} pooling", "")
            _plot(axes, evidence.curve(name, "complexity ratio", "M/T"), label, number)
            number += 1
    ratios = [kept / theorem1.TOKENS for kept in theorem1.KEPT]
    axes.plot(ratios, ratios, "--", color=GREY, label="Theorem 1: M / T")
    axes.set_ylim(bottom=0.0)
    axes.set_xlabel("M / T")
    axes.set_ylabel("complexity relative to all tokens")
    axes.legend()


def _plot(axes: Axes, curve: Curve, label: str, number: int, scale: float = 1.0) -> None:
    """Draw a curve with error bars of two standard errors."""
    values, errors = [scale * value for value in curve.y], [2.0 * scale * error for error in curve.errors]
    axes.errorbar(curve.x, values, yerr=errors, label=label, elinewidth=0.8, **curve_style(number))
