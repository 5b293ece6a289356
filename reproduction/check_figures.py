"""Keep the tables of README.md and docs/*.md equal to the committed records.

A generated table stands between two comments and is never edited by hand:

    <!-- generated: results -->
    | policy | ... |
    <!-- end -->

``python -m reproduction readme`` writes all such tables anew, and a test fails where a page differs from its records.
``GENERATED`` and ``OF_FILES`` hold the tables with code of their own; reproduction/result_tables.yaml describes the
others.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

from reproduction.comparison_family import comparison_family_table
from reproduction.decoder_results import cost_table, loss_table, quarter_table, recall_table
from reproduction.embedding_results import embedding_results_table
from reproduction.equal_time import equal_time_table, int8_table
from reproduction.ladder import INGREDIENTS, LONG_TEXT, ladder_table
from reproduction.prose_figures import FIGURE
from reproduction.reliability.page import reliability_table
from reproduction.result_tables import read_tables, result_table
from reproduction.sources import RecordSet
from reproduction.target_speeds import level_speed_table, speed_summary_table, target_speed_table
from reproduction.timed_models import OTHER_ENCODERS, TIMED_TASKS
from retention.errors import DataError
from retention.records import write_atomic

_BLOCK = re.compile(r"(<!-- generated: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_TABLE_ROW = re.compile(r"^\|.*", re.MULTILINE)
_TIMED_TABLES: Mapping[str, Callable[..., str]] = {
    "equal_time": equal_time_table,
    "target_speeds": target_speed_table,
    "equal_time_bfloat16": partial(equal_time_table, dtype="bfloat16"),
    "level_speeds": level_speed_table,
    "int8": int8_table,
}
GENERATED: Mapping[str, Callable[[RecordSet], str]] = {
    "comparison_family": lambda records: comparison_family_table(records, TIMED_TASKS),
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
    "results": lambda records: speed_summary_table(records, TIMED_TASKS, (3.0,)),
    "results_by_speed": lambda records: speed_summary_table(records, TIMED_TASKS),
    **{
        f"{name}_{task}": partial(make, task=task)
        for name, make in _TIMED_TABLES.items()
        for task in (*TIMED_TASKS, *OTHER_ENCODERS)
    },
}

OF_FILES: Mapping[str, Callable[[Path], str]] = {  # of root
    "ladder_newsgroups20": partial(ladder_table, task="newsgroups20", path=LONG_TEXT),
    "ladder_sst2": partial(ladder_table, task="sst2"),
    "ladder_sst2_short": partial(ladder_table, task="sst2_short", path=INGREDIENTS),
}


def pages(root: Path) -> list[Path]:
    """Return the pages that may hold generated tables."""
    return [path for path in (root / "README.md", *sorted((root / "docs").glob("*.md"))) if path.exists()]


def regenerate(text: str, records: RecordSet, root: Path) -> str:
    """Return a page with all its generated tables written anew.

    Args:
        text: page.
        records: records of the tables in ``GENERATED``.
        root: folder with ``results``, whose records the other tables read.

    Raises:
        DataError: the page names a table that does not exist.
    """
    described = read_tables()

    def block(match: re.Match[str]) -> str:
        name = match["name"]
        if name in GENERATED:
            table = GENERATED[name](records)
        elif name in OF_FILES:
            table = OF_FILES[name](root)
        elif name in described["tables"]:
            table = result_table(root, name, described)
        else:
            names = ", ".join((*GENERATED, *OF_FILES, *described["tables"]))
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
