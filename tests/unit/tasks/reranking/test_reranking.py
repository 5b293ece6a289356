"""Reranking: pairs, protected queries, losses, rankings, kept sentences."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from retention.errors import ConfigError
from retention.models.retention_model import RetentionModel
from retention.policies import Truncate
from retention.tasks.reranking.data import RerankingData
from retention.tasks.reranking.head import RerankingHead
from retention.tasks.reranking.predict import RankedPassage, Reranker, Sentence, sentence_spans

MakeData = Callable[..., RerankingData]


@pytest.fixture
def collection(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A folder of 12 queries with two relevant documents each, written in the words of the tokenizer."""
    words = [word for word in tokenizer.get_vocab() if word.isalpha() and len(word) > 1]
    documents, queries, lines = [], [], ["query-id\tcorpus-id\tscore"]
    for number in range(12):
        own, shared = words[3 * number : 3 * number + 3], words[3 * number + 1 : 3 * number + 5]
        queries.append({"_id": f"q{number}", "text": " ".join(own)})
        for part, chosen in (("a", own), ("b", shared)):
            text = " . ".join(" ".join(chosen) for _ in range(4)) + " ."
            documents.append({"_id": f"{number}{part}", "title": "", "text": text})
            lines.append(f"q{number}\t{number}{part}\t{2 if part == 'a' else 1}")
    for name, rows in (("corpus", documents), ("queries", queries)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "qrels.tsv").write_text("\n".join(lines) + "\n")
    return tmp_path


@pytest.fixture
def make_pairs(collection: Path, tokenizer: PreTrainedTokenizerFast) -> MakeData:
    """Build the data module of the collection; keyword arguments override its settings."""

    def build(**overrides: Any) -> RerankingData:
        settings: dict[str, Any] = {
            "name": "pairs",
            "source_note": "made up",
            "hub": None,
            "dir": str(collection),
            "max_length": 32,
            "max_query_length": 8,
            "candidates": 6,
            "negatives": 2,
            "test_queries": 4,
            "splits": {"train": "train", "val": None, "test": "test"},
            "train_size": None,
            "val_size": 2,
            "test_size": None,
            "batch_size": 4,
            "eval_batch_size": 4,
            "seed": 0,
        }
        data = RerankingData(**{**settings, **overrides})
        data.attach(tokenizer)
        return data

    return build


@pytest.fixture
def reranker(
    make_pairs: MakeData, make_model: Callable[..., RetentionModel], tiny_bert: Callable[..., Any]
) -> Reranker:
    """An untrained model that keeps 5 % of the tokens, the first ones."""
    data = make_pairs()
    loaded = tiny_bert(vocab_size=len(data.tokenizer))
    policy = Truncate(rho=0.05, schedule="flat")
    model = make_model(policy, RerankingHead, loaded=loaded, dropped="forward", **data.head(), pooling="mean")
    return Reranker(model.eval(), data)


def test_splits_share_no_query_and_pairs_are_protected_up_to_the_passage(make_pairs: MakeData) -> None:
    data = make_pairs()
    data.setup("fit")
    data.setup("test")
    described = data.describe()
    assert (described["train"], described["val"], described["test"]) == (6, 2, 4)
    assert described["pairs"] == {"train": 6 * 6, "val": 12, "test": 24}
    training = data.read(["train", "val", "test"])
    ids = {split: set(rows["query_id"]) for split, rows in training.items()}
    assert not ids["train"] & ids["test"] and not ids["val"] & (ids["train"] | ids["test"])
    assert ids["test"] == set(make_pairs(seed=5).read(["test"])["test"]["query_id"]), "the same for every seed"
    batch = next(iter(data.train_dataloader()))
    starts = batch["global_mask"].sum(1)
    for row, start in enumerate(starts.tolist()):
        assert batch["protected_mask"][row, :start].all(), "the query is protected"
        assert not batch["protected_mask"][row, start : start + 2].any(), "the passage is not"
    labels = torch.cat([batch["labels"] for batch in data.train_dataloader()])
    assert sorted(set(labels.tolist())) == [0.0, 0.5, 1.0] and (labels > 0).sum() == 2 * 6
    assert [file.name for file in data.data_files()] == ["corpus.jsonl", "queries.jsonl", "qrels.tsv"]


def test_training_negatives_are_irrelevant_candidates(make_pairs: MakeData) -> None:
    for query in make_pairs(negatives=1).read(["train"])["train"]:
        relevant = {document["id"] for document in query["judged"]}
        drawn = [passage["id"] for passage in query["passages"] if passage["relevance"] == 0]
        assert len(drawn) == len(relevant) == 2 and not set(drawn) & relevant


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"test_queries": None}, "test_queries"),
        ({"test_queries": 12}, "test_queries"),
        ({"splits": {"train": "train", "val": "dev", "test": "test"}}, "splits.val: must be null with test_queries"),
        ({"max_query_length": 20}, "max_query_length"),
        ({"candidates": 0}, "candidates"),
    ],
)
def test_unusable_settings_are_named(make_pairs: MakeData, settings: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        make_pairs(**settings).read(["test"])


def test_metrics_follow_the_scores(make_pairs: MakeData) -> None:
    data = make_pairs(candidates=24)
    data.setup("test")
    documents = data.read(["test"])["test"]
    rows: dict[str, list[Any]] = {"query": [], "relevance_score": []}
    for number, query in enumerate(documents):
        for position, passage in enumerate(query["passages"]):
            rows["query"].append([number, position])
            rows["relevance_score"].append(float(passage["relevance"]))
    assert data.compute_metrics("test", rows) == pytest.approx({"ndcg10": 1.0, "map": 1.0})
    reversed_scores = [-score for score in rows["relevance_score"]]
    worst = data.compute_metrics("test", {**rows, "relevance_score": reversed_scores})
    assert worst["ndcg10"] == 0.0 and worst["map"] < 0.2
    ranked = data.format_rankings("test", rows)
    assert [row["index"] for row in ranked] == [0, 1, 2, 3] and {row["score"] for row in ranked} == {1.0}


def test_head_learns_graded_targets_and_protects_the_query(
    make_pairs: MakeData, make_model: Callable[..., RetentionModel], tiny_bert: Callable[..., Any]
) -> None:
    data = make_pairs()
    loaded = tiny_bert(vocab_size=len(data.tokenizer))
    model = make_model(loaded=loaded, head_type=RerankingHead, dropped="forward", **data.head(), dropout=0.0)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    head = model.head
    assert torch.equal(head.protected(batch), batch["protected_mask"])
    logits = torch.zeros(len(batch["labels"]), 1)
    exact = torch.logit(batch["labels"], eps=1e-6).unsqueeze(1)
    assert head.task_loss(exact, batch) < head.task_loss(logits, batch) < head.task_loss(-exact, batch)
    assert head.distillation_loss(exact, exact, batch, 2.0) == pytest.approx(0.0, abs=1e-6)
    assert head.distillation_loss(-exact, exact, batch, 2.0) > 0.1
    assert head.confidence(logits, batch) == pytest.approx(len(logits) * torch.tensor(0.5).log().item())
    with pytest.raises(ConfigError, match="protect"):
        RerankingHead.check_settings(protect="nothing")


def test_query_survives_at_a_keep_ratio_of_five_percent(reranker: Reranker, collection: Path) -> None:
    query, *_ = [json.loads(line) for line in (collection / "queries.jsonl").read_text().splitlines()]
    texts = [json.loads(line)["text"] for line in (collection / "corpus.jsonl").read_text().splitlines()]
    rows = reranker._rows(query["text"], texts[:4])
    results = reranker._evaluated(rows, 2)
    gates = len(reranker.model.gated_layers)
    for row, result in zip(rows, results, strict=True):
        protected = [depth for depth, kept in zip(result.depth, row["protected_mask"], strict=True) if kept]
        assert set(protected) == {gates}
        assert len(result.depth) - sum(depth == gates for depth in result.depth) > 10, "most of the passage is removed"


def test_scores_are_in_order_and_do_not_depend_on_the_batch(reranker: Reranker, collection: Path) -> None:
    texts = [json.loads(line)["text"] for line in (collection / "corpus.jsonl").read_text().splitlines()]
    query = texts[0].split(" . ")[0]
    ranked = reranker.rerank(query, texts, batch_size=5)
    assert [each.score for each in ranked] == sorted((each.score for each in ranked), reverse=True)
    assert sorted(each.index for each in ranked) == list(range(len(texts)))
    alone = [reranker.score(query, [text])[0] for text in texts]
    assert reranker.score(query, texts) == pytest.approx(alone, abs=1e-5)
    assert all(0 <= score <= 1 for score in alone) and reranker.score(query, []) == []


def test_pruned_text_holds_the_sentences_that_were_kept(reranker: Reranker) -> None:
    words = [word for word in reranker.tokenizer.get_vocab() if word.isalpha() and len(word) > 2][:12]
    sentences = [" ".join(words[start : start + 4]) + "." for start in (0, 4, 8)]
    passage = "  ".join(sentences)
    with reranker.policy.at_budget(0.6):
        [ranked] = reranker.rerank(words[0], [passage])
        assert reranker.pruned_text(words[0], passage) == ranked.pruned_text()
    assert [passage[each.start : each.end] for each in ranked.sentences] == sentences
    shares = [each.kept_share for each in ranked.sentences]
    assert shares[0] > shares[2], "the policy keeps the first tokens"
    assert ranked.kept_sentences()[0] == sentences[0] and sentences[2] not in ranked.kept_sentences()
    assert ranked.pruned_text(0.0) == " ".join(sentences)


def test_sentences_with_equal_shares_are_all_kept() -> None:
    sentences = tuple(Sentence(start=3 * n, end=3 * n + 2, kept_share=0.1) for n in range(3))
    ranked = RankedPassage(index=0, text="aa bb cc", score=0.5, sentences=sentences, keep_ratio=0.1, truncated=False)
    assert ranked.kept_sentences() == ["aa", "bb", "cc"] and ranked.kept_sentences(0.2) == []


def test_sentence_spans_cover_the_text() -> None:
    text = "It is  hot today.\nWe go to the sea. Then\twe come back home!"
    parts = [text[start:end] for start, end in sentence_spans(text)]
    assert parts == ["It is  hot today.", "We go to the sea.", "Then\twe come back home!"]
