"""Test trained models in Python: the same predictions as in the test, from the run folder alone."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from retention.errors import CheckpointError, ConfigError, DataError
from retention.experiment.checkpoints import read_checkpoint
from retention.experiment.config import loaded_config
from retention.policies import retain
from retention.trained import Classifier, load


@pytest.fixture(scope="module")
def model(finished: Any) -> Classifier:
    model = load(finished.folder)
    assert isinstance(model, Classifier)
    return model


@pytest.fixture(scope="module")
def examples(finished: Any) -> list[dict[str, Any]]:
    """Return test rows with their predictions in the run."""
    examples: list[dict[str, Any]] = json.loads((finished.folder / "retention_profile.json").read_text())["examples"]
    return examples


def texts_of(examples: list[dict[str, Any]]) -> list[str]:
    return [" ".join(example["tokens"][1:-1]) for example in examples]


def test_predictions_equal_those_of_the_test(model: Classifier, examples: list[dict[str, Any]]) -> None:
    answers = model.predict(texts_of(examples), batch_size=3)
    assert [list(answer.tokens) for answer in answers] == [example["tokens"] for example in examples]
    assert [list(answer.depth) for answer in answers] == [example["depth"] for example in examples]
    predicted = [model.label_names.index(answer.labels[0]) for answer in answers]
    assert predicted == [example["prediction"] for example in examples]
    for answer in answers:
        assert sum(answer.probabilities.values()) == pytest.approx(1.0, abs=1e-5)
        assert len(answer.labels) == 1 and answer.probabilities[answer.labels[0]] == max(answer.probabilities.values())
        assert answer.keep_ratio == pytest.approx(0.25, abs=0.03), "of its tokens, mean over the gates"


def test_prediction_does_not_depend_on_the_batch(model: Classifier, examples: list[dict[str, Any]]) -> None:
    texts = texts_of(examples)
    together, alone = model.predict(texts), [model.predict([text])[0] for text in texts]
    for one, other in zip(together, alone, strict=True):
        assert (one.labels, one.depth) == (other.labels, other.depth)
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)
    assert model.predict([]) == []


def test_moved_folder_can_be_loaded(finished: Any, examples: list[dict[str, Any]], tmp_path: Path) -> None:
    shutil.copytree(finished.folder / "encoder", tmp_path / "moved" / "encoder")
    (tmp_path / "moved" / "checkpoints").mkdir()
    checkpoint = shutil.copy(finished.checkpoint, tmp_path / "moved" / "checkpoints" / "last.ckpt")
    for path in (tmp_path / "moved", Path(checkpoint)):
        [answer] = load(path).predict(texts_of(examples[:1]))
        assert list(answer.depth) == examples[0]["depth"]


def test_description_of_local_files_does_not_hinder_loading(finished: Any) -> None:
    checkpoint = finished.folder / "checkpoints" / "last.ckpt"
    content = read_checkpoint(checkpoint)
    content["hyper_parameters"]["config"]["data"] |= {"source": "our reviews", "provenance": "subset"}
    config = loaded_config(content, checkpoint)
    assert (config.data.dir, config.data.source, config.data.provenance) == (None, None, None)


def test_load_at_another_keep_ratio(finished: Any, examples: list[dict[str, Any]]) -> None:
    [answer] = load(finished.folder, rho=0.2).predict(texts_of(examples[:1]))
    assert answer.keep_ratio == pytest.approx(0.2, abs=0.03)
    with pytest.raises(ConfigError, match=r"retention.rho: .* must be in \(0, 1\], got 1.7"):
        load(finished.folder, rho=1.7)


def test_dense_model_keeps_all_tokens(dense: Any, examples: list[dict[str, Any]]) -> None:
    [answer] = load(dense.folder).predict(texts_of(examples[:1]))
    assert (answer.keep_ratio, answer.gates, set(answer.depth)) == (1.0, 0, {0})


def test_heatmap_shows_kept_tokens(
    model: Classifier, finished: Any, examples: list[dict[str, Any]], tmp_path: Path
) -> None:
    [answer] = model.save_heatmap(texts_of(examples[:1]), tmp_path / "page.html", title="My text")
    page, of_run = (tmp_path / "page.html").read_text(), (finished.folder / "kept_tokens.html").read_text()
    assert "<h1>My text</h1>" in page and f"predicted <strong>{answer.labels[0]}</strong>" in page
    shown = of_run[of_run.index('<p class="text">') : of_run.index("</section>")]
    assert shown in page, "the same tokens and colors as in the run's page"
    ratio = sum(depth > 0 for depth in answer.depth) / len(answer.depth)
    assert re.search(rf"layer 0\D* {100 * ratio:.1f} %", page)
    with pytest.raises(DataError, match="there is no text to show"):
        model.save_heatmap([], tmp_path / "none.html")
    assert not (tmp_path / "none.html").exists()


def test_encoder_and_policy_can_be_used_without_the_head(model: Classifier, examples: list[dict[str, Any]]) -> None:
    tokenizer: PreTrainedTokenizerBase = model.tokenizer
    batch = tokenizer(texts_of(examples[:1]), return_tensors="pt")
    special = [tokenizer.cls_token_id, tokenizer.sep_token_id]
    with retain(model.encoder, model.policy, protected_ids=special) as retainer, torch.no_grad():
        model.encoder(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    last = max(model.policy.layers)
    assert int(retainer.report.kept[last]) == sum(depth == len(model.policy.layers) for depth in examples[0]["depth"])


def test_invalid_input_is_refused(model: Classifier, finished: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no checkpoints/last.ckpt; pass the folder of a finished run"):
        load(tmp_path)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load(tmp_path / "last.ckpt")
    with pytest.raises(DataError, match="text 1 is empty"):
        model.predict(["a", "  "])
    assert not hasattr(model, "ask") and not hasattr(model, "summarize")
    for batch_size in (0, 1.5, True, "8"):
        with pytest.raises(ConfigError, match="batch_size: must be a whole number >= 1"):
            model.predict(["a"], batch_size=batch_size)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"texts: got a single str; pass a list of texts"):
        model.predict("a gripping film")
    with pytest.raises(ConfigError, match=r"texts\[1\]: must be a string, got NoneType"):
        model.predict(["a", None])  # type: ignore[list-item]
    with pytest.raises(DataError, match="1 passages for 2 texts"):
        model.predict(["a", "b"], passages=["c"])
