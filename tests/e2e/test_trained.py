"""A finished run used from Python: the same answers as its test, from its folder alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from retention.errors import CheckpointError, ConfigError, DataError
from retention.policies import retain
from retention.trained import Trained, load


@pytest.fixture(scope="module")
def model(finished: Any) -> Trained:
    return load(finished.folder)


@pytest.fixture(scope="module")
def examples(finished: Any) -> list[dict[str, Any]]:
    """Test rows and what the run made of them."""
    found: list[dict[str, Any]] = json.loads((finished.folder / "retention_profile.json").read_text())["examples"]
    return found


def texts_of(examples: list[dict[str, Any]]) -> list[str]:
    return [" ".join(example["tokens"][1:-1]) for example in examples]


def test_it_says_what_the_test_said(model: Trained, examples: list[dict[str, Any]]) -> None:
    answers = model.predict(texts_of(examples), batch_size=3)
    assert [list(answer.tokens) for answer in answers] == [example["tokens"] for example in examples]
    assert [list(answer.depth) for answer in answers] == [example["depth"] for example in examples]
    said = [model.label_names.index(answer.labels[0]) for answer in answers]
    assert said == [example["prediction"] for example in examples]
    for answer in answers:
        assert sum(answer.probabilities.values()) == pytest.approx(1.0, abs=1e-5)
        assert len(answer.labels) == 1 and answer.probabilities[answer.labels[0]] == max(answer.probabilities.values())
        assert answer.keep_ratio == pytest.approx(0.25, abs=0.03), "of its tokens, mean over the gates"


def test_a_text_is_answered_alike_alone_and_in_any_company(model: Trained, examples: list[dict[str, Any]]) -> None:
    texts = texts_of(examples)
    together, alone = model.predict(texts), [model.predict([text])[0] for text in texts]
    for one, other in zip(together, alone, strict=True):
        assert (one.labels, one.depth) == (other.labels, other.depth)
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)
    assert model.predict([]) == []


def test_a_moved_folder_is_all_it_takes(finished: Any, examples: list[dict[str, Any]], tmp_path: Path) -> None:
    shutil.copytree(finished.folder / "encoder", tmp_path / "moved" / "encoder")
    (tmp_path / "moved" / "checkpoints").mkdir()
    checkpoint = shutil.copy(finished.checkpoint, tmp_path / "moved" / "checkpoints" / "last.ckpt")
    for path in (tmp_path / "moved", Path(checkpoint)):
        [answer] = load(path).predict(texts_of(examples[:1]))
        assert list(answer.depth) == examples[0]["depth"]


def test_another_budget(finished: Any, examples: list[dict[str, Any]]) -> None:
    [answer] = load(finished.folder, rho=0.2).predict(texts_of(examples[:1]))
    assert answer.keep_ratio == pytest.approx(0.2, abs=0.03)
    with pytest.raises(ConfigError, match=r"retention.rho: .* must be in \(0, 1\], got 1.7"):
        load(finished.folder, rho=1.7)


def test_a_dense_model_keeps_everything(dense: Any, examples: list[dict[str, Any]]) -> None:
    [answer] = load(dense.folder).predict(texts_of(examples[:1]))
    assert (answer.keep_ratio, answer.gates, set(answer.depth)) == (1.0, 0, {0})


def test_a_page_shows_what_was_kept_of_texts(
    model: Trained, finished: Any, examples: list[dict[str, Any]], tmp_path: Path
) -> None:
    [answer] = model.show(texts_of(examples[:1]), tmp_path / "page.html", title="My text")
    page, own = (tmp_path / "page.html").read_text(), (finished.folder / "kept_tokens.html").read_text()
    assert "<h1>My text</h1>" in page and f"predicted <strong>{answer.labels[0]}</strong>" in page
    shown = own[own.index('<p class="text">') : own.index("</section>")]
    assert shown in page, "the same tokens in the same ink as in the run's own page"
    share = sum(depth > 0 for depth in answer.depth) / len(answer.depth)
    assert f"Kept share: layer 0 {100 * share:.1f} %" in page
    with pytest.raises(DataError, match="there is no text to show"):
        model.show([], tmp_path / "none.html")
    assert not (tmp_path / "none.html").exists()


def test_encoder_and_policy_serve_a_loop_of_ones_own(model: Trained, examples: list[dict[str, Any]]) -> None:
    tokenizer: PreTrainedTokenizerBase = model.tokenizer
    batch = tokenizer(texts_of(examples[:1]), return_tensors="pt")
    special = [tokenizer.cls_token_id, tokenizer.sep_token_id]
    with retain(model.encoder, model.policy, protected_ids=special) as retainer, torch.no_grad():
        model.encoder(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    last = max(model.policy.layers)
    assert int(retainer.report.kept[last]) == sum(depth == len(model.policy.layers) for depth in examples[0]["depth"])


def test_what_cannot_be_used_is_named(model: Trained, finished: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no checkpoints/last.ckpt; pass the folder of a finished run"):
        load(tmp_path)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load(tmp_path / "last.ckpt")
    content = torch.load(finished.checkpoint, weights_only=True)
    del content["hyper_parameters"]["config"]["prune_at"]
    torch.save(content, tmp_path / "old.ckpt")
    with pytest.raises(CheckpointError, match=r"made by an earlier version \(its configuration lacks prune_at\)"):
        load(tmp_path / "old.ckpt")
    with pytest.raises(DataError, match="text 1 is empty"):
        model.predict(["a", "  "])
    with pytest.raises(ConfigError, match=r"ask: .* its head is a ClassificationHead; use predict"):
        model.ask(["what"], "a")
    with pytest.raises(ConfigError, match="batch_size: must be >= 1, got 0"):
        model.predict(["a"], batch_size=0)
    with pytest.raises(DataError, match="1 passages for 2 texts"):
        model.predict(["a", "b"], passages=["c"])
