"""Train a reranker from files in the layout of BEIR, distil a pruned one from it without labels, and use it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from transformers import BertConfig, BertModel

from retention.tasks.classification.keywords import KeywordData
from retention.tasks.reranking.predict import Reranker
from retention.tasks.reranking.ranking_metrics import ndcg
from retention.trained import load


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 24 queries in the words of the built-in tokenizer; relevant documents share the query's words."""
    folder = tmp_path_factory.mktemp("collection")
    words = sorted(word for word in KeywordData.build_tokenizer().get_vocab() if word.isalpha() and len(word) > 1)
    rng = random.Random(0)
    rng.shuffle(words)
    documents, queries, lines = [], [], ["query-id\tcorpus-id\tscore"]
    for number in range(24):
        topic = words[4 * number : 4 * number + 4]
        queries.append({"_id": f"q{number}", "text": " ".join(topic[:3])})
        for part in range(2):
            sentences = [" ".join([*rng.sample(topic, 3), *rng.sample(words, 4)]) for _ in range(3)]
            documents.append({"_id": f"{number}-{part}", "title": "", "text": " . ".join(sentences) + " ."})
            lines.append(f"q{number}\t{number}-{part}\t1")
    for name, rows in (("corpus", documents), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "qrels.tsv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random encoder and the built-in tokenizer."""
    folder = tmp_path_factory.mktemp("encoder")
    tokenizer = KeywordData.build_tokenizer()
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=64, **sizes)).save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_reranker_trains_distils_and_loads(collection: Path, encoder: Path, start_bare: Any, tmp_path: Path) -> None:
    settings = [
        "task=reranking",
        "backbone=minilm",
        f"backbone.path={encoder}",
        f"data.dir={collection}",
        "task.data.test_queries=6",
        "task.data.val_size=2",
        "task.data.candidates=8",
        "task.data.max_length=48",
        "task.data.max_query_length=8",
        "trainer.max_epochs=1",
        "trainer.accelerator=cpu",
        "++callbacks.progress.log_refresh_rate=0",
    ]
    [dense] = start_bare(tmp_path / "dense", *settings, "retention=dense")
    assert dense["monitor"] == "ndcg10" and 0 < dense["metrics"]["map"] <= 1
    assert dense["metrics"]["bm25_ndcg10"] > 0.9, "relevant documents share words with the query"
    assert (dense["data"]["train"], dense["data"]["val"], dense["data"]["test"]) == (16, 2, 6)
    teacher = f"{tmp_path}/dense/checkpoints/last.ckpt"
    pruned = ("retention.rho=0.5", f"init={teacher}", "distill.weight=1.0", "distillation=saliency")
    [record] = start_bare(tmp_path / "pruned", *settings, *pruned)
    assert 0 < record["flops_ratio"] < 1
    rows = [json.loads(line) for line in (tmp_path / "pruned" / "predictions.jsonl").read_text().splitlines()]
    assert len(rows) == 6 and all(len(row["ranking"]) == 8 for row in rows)
    assert sum(row["score"] for row in rows) / 6 == pytest.approx(record["metrics"]["ndcg10"])

    model = load(tmp_path / "pruned")
    assert isinstance(model, Reranker)
    texts = {row["_id"]: row["text"] for row in map(json.loads, (collection / "corpus.jsonl").read_text().splitlines())}
    query = next(
        row["text"]
        for row in map(json.loads, (collection / "queries.jsonl").read_text().splitlines())
        if row["_id"] == rows[0]["query_id"]
    )
    ids = rows[0]["ranking"]
    ranked = model.rerank(query, [texts[each] for each in ids])
    assert [each.index for each in ranked] == list(range(8)), "as in the test"
    assert all(0 < each.keep_ratio < 1 for each in ranked)
    kept = ranked[0].pruned_text()
    assert kept and len(kept) <= len(ranked[0].text)
    judged = {each: 1 for each in ids if each.startswith(rows[0]["query_id"].removeprefix("q") + "-")}
    assert rows[0]["score"] == pytest.approx(ndcg(ids, judged))
