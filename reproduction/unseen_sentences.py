"""Split SST-2 into training rows and a larger test set whose sentences appear nowhere in the training rows.

SST-2 has 872 validation sentences: too few to tell models apart that differ by a point, and the recipe was chosen on
them. The new test set holds the labelled test sentences and training rows of 15 words or more, 4,000 in all.
Training rows are phrases of sentences, so a test sentence may survive in them in parts. A training row is removed if
it contains a test sentence as a contiguous sequence of words, shares 8 consecutive words with one, or is itself a
phrase of 4 words or more of one. The result is checked before it is written.

    python -m reproduction.unseen_sentences <folder of SST-2> <new folder>     # then: data.dir=<new folder>

The folder holds train and test (.parquet, .csv or .jsonl, columns sentence and label). GLUE hides the labels of its
test sentences (-1); those of the original Stanford treebank have them.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from retention.data.local_files import find_split_file, read_file
from retention.errors import DataError, RetentionError, option_names
from retention.records import write_atomic

MIN_SENTENCE_WORDS = 15  # a training row of this length counts as a whole sentence
MIN_PHRASE_WORDS = 4  # shorter phrases occur in any text
MAX_SHARED_WORDS = 7  # consecutive words that a training row may share with a test sentence
SEED = 7

LabelledText = tuple[str, int]
Words = tuple[str, ...]


class OverlapIndex:
    """Finds texts that overlap with test sentences.

    Args:
        sentences: the test sentences.
    """

    def __init__(self, sentences: Iterable[str]) -> None:
        words = [_words(sentence) for sentence in sentences]
        self._sentences = set(words)
        self._lengths = sorted({len(sentence) for sentence in words})
        self._shared = {gram for sentence in words for gram in _ngrams(sentence, MAX_SHARED_WORDS + 1)}
        self._phrases = {
            gram
            for sentence in words
            for size in range(MIN_PHRASE_WORDS, len(sentence) + 1)
            for gram in _ngrams(sentence, size)
        }

    def overlaps(self, text: str) -> bool:
        """Return True if a training row must not be kept beside the test sentences."""
        words = _words(text)
        return (
            words in self._phrases
            or any(gram in self._sentences for size in self._lengths for gram in _ngrams(words, size))
            or any(gram in self._shared for gram in _ngrams(words, MAX_SHARED_WORDS + 1))
        )


def divide(
    train: Sequence[LabelledText], test: Sequence[LabelledText], size: int
) -> tuple[list[LabelledText], list[LabelledText]]:
    """Move long training rows to the test set and remove training rows that overlap with it.

    Args:
        train: training rows.
        test: test rows.
        size: number of rows of the new test set.

    Returns:
        Remaining training rows, and the new test set.

    Raises:
        DataError: there are too few long training rows.
    """
    long = [index for index, (text, _) in enumerate(train) if len(text.split()) >= MIN_SENTENCE_WORDS]
    missing = max(0, size - len(test))
    if len(long) < missing:
        raise DataError(f"{len(long)} training rows have {MIN_SENTENCE_WORDS} words or more, {missing} are needed")
    moved = {long[choice] for choice in np.random.RandomState(SEED).choice(len(long), missing, replace=False)}
    candidates = [*test, *(train[index] for index in sorted(moved))]
    order = np.random.RandomState(SEED).permutation(len(candidates))[:size]
    tested = [candidates[index] for index in order]
    overlap = OverlapIndex(text for text, _ in tested)
    kept = [row for index, row in enumerate(train) if index not in moved and not overlap.overlaps(row[0])]
    return kept, tested


def check_no_overlap(train: Sequence[LabelledText], test: Sequence[LabelledText]) -> None:
    """Check a division with other means than ``divide``: substring search, and the intersection of word sequences.

    Raises:
        DataError: a training row contains a test sentence, or shares too many consecutive words with one.
    """
    joined = "\n".join(f" {' '.join(_words(text))} " for text, _ in train)
    for text, _ in test:
        if f" {' '.join(_words(text))} " in joined:
            raise DataError(f"a training row contains the test sentence {text!r}")
    train_grams, test_grams = (
        {gram for text, _ in rows for gram in _ngrams(_words(text), MAX_SHARED_WORDS + 1)} for rows in (train, test)
    )
    if shared := train_grams & test_grams:
        words = " ".join(min(shared))
        raise DataError(f"training rows and test sentences share {MAX_SHARED_WORDS + 1} consecutive words: {words!r}")


def _words(text: str) -> Words:
    return tuple(text.lower().split())


def _ngrams(words: Words, size: int) -> Iterator[Words]:
    return (words[start : start + size] for start in range(len(words) - size + 1))


def read_split(folder: Path, split: str) -> list[LabelledText]:
    """Read the sentences of a split with their labels."""
    table = read_file(find_split_file(folder, split), {"text_column": "sentence", "label_column": "label"})
    return list(zip(table.texts("sentence"), table.labels("label", ["negative", "positive"]), strict=True))


def write_split(path: Path, rows: Sequence[LabelledText]) -> None:
    """Write a Parquet file; an interrupted write leaves no file."""
    texts, labels = zip(*rows, strict=True)
    buffer = io.BytesIO()
    pq.write_table(pa.table({"sentence": texts, "label": labels}), buffer, compression="zstd")
    write_atomic(path, buffer.getvalue())


def main(argv: Sequence[str] | None = None) -> int:
    """Write the new folder; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m reproduction.unseen_sentences",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", type=Path, help="folder with train and test of SST-2")
    parser.add_argument("target", type=Path, help="folder to write")
    parser.add_argument("--size", type=int, default=4000, help="number of test sentences (default: 4000)")
    arguments = parser.parse_args(argv)
    try:
        source = arguments.source
        with option_names({"data.dir": "as source"}):
            train, test = divide(read_split(source, "train"), read_split(source, "test"), arguments.size)
        check_no_overlap(train, test)
    except RetentionError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    write_split(arguments.target / "train.parquet", train)
    write_split(arguments.target / "validation.parquet", test)  # the split that task=sst2 is tested on
    print(f"{arguments.target}: {len(train)} training rows, {len(test)} test sentences")
    return 0


if __name__ == "__main__":
    sys.exit(main())
