"""Test classifiers that were taken apart: their head on given states answers as the whole model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from retention import Truncate, retain
from retention.engine import adapter_for
from retention.errors import ConfigError
from retention.models.pretrained_classifier import check_classifier, take_encoder, with_encoder
from retention.models.retention_model import RetentionModel
from retention.tasks.classifier_distillation.head import PretrainedClassifierHead

Config = Callable[..., Any]


def classifier(family: str, config: Config, **changes: Any) -> Any:
    """Return a classifier of three classes with random weights, in evaluation mode."""
    torch.manual_seed(0)
    loader: Any = AutoModelForSequenceClassification
    return loader.from_config(config(family, num_labels=3, **changes)).eval()


def batch() -> dict[str, Any]:
    """Return two rows, the second with padding; their ends are protected."""
    torch.manual_seed(1)
    input_ids = torch.randint(10, 90, (2, 24))
    mask = torch.ones_like(input_ids)
    mask[1, 17:] = 0
    protected = torch.zeros_like(mask, dtype=torch.bool)
    protected[:, 0] = True
    return {"input_ids": input_ids, "attention_mask": mask, "protected_mask": protected, "index": torch.arange(2)}


def truncation(encoder: Any, rho: float = 0.4) -> Truncate:
    """Return a policy that keeps the first tokens after layers 0 and 2, built for the encoder."""
    policy = Truncate(rho=rho, layers=[0, 2]).eval()
    policy.build(adapter_for(encoder.config.model_type).shape(encoder.config))
    return policy


def test_head_answers_as_the_whole_classifier(encoder_only: str, config: Config) -> None:
    model, rows = classifier(encoder_only, config), batch()
    inputs = {"input_ids": rows["input_ids"], "attention_mask": rows["attention_mask"]}
    with torch.no_grad():
        expected = copy.deepcopy(model)(**inputs).logits
        encoder = model.base_model
        head = PretrainedClassifierHead(encoder=model)
        answered = RetentionModel(encoder, truncation(encoder, rho=1.0), head).eval()(rows)
    torch.testing.assert_close(answered, expected, rtol=1e-5, atol=1e-5)


def test_removal_is_that_of_the_whole_classifier(encoder_only: str, config: Config) -> None:
    model, rows = classifier(encoder_only, config), batch()
    whole, encoder = copy.deepcopy(model), model.base_model
    head = PretrainedClassifierHead(encoder=model)
    policy = truncation(encoder)
    with torch.no_grad(), retain(whole, copy.deepcopy(policy)) as retainer, retainer.protect(rows["protected_mask"]):
        expected = whole(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"]).logits
        kept = retainer.report.kept
    with torch.no_grad():
        pruned = RetentionModel(encoder, policy, head).eval()
        answered = pruned(rows)
    assert any(bool((count < rows["attention_mask"].sum(1)).any()) for count in kept.values())
    torch.testing.assert_close(answered, expected, rtol=1e-5, atol=1e-5)
    assert len({id(each) for each in pruned.parameters()}) == len(list(pruned.parameters()))


def test_parts_put_together_are_saved_whole(encoder_only: str, config: Config, tmp_path: Path) -> None:
    model, rows = classifier(encoder_only, config), batch()
    inputs = {"input_ids": rows["input_ids"], "attention_mask": rows["attention_mask"]}
    with torch.no_grad():
        expected = copy.deepcopy(model)(**inputs).logits
    encoder = take_encoder(model)
    with_encoder(model, encoder).save_pretrained(tmp_path)
    loader: Any = AutoModelForSequenceClassification
    loaded, report = loader.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    with torch.no_grad():
        torch.testing.assert_close(loaded.eval()(**inputs).logits, expected)


def test_classifiers_with_a_decoder_are_refused(encoder_decoder: str, config: Config) -> None:
    settings = config(encoder_decoder, architectures=["SomeForSequenceClassification"], decoder_start_token_id=0)
    with pytest.raises(ConfigError, match="classifies by its decoder"):
        check_classifier(settings, encoder_decoder)
