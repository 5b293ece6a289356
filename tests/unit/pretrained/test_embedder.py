"""Embeddings: order, batches, budgets, prompts, kept tokens."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertModel

from retention import Adaptive, Dense, Embedder, Random, Truncate
from retention.errors import ConfigError
from retention.models.pooling import POOLINGS
from retention.pretrained.sentence_files import EmbeddingSettings

TEXTS = ["w1 w2 w3", " ".join(f"w{i}" for i in range(25)), "", " ".join(f"w{i}" for i in range(19, 4, -1)), "w7 w9"]

Make = Callable[..., Embedder]


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("dropped", ["forward", "cut"])
def test_embedding_of_a_text_does_not_depend_on_its_batch(make_embedder: Make, pooling: str, dropped: str) -> None:
    model = make_embedder(settings=EmbeddingSettings(pooling=pooling), dropped=dropped)
    together = model.encode(TEXTS, batch_size=5)
    for batch_size in (1, 2):
        assert torch.allclose(model.encode(TEXTS, batch_size=batch_size), together, atol=5e-6)
    assert torch.allclose(model.encode(TEXTS[::-1], batch_size=2).flip(0), together, atol=5e-6)
    assert not torch.allclose(together[0], together[4], atol=1e-2)  # texts differ, so the order is tested


def test_removed_tokens_change_the_embedding_and_a_budget_of_one_does_not(make_embedder: Make) -> None:
    model, dense = make_embedder(), make_embedder(Dense())
    assert torch.allclose(model.encode(TEXTS, rho=1.0), dense.encode(TEXTS), atol=1e-6)
    assert not torch.allclose(model.encode(TEXTS, rho=0.3), dense.encode(TEXTS), atol=1e-3)


def test_dense_embedding_is_the_normalized_mean_of_the_encoder(make_embedder: Make, bert: BertModel) -> None:
    ids = torch.tensor([[2, 5, 6, 7, 3]])
    with torch.no_grad():
        expected = bert(ids).last_hidden_state.mean(1)
    found = make_embedder(Dense()).encode(["w1 w2 w3"])
    assert torch.allclose(found, expected / expected.norm(), atol=1e-6)


def test_survivors_are_the_same_whether_dropped_tokens_are_forwarded_or_cut(make_embedder: Make) -> None:
    settings = EmbeddingSettings(pooling="survivors")
    forward, cut = make_embedder(settings=settings), make_embedder(settings=settings, dropped="cut")
    assert torch.allclose(forward.encode(TEXTS), cut.encode(TEXTS), atol=5e-6)
    mean = make_embedder(settings=EmbeddingSettings(pooling="mean"))
    assert not torch.allclose(mean.encode(TEXTS), cut.encode(TEXTS), atol=1e-3)


def test_reports_of_all_batches_add_up_to_the_kept_tokens(make_embedder: Make) -> None:
    model = make_embedder(Truncate(rho=0.5, schedule="flat").eval())
    reports: list[Any] = []
    model.encode(TEXTS, batch_size=2, on_report=reports.append)
    lengths = torch.cat([report.lengths for report in reports])
    kept = torch.cat([report.kept[0] for report in reports])
    assert lengths.tolist() == [27, 17, 5, 4, 2]
    assert kept.tolist() == [13, 8, 2, 2, 2]  # [CLS] and [SEP] are protected
    dense, spent = model.encoder.flops()
    assert 0 < spent <= dense


def test_kept_tokens_name_what_every_gate_kept(make_embedder: Make) -> None:
    model = make_embedder(Truncate(rho=0.5, schedule="flat").eval())
    kept = model.kept_tokens(TEXTS[0])
    assert kept.tokens == ("[CLS]", "w1", "w2", "w3", "[SEP]")
    assert kept.kept == (True, False, False, False, True)
    assert kept.depth == (3, 0, 0, 0, 3) and kept.layers == (0, 1, 2)
    assert kept.keep_ratio == pytest.approx(2 / 5)
    assert [TEXTS[0][start:end] for start, end in kept.offsets[1:4]] == ["w1", "w2", "w3"]
    assert model.kept_tokens(TEXTS[0], rho=1.0).keep_ratio == 1.0


def test_offsets_of_lower_cased_text_belong_to_the_text_of_the_result(make_embedder: Make) -> None:
    model = make_embedder(settings=EmbeddingSettings(do_lower_case=True, prompts={"query": "W30 "}))
    dotted = "\u0130"  # two characters in lower case
    kept = model.kept_tokens(f"{3 * dotted} W1 W2", prompt_name="query")
    assert kept.tokens[-3:] == ("w1", "w2", "[SEP]")
    assert [kept.text[start:end] for start, end in kept.offsets[-3:-1]] == ["w1", "w2"]
    assert kept.text.startswith("w30 ")


def test_flops_count_the_scorers_at_the_budget_of_the_call(make_embedder: Make) -> None:
    encoder = make_embedder(Adaptive(rho=0.4).eval()).encoder
    ids = torch.tensor([[2, 5, 6, 7, 3]])
    with torch.no_grad():
        encoder.encode(ids, rho=1.0)
        dense, spent = encoder.flops()
        assert spent == dense, "scorers that did not run cost nothing"
        with encoder.retainer:  # at the budget of the policy
            encoder.encoder(ids)
        direct = encoder.flops()
        encoder.encode(ids)
    assert encoder.flops() == direct and direct[1] != spent


def test_enclosing_protection_holds_in_calls_without_a_mask(make_embedder: Make) -> None:
    encoder = make_embedder(Truncate(rho=0.2, schedule="flat").eval()).encoder
    ids = torch.tensor([[2, 5, 6, 7, 3]])
    outer, inner = torch.arange(5).unsqueeze(0) == 2, torch.arange(5).unsqueeze(0) == 3
    kept = []
    with torch.no_grad(), encoder.retainer.protect(outer):
        for mask in (None, inner, None):
            encoder(ids, protected_mask=mask)
            kept.append(encoder.report.keep_indices[0].tolist())
    assert kept == [[[2]], [[3]], [[2]]]


def test_unprotected_special_tokens_compete(make_embedder: Make) -> None:
    model = make_embedder(Truncate(rho=0.4, schedule="flat").eval(), protect=False)
    assert model.kept_tokens(TEXTS[0]).kept == (True, True, False, False, False)


def test_long_texts_are_truncated_to_the_maximum_length(make_embedder: Make) -> None:
    model = make_embedder(settings=EmbeddingSettings(max_seq_length=6))
    assert model.max_seq_length == 6
    assert len(model.kept_tokens(TEXTS[1]).tokens) == 6
    assert make_embedder().max_seq_length == 32


@pytest.mark.parametrize("length", [-1, 0, "64", 6.0, True])
def test_maximum_length_is_checked(length: Any, saved: Path) -> None:
    with pytest.raises(ConfigError, match="max_seq_length: must be a whole number >= 1"):
        Embedder.from_pretrained(saved, max_seq_length=length)


def test_prompts_are_put_in_front(make_embedder: Make) -> None:
    settings = EmbeddingSettings(prompts={"query": "w30 w31 ", "none": ""}, default_prompt_name="query")
    model = make_embedder(settings=settings)
    expected = model.encode(["w30 w31 w1 w2 w3"], prompt="")
    assert torch.equal(model.encode(["w1 w2 w3"]), expected)
    assert torch.equal(model.encode(["w1 w2 w3"], prompt_name="query"), expected)
    assert not torch.allclose(model.encode(["w1 w2 w3"], prompt_name="none"), expected, atol=1e-3)
    with pytest.raises(ConfigError, match="prompt_name"):
        model.encode(["w1"], prompt_name="document")


def test_no_texts_give_no_rows(make_embedder: Make) -> None:
    assert make_embedder().encode([]).shape == (0, 16)


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ({"texts": "w1"}, "texts"),
        ({"texts": ["w1", 3]}, r"texts\[1\]"),
        ({"texts": ["w1"], "rho": 0.0}, "rho"),
        ({"texts": ["w1"], "rho": 1.5}, "rho"),
        ({"texts": ["w1"], "batch_size": 0}, "batch_size"),
    ],
)
def test_bad_arguments_are_named(make_embedder: Make, arguments: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        make_embedder().encode(**arguments)


def test_dense_models_refuse_a_budget(make_embedder: Make) -> None:
    model = make_embedder(Dense())
    assert model.encode(["w1"], rho=1.0).shape == (1, 16)
    with pytest.raises(ConfigError, match="removes no tokens"):
        model.encode(["w1"], rho=0.5)


def test_cls_pooling_needs_a_protected_first_token(make_embedder: Make) -> None:
    with pytest.raises(ConfigError, match="pooling"):
        make_embedder(settings=EmbeddingSettings(pooling="cls"), protect=False)


def test_threads_use_their_own_budgets(make_embedder: Make) -> None:
    model = make_embedder(Random(rho=0.5).eval())
    budgets = [0.3, 0.6, 1.0, None]
    expected = [model.encode(TEXTS, rho=rho) for rho in budgets]
    assert not torch.allclose(expected[0], expected[1], atol=1e-3)
    wrong: list[float | None] = []

    def work(index: int) -> None:
        for _ in range(10):
            if not torch.allclose(model.encode(TEXTS, rho=budgets[index]), expected[index], atol=1e-5):
                wrong.append(budgets[index])

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
