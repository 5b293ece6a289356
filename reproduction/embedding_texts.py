"""Collect texts without labels for distilling embedding models, from the training splits of the benchmark data sets.

Long documents (papers, articles, contracts) are cut into passages of random length; reviews and sentences stay whole.
No text of a collection that embeddings are evaluated on is among them: nothing of Cranfield and 20 Newsgroups, and of
STS-B, which repeats sentences, only training sentences that are not in its other splits. No other test split is read.

    python -m reproduction.embedding_texts <folder of the data sets> texts.parquet

The folder holds imdb, arxiv_standin, pubmed, stsb, hyperpartisan (train.parquet) and squad, cuad, covid_qa
(train.json.gz, SQuAD format). The same command gives the same file.
"""

from __future__ import annotations

import argparse
import io
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from retention.data.json_files import read_json
from retention.errors import DataError, RetentionError
from retention.records import write_atomic

SEED = 20250
MIN_WORDS = 20  # shorter ends of documents are left out


@dataclass(frozen=True)
class Source:
    """Texts of one data set.

    Attributes:
        name: folder of the data set.
        count: number of texts that are drawn.
        cut: columns of ``train.parquet`` with documents that are cut into passages.
        whole: columns of ``train.parquet`` with texts that stay whole; without any columns, the source is
            ``train.json.gz`` in SQuAD format, whose contexts are cut if ``words`` is given.
        words: smallest and largest number of words of a passage.
        passages: passages per document at most.
        evaluated: splits whose texts are left out, since embeddings are evaluated on them.
    """

    name: str
    count: int
    cut: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()
    words: tuple[int, int] | None = None
    passages: int = 1
    evaluated: tuple[str, ...] = ()


SOURCES = (
    Source("imdb", 2500, whole=("text",)),
    Source("arxiv_standin", 2500, cut=("text",), words=(60, 350), passages=20),
    Source("pubmed", 2500, cut=("article",), whole=("abstract",), words=(60, 350), passages=8),
    Source("stsb", 1500, whole=("sentence1", "sentence2"), evaluated=("validation", "test")),
    Source("squad", 500),
    Source("cuad", 700, words=(40, 300), passages=6),
    Source("hyperpartisan", 600, cut=("text",), words=(60, 350), passages=3),
    Source("covid_qa", 700, words=(60, 350), passages=20),
)


def collect(folder: Path, draw: random.Random) -> list[dict[str, str]]:
    """Return the texts of all sources in random order, each with the name of its source.

    Args:
        folder: holds one folder per source.
        draw: source of all random choices.

    Raises:
        DataError: a file is missing or has other columns.
    """
    rows: list[dict[str, str]] = []
    for source in SOURCES:
        files = [folder / source.name / f"{split}.parquet" for split in source.evaluated]
        evaluated = {text for file in files for text in _columns(file, source.whole)}
        texts = [text for text in dict.fromkeys(_texts(folder / source.name, source, draw)) if text not in evaluated]
        draw.shuffle(texts)
        rows += [{"text": text, "source": source.name} for text in texts[: source.count]]
    draw.shuffle(rows)
    return rows


def passages(text: str, words: tuple[int, int], draw: random.Random) -> Iterator[str]:
    """Cut a text into consecutive passages of a random number of words.

    Args:
        text: the document.
        words: smallest and largest number of words of a passage.
        draw: source of the lengths.
    """
    tokens = text.split()
    start = 0
    while start < len(tokens):
        end = start + draw.randint(*words)
        if min(end, len(tokens)) - start >= MIN_WORDS:
            yield " ".join(tokens[start:end])
        start = end


def _texts(folder: Path, source: Source, draw: random.Random) -> Iterator[str]:
    """Yield all passages and whole texts of a source."""
    if source.cut or source.whole:
        file = folder / "train.parquet"
        to_cut, whole = _columns(file, source.cut), _columns(file, source.whole)
    else:
        contexts = _contexts(folder / "train.json.gz")
        to_cut, whole = (contexts, []) if source.words else ([], contexts)
    for document in to_cut:
        yield from list(passages(document, source.words or (1, 1), draw))[: source.passages]
    yield from whole


def _columns(file: Path, columns: Sequence[str]) -> list[str]:
    table = pq.read_table(_existing(file))
    missing = [column for column in columns if column not in table.column_names]
    if missing:
        raise DataError(f"{file}: no column {', '.join(missing)}; it has {', '.join(table.column_names)}")
    return [str(text) for column in columns for text in table.column(column).to_pylist()]


def _contexts(file: Path) -> list[str]:
    content: Any = read_json(_existing(file))
    try:
        return [str(part["context"]) for document in content["data"] for part in document["paragraphs"]]
    except (KeyError, TypeError) as error:
        raise DataError(f"{file}: is not in SQuAD format (data, paragraphs, context); missing: {error}") from error


def _existing(file: Path) -> Path:
    if not file.is_file():
        raise DataError(f"{file}: does not exist; give the folder that holds the data sets")
    return file


def main(argv: list[str] | None = None) -> int:
    """Write the texts; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m reproduction.embedding_texts", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of the data sets")
    parser.add_argument("output", type=Path, help="parquet file to write: columns text and source")
    arguments = parser.parse_args(argv)
    try:
        rows = collect(arguments.folder, random.Random(SEED))
    except RetentionError as error:
        print(error, file=sys.stderr)
        return 2
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer, compression="zstd")
    write_atomic(arguments.output, buffer.getvalue())
    print(f"{len(rows)} texts in {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
