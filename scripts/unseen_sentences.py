"""A larger test of SST-2: 4,000 whole sentences that nothing was trained on, and training rows without their parts.

The validation set has 872 sentences: one model's accuracy on it is known to a point, no better, and whoever chooses a
recipe by it has none left to test with. Here the labelled test sentences are joined by training rows of 15 words or
more; training rows that are a part of one of these, or begin or end with eight words of one, are left out.

    python scripts/unseen_sentences.py <folder of SST-2> <new folder>     # then: data.dir=<new folder>

The folder holds train and test (.parquet, .csv or .jsonl, columns sentence and label). GLUE hides the labels of its
test sentences (-1); those of the original Stanford treebank have them.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from retention.data.local_files import find_split_file, read_file
from retention.errors import DataError, RetentionError
from retention.records import write_atomic

SENTENCE_WORDS = 15  # a training row of so many words is taken for a whole sentence
PART_WORDS = 4  # shorter phrases are in any text
EDGE_WORDS = 8
SEED = 7

Row = tuple[str, int]


def read(folder: Path, split: str) -> list[Row]:
    """Sentences of a split with their labels."""
    table = read_file(find_split_file(folder, split), {"text_column": "sentence", "label_column": "label"})
    return list(zip(table.texts("sentence"), table.labels("label", ["negative", "positive"]), strict=True))


def divide(train: Sequence[Row], test: Sequence[Row], size: int) -> tuple[list[Row], list[Row]]:
    """(training rows, ``size`` test rows): all of ``test``, filled up with long rows of ``train``.

    Raises:
        DataError: there are not enough long rows.
    """
    lengthy = [entry for entry, (text, _) in enumerate(train) if len(text.split()) >= SENTENCE_WORDS]
    wanted = max(0, size - len(test))
    if len(lengthy) < wanted:
        raise DataError(f"{len(lengthy)} training rows have {SENTENCE_WORDS} words or more, {wanted} are needed")
    taken = [lengthy[place] for place in np.random.RandomState(SEED).choice(len(lengthy), wanted, replace=False)]
    moved = [train[entry] for entry in taken]
    parts = {part for text, _ in moved for part in _parts(text.split())}
    left = set(range(len(train))) - set(taken)
    kept = [train[entry] for entry in sorted(left) if not _leaks(train[entry][0].split(), parts)]
    tested = [*test, *moved]
    order = np.random.RandomState(SEED).permutation(len(tested))[:size]
    return kept, [tested[place] for place in order]


def _parts(words: Sequence[str]) -> Iterator[str]:
    for size in range(PART_WORDS, len(words) + 1):
        for start in range(len(words) - size + 1):
            yield " ".join(words[start : start + size])


def _leaks(words: Sequence[str], parts: set[str]) -> bool:
    if len(words) < PART_WORDS:
        return False
    edges = (words[:EDGE_WORDS], words[-EDGE_WORDS:]) if len(words) >= EDGE_WORDS else ()
    return any(" ".join(piece) in parts for piece in (words, *edges))


def write(path: Path, rows: Sequence[Row]) -> None:
    """Write a Parquet file, whole or not at all."""
    texts, labels = zip(*rows, strict=True)
    packed = io.BytesIO()
    pq.write_table(pa.table({"sentence": texts, "label": labels}), packed, compression="zstd")
    write_atomic(path, packed.getvalue())


def main(argv: Sequence[str] | None = None) -> int:
    """Write the folder; returns the exit status."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("source", type=Path, help="folder with train and test of SST-2")
    words.add_argument("target", type=Path, help="folder to be made")
    words.add_argument("--size", type=int, default=4000, help="number of test sentences (default: 4000)")
    chosen = words.parse_args(argv)
    try:
        train, test = divide(read(chosen.source, "train"), read(chosen.source, "test"), chosen.size)
    except RetentionError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    write(chosen.target / "train.parquet", train)
    write(chosen.target / "validation.parquet", test)  # what task=sst2 is tested on
    print(f"{chosen.target}: {len(train)} training rows, {len(test)} test sentences")
    return 0


if __name__ == "__main__":
    sys.exit(main())
