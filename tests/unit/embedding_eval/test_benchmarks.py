"""Benchmarks of embeddings: right scores for right embeddings, and chance for random ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from retention.data.sources import Source
from retention.embedding_eval.classification import TextClassification
from retention.embedding_eval.retrieval import Retrieval
from retention.embedding_eval.scores import mean_difference, spearman, spearman_difference
from retention.embedding_eval.similarity import SentenceSimilarity
from retention.errors import DataError
from retention.tasks.reranking.collection import RetrievalCollection


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def random_embeddings(count: int, seed: int = 0, width: int = 16) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def at_angles(angles: list[float]) -> Tensor:
    """Return unit vectors in the plane, [N, 2]."""
    values = torch.tensor(angles)
    return torch.stack([values.cos(), values.sin()], dim=1)


class TestSentenceSimilarity:
    @pytest.fixture
    def benchmark(self, tmp_path: Path) -> SentenceSimilarity:
        rows = [{"sentence1": f"a {n}", "sentence2": f"b {n}", "score": n / 40} for n in range(200)]
        write_rows(tmp_path / "test.jsonl", rows)
        return SentenceSimilarity(Source(str(tmp_path), None), "test")

    def test_cosines_in_the_order_of_the_scores_give_one(self, benchmark: SentenceSimilarity) -> None:
        second = at_angles([1.5 * (1 - n / 200) for n in range(200)])  # farther from the first for lower scores
        embeddings = torch.cat([at_angles([0.0] * 200), second])
        assert benchmark.evaluate(embeddings).metrics["stsb_spearman"] == pytest.approx(1.0)

    def test_random_embeddings_give_about_zero(self, benchmark: SentenceSimilarity) -> None:
        assert abs(benchmark.evaluate(random_embeddings(400)).metrics["stsb_spearman"]) < 0.2

    def test_difference_of_rows_is_that_of_metrics(self, benchmark: SentenceSimilarity) -> None:
        first, second = (benchmark.evaluate(random_embeddings(400, seed)) for seed in (0, 1))
        difference = benchmark.differences(first.rows, second.rows)["stsb_spearman"]
        expected = first.metrics["stsb_spearman"] - second.metrics["stsb_spearman"]
        assert difference.mean == pytest.approx(expected, abs=1e-3)
        assert difference.low is not None and difference.high is not None
        assert difference.low < expected < difference.high

    def test_scores_of_a_csv_file_are_numbers(self, tmp_path: Path) -> None:
        lines = ["sentence1,sentence2,score", *(f"a {n},b {n},{n / 2}" for n in range(4))]
        (tmp_path / "test.csv").write_text("\n".join(lines))
        benchmark = SentenceSimilarity(Source(str(tmp_path), None), "test")
        assert [row["score"] for row in benchmark.evaluate(random_embeddings(8)).rows] == [0.0, 0.5, 1.0, 1.5]

    @pytest.mark.parametrize("score", ["high", "nan", "", None])
    def test_score_must_be_a_number(self, score: str | None, tmp_path: Path) -> None:
        write_rows(tmp_path / "test.jsonl", [{"sentence1": "a", "sentence2": "b", "score": score}])
        with pytest.raises(DataError, match=r"line 1: 'score' must be a number"):
            SentenceSimilarity(Source(str(tmp_path), None), "test")


class TestRetrieval:
    @pytest.fixture
    def collection(self) -> RetrievalCollection:
        documents = {f"d{n}": f"text {n}" for n in range(60)}
        queries = {f"q{n}": f"query {n}" for n in range(20)}
        relevance = {f"q{n}": {f"d{n}": 1, f"d{n + 20}": 1} for n in range(20)}
        return RetrievalCollection(documents, queries, relevance)

    def test_queries_at_their_documents_give_one(self, collection: RetrievalCollection) -> None:
        benchmark = Retrieval("cranfield", collection, "made up")
        by_topic = random_embeddings(40)[[*range(20), *range(20), *range(20, 40), *range(20)]]
        assert benchmark.evaluate(by_topic).metrics["cranfield_ndcg10"] == pytest.approx(1.0)
        permuted = {f"q{n}": collection.relevance[f"q{(n + 1) % 20}"] for n in range(20)}
        wrong = Retrieval("cranfield", RetrievalCollection(collection.documents, collection.queries, permuted), "")
        assert wrong.evaluate(by_topic).metrics["cranfield_ndcg10"] < 0.4

    def test_random_embeddings_score_low(self, collection: RetrievalCollection) -> None:
        scores = Retrieval("cranfield", collection, "made up").evaluate(random_embeddings(80))
        assert scores.metrics["cranfield_ndcg10"] < 0.3

    def test_length_of_embeddings_does_not_matter(self, collection: RetrievalCollection) -> None:
        benchmark, embeddings = Retrieval("cranfield", collection, ""), random_embeddings(80)
        scaled = embeddings * torch.linspace(0.1, 9.0, 80).unsqueeze(1)
        assert benchmark.evaluate(scaled).rows == benchmark.evaluate(embeddings).rows

    def test_splits_share_no_query(self, collection: RetrievalCollection) -> None:
        first, rest = (Retrieval("x", collection, "", queries) for queries in ((0, 5), (5, None)))
        ids = [{row["id"] for row in part.evaluate(random_embeddings(len(part.texts))).rows} for part in (first, rest)]
        assert len(ids[0]) == 5 and len(ids[1]) == 15 and not ids[0] & ids[1]
        with pytest.raises(DataError, match="none of the 20 queries"):
            Retrieval("x", collection, "", (20, None))


class TestTextClassification:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        for split, count in (("train", 300), ("test", 80)):
            write_rows(tmp_path / f"{split}.jsonl", [{"text": f"{split} {n}", "label": n % 2} for n in range(count)])
        return tmp_path

    def build(self, folder: Path, split: str = "test", **settings: Any) -> TextClassification:
        sizes = {"train_size": 60, "eval_size": 40, "seeds": (0, 1), **settings}
        return TextClassification("newsgroups", Source(str(folder), None), split, **sizes)

    def test_separated_classes_are_recognized_and_random_embeddings_are_not(self, folder: Path) -> None:
        benchmark = self.build(folder)
        classes = torch.tensor([int(text.split()[1]) % 2 for text in benchmark.texts]).unsqueeze(1)
        direction = torch.zeros(1, 16).index_fill(1, torch.tensor([0]), 6.0)
        noise = random_embeddings(len(benchmark.texts))
        right = benchmark.evaluate(noise + (2 * classes - 1) * direction).metrics
        assert min(right.values()) > 0.95
        chance = benchmark.evaluate(noise)
        assert all(0.2 < value < 0.8 for value in chance.metrics.values())
        for name, difference in benchmark.differences(chance.rows, chance.rows).items():
            assert (difference.mean, difference.low, difference.high) == (0.0, 0.0, 0.0), name

    def test_labels_of_a_csv_file_are_numbers(self, folder: Path, tmp_path: Path) -> None:
        csv = tmp_path / "csv"
        csv.mkdir()
        for split, count in (("train", 300), ("test", 80)):
            lines = ["text,label", *(f"{split} {n},{n % 2}" for n in range(count))]
            (csv / f"{split}.csv").write_text("\n".join(lines))
        embeddings = random_embeddings(len(self.build(folder).texts))
        assert self.build(csv).evaluate(embeddings).rows == self.build(folder).evaluate(embeddings).rows
        (csv / "test.csv").write_text("text,label\na,good\n")
        with pytest.raises(DataError, match=r"no label is a whole number; use 0, 1, \.\.\. or add labels\.json"):
            self.build(csv)

    @pytest.mark.parametrize("split", ["validation", "test"])
    def test_no_scored_text_is_trained_on(self, folder: Path, split: str) -> None:
        benchmark = self.build(folder, split)
        evaluated, trained = benchmark.documents, benchmark.texts[len(benchmark.documents) :]
        assert len(evaluated) == 40 and 60 < len(trained) <= 120 and not set(evaluated) & set(trained)
        assert all(text.startswith("train" if split == "validation" else "test") for text in evaluated)

    def test_training_texts_never_hold_validation_texts(self, folder: Path) -> None:
        held_out = set(self.build(folder, "validation").documents)
        assert not held_out & set(self.build(folder, "test", seeds=range(8)).texts)


def test_paired_intervals_separate_better_rows_and_not_equal_ones() -> None:
    generator = np.random.default_rng(0)
    values = generator.random(200)
    better = mean_difference(values + 0.1 + 0.05 * generator.standard_normal(200), values)
    assert better.low is not None and better.low > 0.05
    same = mean_difference(values + 0.05 * generator.standard_normal(200), values)
    assert same.low is not None and same.high is not None and same.low < 0 < same.high


def test_spearman_difference_separates_a_noisy_model() -> None:
    generator = np.random.default_rng(0)
    gold = generator.random(400)
    near, far = ((gold + scale * generator.standard_normal(400)).tolist() for scale in (0.1, 0.5))
    difference = spearman_difference(near, far, gold.tolist())
    assert difference.low is not None and difference.low > 0.1
    assert difference.mean == pytest.approx(spearman(near, gold.tolist()) - spearman(far, gold.tolist()))
    unchanged = spearman_difference(near, near, gold.tolist())
    assert (unchanged.low, unchanged.mean, unchanged.high) == (0.0, 0.0, 0.0)
