"""Make a retrieval collection, in the layout of BEIR, from files in SQuAD's layout: find the paragraph of a question.

The paragraphs of all files are the corpus. Every question that its paragraph answers is a query, and this paragraph is
its relevant document. Questions of the test file are the test queries, those of the other files training queries.

    python -m reproduction.squad_retrieval <folder> --train train.json.gz train_more.json.gz --test test.json.gz
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from retention.data.squad_json import read_squad_json
from retention.errors import DataError, RetentionError
from retention.records import write_atomic

Judgment = tuple[str, str]  # query, document


def collection(train: Sequence[Path], test: Path) -> tuple[dict[str, str], dict[str, str], dict[str, list[Judgment]]]:
    """Return the documents (text -> id), the queries (id -> text) and the judgments of both splits.

    Args:
        train: files of the training queries.
        test: file of the test queries.

    Raises:
        DataError: a file cannot be read, a question id occurs twice, or a test paragraph is in a training file.
    """
    documents: dict[str, str] = {}
    queries: dict[str, str] = {}
    judgments: dict[str, list[Judgment]] = {"train": [], "test": []}
    for path in (*train, test):
        split, known = ("test" if path == test else "train"), set(documents)
        for paragraph in (each for article in read_squad_json(path) for each in article.paragraphs):
            text = " ".join(paragraph.context.split())
            if split == "test" and text in known:
                raise DataError(f"{path}: a paragraph is in the training files too: {text[:60]!r}")
            document = documents.setdefault(text, f"p{len(documents)}")
            for question in paragraph.questions:
                if not question.answers:
                    continue
                if question.id in queries:
                    raise DataError(f"{path}: question {question.id!r} occurs twice")
                queries[question.id] = " ".join(question.text.split())
                judgments[split].append((question.id, document))
    return documents, queries, judgments


def write(folder: Path, train: Sequence[Path], test: Path) -> str:
    """Write corpus.jsonl, queries.jsonl and qrels/<split>.tsv; return a description of what was written."""
    documents, queries, judgments = collection(train, test)
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    corpus = [{"_id": name, "title": "", "text": text} for text, name in documents.items()]
    for name, rows in {
        "corpus": corpus,
        "queries": [{"_id": key, "text": text} for key, text in queries.items()],
    }.items():
        content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_atomic(folder / f"{name}.jsonl", content)
    for split, pairs in judgments.items():
        lines = ["query-id\tcorpus-id\tscore", *(f"{query}\t{document}\t1" for query, document in pairs)]
        write_atomic(folder / "qrels" / f"{split}.tsv", "\n".join(lines) + "\n")
    counts = ", ".join(f"{len(pairs)} {split} queries" for split, pairs in judgments.items())
    return f"{len(documents)} documents, {counts} in {folder}"


def main(argv: list[str] | None = None) -> int:
    """Write the collection; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m reproduction.squad_retrieval", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder to write")
    parser.add_argument("--train", type=Path, nargs="+", required=True, help="files of the training queries")
    parser.add_argument("--test", type=Path, required=True, help="file of the test queries")
    arguments = parser.parse_args(argv)
    try:
        print(write(arguments.folder, arguments.train, arguments.test))
    except RetentionError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
