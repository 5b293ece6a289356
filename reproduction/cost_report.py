"""Table 4: what a batch costs at 30 % of the tokens."""

from __future__ import annotations

from collections.abc import Iterable

from reproduction.paper import ABLATIONS, ADAPTIVE, COSTS, FULL, METHODS, SOURCE, Method
from reproduction.runs import DENSE, NOT_RUN, Record
from reproduction.sources import cite
from reproduction.speeds import Setting, of_policy, sort_speeds, turns
from reproduction.tables import Report, Section

RHO = 0.3
_HEADER = (
    *("method", "paper s/batch", "paper speed-up", "paper GB", "ours ms/batch", "ours speed-up", "ours - paper"),
    *("ideal", "peak MiB", "peak vs dense", "rest MiB", "without rest", "record"),
)
_BLANK = "-"


def cost_report(records: Iterable[Record]) -> Report:
    """One section per setting that a speed-up was measured in; the dense model is its fastest variant there."""
    groups = sort_speeds(records)
    sections = [_section(setting, group) for setting, group in groups.items() if of_policy(group, ADAPTIVE.policy, RHO)]
    if not sections:
        sections = [Section(NOT_RUN, _HEADER, tuple(_rows([])))]
    return Report(
        name="table4",
        title="Table 4: cost at 30 % of the tokens",
        legend=(
            f"Paper: {SOURCE}, batch 32, throughput of ablations and memory from Table 3.",
            "Our speed-up is against the fastest dense variant of the same run: median over rounds (10-90 %);",
            "ideal = by FLOPs on real tokens. Rest = memory in use before the first batch, which removal cannot save.",
            "An architecture is not compared with another encoder's dense model, so its cell stays empty until a",
            "record of that encoder exists; seconds of different machines are not comparable, ratios are.",
        ),
        sections=tuple(sections),
    )


def _section(setting: Setting, group: list[Record]) -> Section:
    dense = {record["baseline"] for record in group}
    return Section(setting.label(), _HEADER, tuple(_rows(group)), (f"Dense: {', '.join(sorted(dense))}",))


def _rows(group: list[Record]) -> Iterable[tuple[str, ...]]:
    known = {method.policy for method in (*METHODS, *ABLATIONS)}
    listed = [method for method in METHODS if method.title in COSTS]
    others = sorted({record["policy"] for record in group if float(record["rho"]) == RHO} - known)
    for method in [*listed, *ABLATIONS, *(Method(name, name) for name in others)]:
        found = [] if method.backbone is not None else of_policy(group, method.policy, RHO)
        if method is FULL and group:
            yield (*_paper_cells(method), *_dense_cells(of_policy(group, ADAPTIVE.policy, RHO)[0]))
        elif not found or method.policy == DENSE:
            yield (*_paper_cells(method), NOT_RUN, *[_BLANK] * 8)
        else:
            for record in found:
                yield (
                    *_paper_cells(method),
                    *_own_cells(record, COSTS[method.title].speedup if method.title in COSTS else None),
                )


def _paper_cells(method: Method) -> tuple[str, str, str, str]:
    cost = COSTS.get(method.title)
    if cost is None:
        return method.title, _BLANK, _BLANK, _BLANK
    seconds = _BLANK if cost.seconds is None else f"{cost.seconds:.2f}"
    memory = _BLANK if cost.memory_gb is None else f"{cost.memory_gb:.1f}"
    return method.title, seconds, f"{cost.speedup:.2f}x", memory


def _dense_cells(record: Record) -> tuple[str, ...]:
    timing = record.get("timing") or {}
    spent = (timing.get("dense_ms_per_batch") or {}).get(record["baseline"])
    peak, rest = record.get("baseline_peak_mib"), record.get("baseline_rest_mib")
    return (_number(spent), "1.00x", _BLANK, "1.00x", _number(peak), _BLANK, _number(rest), _BLANK, cite([record]))


def _own_cells(record: Record, printed: float | None) -> tuple[str, ...]:
    spent = (record.get("timing") or {}).get("ms_per_batch")
    peak, rest = record.get("peak_mib"), record.get("rest_mib")
    gap = _BLANK if printed is None else f"{record['speedup']['median'] - printed:+.2f}"
    return (
        _number(spent),
        turns(record),
        gap,
        f"{record['ideal_speedup']:.2f}x",
        _number(peak),
        _change(memory_change(record)),
        _number(rest),
        _change(memory_change(record, without_rest=True)),
        cite([record]),
    )


def memory_change(record: Record, without_rest: bool = False) -> float | None:
    """Peak memory against the dense model's, as a relative change; None if not measured.

    Args:
        record: a speed record.
        without_rest: whether what was in use before the first batch (weights, libraries) is taken off both sides.
    """
    own, dense = record.get("peak_mib"), record.get("baseline_peak_mib")
    if own is None or dense is None:
        return None
    if without_rest:
        rest, dense_rest = record.get("rest_mib"), record.get("baseline_rest_mib")
        if rest is None or dense_rest is None or dense - dense_rest <= 0:
            return None
        return float((own - rest) / (dense - dense_rest) - 1.0)
    return float(own / dense - 1.0)


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.1f}"


def _change(value: float | None) -> str:
    return "not measured" if value is None else f"{100 * value:+.1f} %"
