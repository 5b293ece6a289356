"""Measures of rankings against scikit-learn, BM25 against its formula, and reading of collections."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, ndcg_score

from retention.errors import DataError
from retention.tasks.reranking.bm25 import Bm25
from retention.tasks.reranking.collection import read_collection
from retention.tasks.reranking.ranking_metrics import average_precision, ndcg, rank_documents


@given(st.lists(st.integers(0, 3), min_size=2, max_size=30), st.randoms(use_true_random=False), st.integers(1, 12))
def test_measures_equal_those_of_scikit_learn(grades: list[int], random: object, depth: int) -> None:
    scores = list(range(len(grades)))
    random.shuffle(scores)  # type: ignore[attr-defined]
    names = [str(number) for number in range(len(grades))]
    ranking = rank_documents(dict(zip(names, map(float, scores), strict=True)))
    relevance = dict(zip(names, grades, strict=True))
    assert ndcg(ranking, relevance, depth) == pytest.approx(ndcg_score([grades], [scores], k=depth))
    if any(grades):
        expected = average_precision_score([grade > 0 for grade in grades], scores)
        assert average_precision(ranking, relevance) == pytest.approx(expected)
    else:
        assert average_precision(ranking, relevance) == 0.0


def test_permuted_relevance_and_missing_documents_lower_the_measures() -> None:
    ranking, relevance = ["a", "b", "c", "d"], {"a": 2, "b": 1}
    assert ndcg(ranking, relevance) == average_precision(ranking, relevance) == 1.0
    assert ndcg(ranking, {"a": 1, "b": 2}) < 0.9 and ndcg(ranking, {"c": 2, "d": 1}) < 0.6
    assert ndcg(ranking, {**relevance, "not retrieved": 2}) < 0.9
    assert average_precision(ranking, {**relevance, "not retrieved": 1}) == pytest.approx(2 / 3)


def test_bm25_follows_its_formula() -> None:
    documents = {"x": "wing flow flow", "y": "wing heat", "z": "shock"}
    index = Bm25(documents)
    frequency, length, mean = 2, 3, 6 / 3
    idf = math.log(1 + (3 - 1 + 0.5) / (1 + 0.5))
    expected = idf * frequency * 1.9 / (frequency + 0.9 * (1 - 0.4 + 0.4 * length / mean))
    query = index._vectorizer.transform(["flow"])
    assert (query @ index._weights.T).toarray()[0] == pytest.approx([expected, 0.0, 0.0])
    assert index.search(["Wing heat", "shock", "unseen"], 2) == [["y", "x"], ["z", "x"], ["x", "y"]]
    with pytest.raises(DataError, match="BM25"):
        Bm25({"x": "?"})


def write_collection(folder: Path, qrels: str = "1\t7\t1\n2\t8\t2\n") -> None:
    corpus = [{"_id": "7", "title": "Wings", "text": "of birds"}, {"_id": "8", "title": "", "text": " heat "}]
    with gzip.open(folder / "corpus.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in [*corpus, {"_id": "9", "title": "", "text": ""}])
    queries = [{"_id": number, "text": f"query {number}"} for number in "123"]
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in queries))
    (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + qrels)


def test_collection_joins_titles_and_leaves_out_what_has_no_text_or_judgment(tmp_path: Path) -> None:
    write_collection(tmp_path)
    collection = read_collection(tmp_path)
    assert collection.documents == {"7": "Wings of birds", "8": "heat"} and collection.without_text == 1
    assert collection.queries == {"1": "query 1", "2": "query 2"} and collection.single_file
    assert collection.relevance == {"1": {"7": 1}, "2": {"8": 2}}


@pytest.mark.parametrize(
    ("qrels", "expected"),
    [
        ("1\t77\t1\n", r"qrels.tsv, line 2: document '77' does not exist"),
        ("5\t7\t1\n", r"query '5' does not exist"),
        ("1\t7\thigh\n", r"score must be a whole number"),
        ("1\t7\t0\n", r"no document is relevant"),
    ],
)
def test_broken_judgments_are_located(tmp_path: Path, qrels: str, expected: str) -> None:
    write_collection(tmp_path, qrels)
    with pytest.raises(DataError, match=expected):
        read_collection(tmp_path)


def test_damaged_gzip_file_is_named(tmp_path: Path) -> None:
    write_collection(tmp_path)
    content = (tmp_path / "corpus.jsonl.gz").read_bytes()
    (tmp_path / "corpus.jsonl.gz").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"corpus.jsonl.gz: not a readable gzip file"):
        read_collection(tmp_path)


def test_rankings_break_ties_by_the_given_order() -> None:
    assert rank_documents({"b": 1.0, "a": 1.0, "c": 2.0}) == ["c", "b", "a"]
    assert np.isfinite(ndcg([], {"a": 1}))
