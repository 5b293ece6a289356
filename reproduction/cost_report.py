"""Build Table 4: time and memory of a batch at a keep ratio of 0.3."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from reproduction.paper import ABLATIONS, ADAPTIVE, COSTS, FULL, METHODS, SOURCE, Method
from reproduction.sources import cite
from reproduction.speeds import format_speedup, group_speeds, of_policy
from reproduction.tables import Report, Table
from retention.report.grouping import DENSE, NOT_RUN, Record

RHO = 0.3
_HEADER = (
    *("method", "paper s/batch", "paper speedup", "paper GB", "ours ms/batch", "our speedup", "ours - paper"),
    *("ideal speedup", "peak MiB", "peak vs dense", "resident MiB", "peak vs dense without resident", "record"),
)
_EMPTY = "-"


def cost_report(records: Iterable[Record]) -> Report:
    """Build one table per set of conditions under which the speedup of our method was measured."""
    tables = [
        Table(conditions.describe(), _HEADER, list(_rows(group)), (f"Dense: {', '.join(sorted(_baselines(group)))}",))
        for conditions, group in group_speeds(records).items()
        if of_policy(group, ADAPTIVE.policy, RHO)
    ]
    return Report(
        name="table4",
        title="Table 4: cost at 30 % of the tokens",
        legend=(
            f"Paper: {SOURCE}, batch 32, throughput of ablations and memory from Table 3. Our speedup is relative to "
            "the fastest dense variant of the same run: median over rounds (10-90 %); the ideal speedup follows from "
            "the FLOPs on real tokens. Resident memory is in use before the first batch, and pruning cannot save it. "
            "Another architecture is not compared with this encoder's dense model, so its cell is empty without a "
            "record of its own. Seconds of different machines are not comparable, speedups are."
        ),
        tables=tables or [Table(NOT_RUN, _HEADER, list(_rows([])))],
    )


def memory_change(record: Record, without_resident: bool = False) -> float | None:
    """Return the relative change of peak memory from the dense model's, None if it was not measured.

    Args:
        record: a speed record.
        without_resident: leave out the memory in use before the first batch (weights, libraries) on both sides.
    """
    peak, dense = record.get("peak_mib"), record.get("baseline_peak_mib")
    if peak is None or dense is None:
        return None
    if without_resident:
        resident, dense_resident = record.get("rest_mib"), record.get("baseline_rest_mib")
        if resident is None or dense_resident is None or dense - dense_resident <= 0:
            return None
        peak, dense = peak - resident, dense - dense_resident
    return float(peak / dense - 1.0)


def _baselines(group: Sequence[Record]) -> set[str]:
    return {record["baseline"] for record in group}


def _rows(group: Sequence[Record]) -> Iterator[tuple[str, ...]]:
    in_paper = {method.policy for method in (*METHODS, *ABLATIONS)}
    listed = [method for method in METHODS if method.title in COSTS]
    others = sorted({record["policy"] for record in group if float(record["rho"]) == RHO} - in_paper)
    for method in [*listed, *ABLATIONS, *(Method(name, name) for name in others)]:
        records = [] if method.backbone is not None else of_policy(group, method.policy, RHO)
        if method is FULL and group:
            yield (*_paper_cells(method), *_dense_cells(of_policy(group, ADAPTIVE.policy, RHO)[0]))
        elif not records or method.policy == DENSE:
            yield (*_paper_cells(method), NOT_RUN, *[_EMPTY] * 8)
        else:
            for record in records:
                yield (*_paper_cells(method), *_our_cells(record, method))


def _paper_cells(method: Method) -> tuple[str, str, str, str]:
    cost = COSTS.get(method.title)
    if cost is None:
        return method.title, _EMPTY, _EMPTY, _EMPTY
    seconds = _EMPTY if cost.seconds is None else f"{cost.seconds:.2f}"
    memory = _EMPTY if cost.memory_gb is None else f"{cost.memory_gb:.1f}"
    return method.title, seconds, f"{cost.speedup:.2f}x", memory


def _dense_cells(record: Record) -> tuple[str, ...]:
    timing = record.get("timing") or {}
    milliseconds = (timing.get("dense_ms_per_batch") or {}).get(record["baseline"])
    peak, resident = _number(record.get("baseline_peak_mib")), _number(record.get("baseline_rest_mib"))
    return _number(milliseconds), "1.00x", _EMPTY, "1.00x", peak, _EMPTY, resident, _EMPTY, cite([record])


def _our_cells(record: Record, method: Method) -> tuple[str, ...]:
    cost = COSTS.get(method.title)
    return (
        _number((record.get("timing") or {}).get("ms_per_batch")),
        format_speedup(record),
        _EMPTY if cost is None else f"{record['speedup']['median'] - cost.speedup:+.2f}",
        f"{record['ideal_speedup']:.2f}x",
        _number(record.get("peak_mib")),
        _change(memory_change(record)),
        _number(record.get("rest_mib")),
        _change(memory_change(record, without_resident=True)),
        cite([record]),
    )


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.1f}"


def _change(value: float | None) -> str:
    return "not measured" if value is None else f"{100 * value:+.1f} %"
