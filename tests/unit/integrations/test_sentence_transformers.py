"""Retained models in sentence-transformers: same embeddings, round trips, rerankers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import processors
from transformers import BertForSequenceClassification, BertModel

from retention import Adaptive, Dense, Embedder, Truncate, retain
from retention.errors import CheckpointError, ConfigError
from retention.pretrained import save_retained
from retention.pretrained.sentence_files import EmbeddingSettings

library = pytest.importorskip("sentence_transformers")

from retention.integrations.sentence_transformers import RetentionTransformer, load, with_retention  # noqa: E402

TEXTS = ["w1 w2 w3", " ".join(f"w{i}" for i in range(25)), " ".join(f"w{i}" for i in range(19, 4, -1)), "w7 w9"]

Make = Callable[..., Embedder]


@pytest.fixture
def reranker(bert: BertModel, tokenizer: Any, tmp_path: Path) -> Any:
    """A CrossEncoder without removal."""
    torch.manual_seed(4)
    BertForSequenceClassification(
        type(bert.config)(**{**bert.config.to_dict(), "num_labels": 1})
    ).eval().save_pretrained(tmp_path / "plain")
    tokenizer.save_pretrained(tmp_path / "plain")
    return library.CrossEncoder(str(tmp_path / "plain"), device="cpu")


def encode(model: Any, texts: list[str] = TEXTS, **options: Any) -> torch.Tensor:
    """Encode with a model of the library."""
    return torch.tensor(model.encode(texts, batch_size=2, show_progress_bar=False, **options))


@pytest.mark.parametrize("pooling", ["mean", "cls", "depth", "survivors"])
@pytest.mark.parametrize("dropped", ["forward", "cut"])
def test_loaded_folder_gives_the_same_embeddings(
    make_embedder: Make, tmp_path: Path, pooling: str, dropped: str
) -> None:
    ours = make_embedder(settings=EmbeddingSettings(pooling=pooling, normalize=True), dropped=dropped)
    ours.save_pretrained(tmp_path / "model")
    model = load(tmp_path / "model", device="cpu")
    for rho in (None, 0.3, 1.0):
        assert torch.allclose(encode(model, rho=rho), ours.encode(TEXTS, rho=rho, batch_size=2), atol=1e-6)
    assert not torch.allclose(encode(model), encode(model, rho=1.0), atol=1e-3)


def test_keep_ratio_saved_with_a_folder_is_used(saved: Path, tmp_path: Path) -> None:
    Embedder.from_pretrained(saved, rho=0.7).save_pretrained(tmp_path / "first")
    load(tmp_path / "first", device="cpu").save(str(tmp_path / "second"))
    again = load(tmp_path / "second", device="cpu")
    assert torch.equal(encode(again), encode(again, rho=0.7))
    assert not torch.allclose(encode(again), encode(again, rho=0.4), atol=1e-3)


def test_dense_folder_is_a_plain_model_of_the_library(make_embedder: Make, tmp_path: Path) -> None:
    ours = make_embedder(Dense())
    ours.save_pretrained(tmp_path / "model")
    model = library.SentenceTransformer(str(tmp_path / "model"), device="cpu")  # needs neither flag nor this package
    assert torch.allclose(encode(model), ours.encode(TEXTS, batch_size=2), atol=1e-6)


def test_library_asks_for_trust_and_our_loader_does_not(saved: Path) -> None:
    with pytest.raises(ValueError, match="trust_remote_code"):
        library.SentenceTransformer(str(saved), device="cpu")
    trusted = library.SentenceTransformer(str(saved), device="cpu", trust_remote_code=True)
    assert torch.equal(encode(trusted), encode(load(saved, device="cpu")))


def test_our_loader_builds_no_other_class(saved: Path) -> None:
    path = saved / "modules.json"
    modules = json.loads(path.read_text())
    modules[1]["type"] = "retention.pretrained.embedder.Embedder"
    path.write_text(json.dumps(modules))
    with pytest.raises(ValueError, match="trust_remote_code"):
        load(saved, device="cpu")


def test_round_trip_of_the_library_is_bit_identical(make_embedder: Make, tmp_path: Path) -> None:
    settings = EmbeddingSettings(
        normalize=True, prompts={"query": "w30 "}, default_prompt_name="query", pooling="depth"
    )
    make_embedder(settings=settings).save_pretrained(tmp_path / "first")
    model = load(tmp_path / "first", device="cpu")
    model.save(str(tmp_path / "second"))
    again, ours = load(tmp_path / "second", device="cpu"), Embedder.from_pretrained(tmp_path / "second")
    assert torch.equal(encode(again), encode(model))
    assert again.prompts["query"] == "w30 " and again.default_prompt_name == "query"
    assert ours.settings.normalize and ours.settings.pooling == "depth" and ours.settings.prompts["query"] == "w30 "
    assert torch.allclose(ours.encode(TEXTS, batch_size=2), encode(model), atol=1e-6)
    assert torch.allclose(encode(model).norm(dim=1), torch.ones(len(TEXTS)), atol=1e-5)
    assert not torch.allclose(encode(model, prompt=""), encode(model), atol=1e-3)  # the default prompt was used


def test_policy_can_be_added_to_a_loaded_model(make_embedder: Make, tmp_path: Path) -> None:
    make_embedder(Dense()).save_pretrained(tmp_path / "model")
    plain = library.SentenceTransformer(str(tmp_path / "model"), device="cpu")
    before, first = encode(plain), plain[0]
    model = with_retention(plain, Truncate(rho=0.5, schedule="flat").eval(), pooling="survivors", dropped="cut")
    assert torch.allclose(encode(model, rho=1.0), before, atol=1e-6)
    assert not torch.allclose(encode(model), before, atol=1e-3)
    model.preprocess(TEXTS)
    assert model[0].retainer.report.kept[2].tolist() == [2, 2]  # the last batch: texts of 5 and 4 tokens
    assert isinstance(model[0], RetentionTransformer) and not hasattr(first, "policy")


@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize(
    ("dropped", "pooling"), [("cut", None), ("cut", "depth"), ("forward", "depth"), ("forward", "survivors")]
)
def test_pooling_without_the_prompt_equals_the_dense_model(
    make_embedder: Make, tmp_path: Path, dropped: str, pooling: str | None, padding: str
) -> None:
    make_embedder(Dense(), EmbeddingSettings(normalize=False)).save_pretrained(tmp_path / "dense")
    plain = library.SentenceTransformer(str(tmp_path / "dense"), device="cpu")
    plain.set_pooling_include_prompt(False)
    plain.tokenizer.padding_side = padding
    expected = encode(plain, prompt="w30 w31 ")
    model = with_retention(plain, Truncate(rho=0.5, schedule="flat").eval(), pooling=pooling, dropped=dropped)
    assert torch.allclose(encode(model, prompt="w30 w31 ", rho=1.0), expected, atol=1e-6)
    assert not torch.allclose(encode(model, prompt="w30 w31 ", rho=0.5), expected, atol=1e-3)
    model.save(str(tmp_path / "model"))
    trusted = library.SentenceTransformer(str(tmp_path / "model"), device="cpu", trust_remote_code=True)
    for again in (load(tmp_path / "model", device="cpu"), trusted):
        again.tokenizer.padding_side = padding
        assert torch.allclose(encode(again, prompt="w30 w31 ", rho=1.0), expected, atol=1e-6)
    model.set_pooling_include_prompt(True)
    assert not torch.allclose(encode(model, prompt="w30 w31 ", rho=1.0), expected, atol=1e-3)


def test_text_of_which_only_the_prompt_is_kept_is_read_by_its_prompt(make_embedder: Make, tmp_path: Path) -> None:
    make_embedder(Dense(), EmbeddingSettings(normalize=False)).save_pretrained(tmp_path / "dense")
    plain = library.SentenceTransformer(str(tmp_path / "dense"), device="cpu")
    plain.set_pooling_include_prompt(False)
    policy = Truncate(rho=0.05, schedule="flat").eval()
    model = with_retention(plain, policy, dropped="cut", protected_ids=[])
    assert bool((encode(model, prompt="w30 w31 ").norm(dim=1) > 0.1).all())


def test_features_of_the_caller_stay_as_they_are(saved: Path) -> None:
    model = load(saved, device="cpu")
    features = model.preprocess(TEXTS, prompt="w30 ")
    before = {**features}
    model(features)
    assert features.keys() == before.keys() and all(features[key] is before[key] for key in before)


def test_models_without_a_transformer_are_refused(make_embedder: Make, tmp_path: Path) -> None:
    make_embedder(settings=EmbeddingSettings(pooling="cls")).save_pretrained(tmp_path / "model")
    model = load(tmp_path / "model", device="cpu")
    with pytest.raises(ConfigError, match="pools by cls"):
        with_retention(model, Truncate(rho=0.5).eval(), pooling="depth")
    model[0] = torch.nn.Identity()
    with pytest.raises(ConfigError, match="must be a Transformer"):
        with_retention(model, Truncate(rho=0.5).eval())


def test_reranker_round_trip(reranker: Any, tmp_path: Path) -> None:
    pairs = [("w1 w2", text) for text in TEXTS]
    dense = reranker.predict(pairs)
    torch.manual_seed(5)
    model = with_retention(reranker, Adaptive(rho=0.4).eval())
    assert torch.allclose(torch.tensor(model.predict(pairs, rho=1.0)), torch.tensor(dense), atol=1e-6)
    scores = model.predict(pairs, rho=0.3)
    assert not torch.allclose(torch.tensor(scores), torch.tensor(dense), atol=1e-4)
    model.save(str(tmp_path / "model"))
    loaded = load(tmp_path / "model", device="cpu")
    assert isinstance(loaded, library.CrossEncoder)
    assert (loaded.predict(pairs, rho=0.3) == scores).all()


@pytest.mark.parametrize(("protect", "expected"), [(True, 6), (False, 3)])
def test_query_of_a_reranker_can_be_protected(reranker: Any, tmp_path: Path, protect: bool, expected: int) -> None:
    policy = Truncate(rho=0.05, schedule="flat").eval()
    model = with_retention(reranker, policy, protect_query=protect)
    model.save(str(tmp_path / "model"))
    loaded = load(tmp_path / "model", device="cpu")
    loaded.predict([("w1 w2 w3", "w20 w21 w22 w23 w24 w25")])
    kept = loaded[0].retainer.report.keep_indices[0][0].tolist()
    assert len(kept) == expected
    assert kept == ([0, 1, 2, 3, 4, 11] if protect else [0, 4, 11])


@pytest.mark.parametrize("protect", [True, False])
def test_classifier_of_save_retained_becomes_a_reranker(
    reranker: Any, tokenizer: Any, tmp_path: Path, protect: bool
) -> None:
    pairs = [("w1 w2", text) for text in TEXTS]
    torch.manual_seed(5)
    policy = Adaptive(rho=0.3).eval()
    ids = tokenizer.all_special_ids
    retainer = retain(reranker[0].model, policy, protected_ids=ids, prune_at="after_attention", protect_query=protect)
    save_retained(tmp_path / "model", reranker[0].model, retainer, tokenizer)
    expected = with_retention(reranker, policy, prune_at="after_attention", protected_ids=ids, protect_query=protect)
    loaded = load(tmp_path / "model", device="cpu")
    assert isinstance(loaded, library.CrossEncoder)
    assert (loaded.predict(pairs) == expected.predict(pairs)).all()
    assert not (loaded.predict(pairs) == loaded.predict(pairs, rho=1.0)).all()
    loaded.save(str(tmp_path / "again"))
    assert (load(tmp_path / "again", device="cpu").predict(pairs) == loaded.predict(pairs)).all()


def test_folders_of_other_models_are_no_rerankers(bert: BertModel, tokenizer: Any, tmp_path: Path) -> None:
    bert.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"neither a folder of sentence-transformers nor .*class BertModel"):
        load(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": ["BertForSequenceClassification"]}))
    with pytest.raises(CheckpointError, match=r"lacks \d weights of the model"):
        load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load(tmp_path)


def test_query_is_protected_without_protected_ids(reranker: Any) -> None:
    policy = Truncate(rho=0.05, schedule="flat").eval()
    model = with_retention(reranker, policy, protect_query=True, protected_ids=[])
    model.predict([("w1 w2 w3", "w20 w21 w22 w23 w24 w25")])
    assert model[0].retainer.report.keep_indices[0][0].tolist() == [0, 1, 2, 3]


def test_protected_query_needs_a_separator(reranker: Any) -> None:
    reranker.tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A", pair="[CLS] $A $B", special_tokens=[("[CLS]", 2)]
    )
    with pytest.raises(ConfigError, match="puts a special token between the texts of a pair"):
        with_retention(reranker, Truncate(rho=0.3).eval(), protect_query=True)


def test_query_of_a_left_padded_pair_is_protected(reranker: Any) -> None:
    model = with_retention(reranker, Truncate(rho=0.05, schedule="flat").eval(), protect_query=True)
    model.tokenizer.padding_side = "left"
    model.predict([("w1 w2 w3", "w20 w21"), ("w1 w2", " ".join(f"w{index}" for index in range(20, 30)))])
    report = model[0].retainer.report
    kept = {int(length): row.tolist() for length, row in zip(report.lengths, report.keep_indices[0], strict=True)}
    assert kept[8] == [7, 8, 9, 10, 11, 14]  # after seven columns of padding: [CLS], three words and both [SEP]


def test_scorers_train_through_the_module(saved: Path) -> None:
    model = load(saved, device="cpu")
    policy = model[0].policy
    policy.train()
    policy.phase = "soft"
    features = model.preprocess(TEXTS[1:3])
    model(features)["sentence_embedding"].square().sum().backward()
    gradients = [each.grad for each in policy.scorers.parameters() if each.grad is not None]
    assert gradients and any(bool(each.abs().sum() > 0) for each in gradients)


def test_pooling_of_another_kind_than_the_model_is_refused(saved: Path) -> None:
    plain = library.SentenceTransformer(str(saved), device="cpu", trust_remote_code=True)
    with pytest.raises(ConfigError, match="pooling: cls needs a model that pools by cls, this one pools by mean"):
        with_retention(plain, Truncate(rho=0.3).eval(), pooling="cls")
