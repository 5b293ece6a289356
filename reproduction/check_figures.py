"""Keep the tables of README.md and docs/*.md equal to the committed records.

A generated table stands between two comments and is never edited by hand:

    <!-- generated: results -->
    | policy | ... |
    <!-- end -->

``python -m reproduction readme`` writes all such tables anew, and a test fails where a page differs from its records.
``GENERATED`` holds the tables with code of their own; reproduction/result_tables.yaml describes the others.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

from reproduction.decoder_results import cost_table, loss_table, quarter_table, recall_table
from reproduction.embedding_results import embedding_results_table
from reproduction.equal_time import equal_time_table
from reproduction.paper import ADAPTIVE
from reproduction.prose_figures import FIGURE
from reproduction.reliability.page import reliability_table
from reproduction.result_tables import read_tables, result_table
from reproduction.sources import RecordSet
from reproduction.speeds import format_speedup, matching_speeds
from reproduction.target_speeds import level_speed_table, target_speed_table
from retention.errors import DataError
from retention.records import write_atomic
from retention.records.identity import settings
from retention.report.grouping import (
    DENSE,
    EvaluationSetup,
    RunGroup,
    Runs,
    mean_and_deviation,
    percent,
)
from retention.report.tables import markdown_table, text_frame

_BLOCK = re.compile(r"(<!-- generated: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_TABLE_ROW = re.compile(r"^\|.*", re.MULTILINE)
_RHO = 0.3
# Data of the table ``results``: title, task, and training and test rows of the runs.
_RESULTS_DATA = (("SST-2", "sst2", "20000", "872"), ("IMDb", "imdb", "2000", "1000"))
_DEFAULT_TRAINING = {"distill.saliency": 0, "distill.token_states": 0, "budgets.sampled": 0}
# Rows of the table ``results``: label, policy, target keep ratio, and training settings that differ from the default.
_RESULTS_ROWS: tuple[tuple[str, str, float, Mapping[str, float]], ...] = (
    ("dense", DENSE, 1.0, {}),
    ("adaptive", ADAPTIVE.policy, _RHO, {}),
    ("adaptive, saliency-distilled scorers", ADAPTIVE.policy, _RHO, {"distill.saliency": 3}),
    ("random", "random", _RHO, {}),
)


def results_table(records: RecordSet) -> str:
    """Return the main results: dense, adaptive, saliency-distilled and random at a keep ratio of 0.3."""
    header = ["policy", "keep ratio"]
    for title, *_ in _RESULTS_DATA:
        header += [f"{title} accuracy", f"{title} FLOPs ratio", f"{title} speedup"]
    setups = [_find_setup(records.runs, *key) for _, *key in _RESULTS_DATA]
    rows = []
    for label, policy, rho, changes in _RESULTS_ROWS:
        cells = [label, f"{rho:g}"]
        for setup in setups:
            cells += _results_cells(records, _find_group(records.runs, setup, policy, rho, changes))
        rows.append(cells)
    return markdown_table(text_frame(header, rows))


_TIMED_TASKS = ("cuad_spans", "newsgroups20", "sst2")
_TIMED_TABLES: Mapping[str, Callable[..., str]] = {
    "equal_time": equal_time_table,
    "target_speeds": target_speed_table,
    "level_speeds": level_speed_table,
}
GENERATED: Mapping[str, Callable[[RecordSet], str]] = {
    "decoder_costs": lambda records: cost_table(records.records),
    "decoder_losses": lambda records: loss_table(records.records, 1024),
    "decoder_quarters": lambda records: quarter_table(records.records),
    "decoder_recall": lambda records: recall_table(records.records),
    "embeddings_minilm": lambda records: embedding_results_table(records.records, "all-MiniLM-L6-v2"),
    "embeddings_mpnet": lambda records: embedding_results_table(records.records, "all-mpnet-base-v2-bfloat16"),
    "embeddings_number_formats": lambda records: embedding_results_table(records.records, "MiniLM"),
    "embeddings_policies": lambda records: embedding_results_table(records.records, "original", by_model=True),
    "embeddings_training_texts": lambda records: embedding_results_table(records.records, "unpruned", by_model=True),
    "reliability": lambda records: reliability_table(records.records),
    "results": results_table,
    **{f"{name}_{task}": partial(make, task=task) for name, make in _TIMED_TABLES.items() for task in _TIMED_TASKS},
}


def pages(root: Path) -> list[Path]:
    """Return the pages that may hold generated tables."""
    return [path for path in (root / "README.md", *sorted((root / "docs").glob("*.md"))) if path.exists()]


def regenerate(text: str, records: RecordSet, root: Path) -> str:
    """Return a page with all its generated tables written anew.

    Args:
        text: page.
        records: records of the tables in ``GENERATED``.
        root: folder with ``results``, whose records the other tables look up.

    Raises:
        DataError: the page names a table that does not exist.
    """
    described = read_tables()

    def block(match: re.Match[str]) -> str:
        name = match["name"]
        if name in GENERATED:
            table = GENERATED[name](records)
        elif name in described["tables"]:
            table = result_table(root, name, described)
        else:
            names = ", ".join((*GENERATED, *described["tables"]))
            raise DataError(f"generated: {name}: there is no such table; choose from {names}")
        return f"{match[1]}{table}\n{match[3]}"

    return _BLOCK.sub(block, text)


def update_pages(root: Path, records: RecordSet) -> list[Path]:
    """Write the generated tables of all pages anew; return the pages that hold some."""
    updated = [path for path in pages(root) if _BLOCK.search(path.read_text(encoding="utf-8"))]
    for path in updated:
        write_atomic(path, regenerate(path.read_text(encoding="utf-8"), records, root))
    return updated


def outdated_pages(root: Path, records: RecordSet) -> list[Path]:
    """Return the pages whose generated tables differ from the records."""
    texts: Iterable[tuple[Path, str]] = ((path, path.read_text(encoding="utf-8")) for path in pages(root))
    return [path for path, text in texts if regenerate(text, records, root) != text]


def hand_written_figures(text: str) -> list[str]:
    """Return the figures of a page in tables that are not generated."""
    return [figure for row in _TABLE_ROW.findall(_BLOCK.sub("", text)) for figure in FIGURE.findall(row)]


def _find_setup(runs: Runs, task: str, train: str, test: str) -> EvaluationSetup:
    for setup in runs.setups(task):
        if (setup.train, setup.test) == (train, test):
            return setup
    raise DataError(f"results table: no runs of {task} with {train} training and {test} test rows in results/quality")


def _find_group(runs: Runs, setup: EvaluationSetup, policy: str, rho: float, changes: Mapping[str, float]) -> RunGroup:
    required = {**_DEFAULT_TRAINING, **changes}
    for group in runs.groups(setup, policy, rho):
        flat = settings(group.records[0].get("config") or {})
        if all(flat.get(key, 0) == value for key, value in required.items()):
            return group
    raise DataError(f"results table: no runs of {policy} at {rho:g} on {setup.task} with {required}")


def _results_cells(records: RecordSet, group: RunGroup) -> list[str]:
    values = group.points()
    seeds = "" if len(values) > 1 else " (1 seed)"
    speeds = {record.get("prune_at"): record for record in matching_speeds(records.speeds, group)}
    measured = speeds.get("after_layer")
    speedup = "1" if group.policy == DENSE else "-" if measured is None else format_speedup(measured)
    return [f"{mean_and_deviation(values)}{seeds}", percent(group.flops_ratio), speedup]
