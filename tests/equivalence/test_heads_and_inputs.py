"""Test models with heads, embeddings as input, missing masks, and inputs that the engine refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from retention.engine import Retainer, adapters
from retention.errors import ConfigError


def with_head(config: Any, head: str) -> nn.Module:
    import transformers

    torch.manual_seed(0)
    model: nn.Module = getattr(transformers, head).from_config(config)
    return model.eval()


def test_sequence_classification_with_removal(
    encoder_only: str,
    config: Callable[..., Any],
    make_batch: Callable[..., Any],
    policy_named: Callable[..., Any],
    attach: Callable[..., Retainer],
) -> None:
    model: Any = with_head(config(encoder_only, num_labels=3), "AutoModelForSequenceClassification")
    batch = make_batch(model.base_model)
    keys = list(model.state_dict())
    with torch.no_grad():
        dense = model(**batch).logits
        logits = {}
        for dropped in ("forward", "cut"):
            with attach(model, policy_named("truncate"), protected_ids=[3], dropped=dropped) as retainer:
                logits[dropped] = model(**batch).logits
                assert list(model.state_dict()) == keys
    assert retainer.encoder is model.base_model
    assert logits["forward"].shape == (3, 3) and not torch.allclose(logits["forward"], dense, atol=1e-3)
    torch.testing.assert_close(logits["cut"], logits["forward"])  # all of these heads read the first token


def test_classification_loss_trains_the_scorers(
    encoder_only: str,
    config: Callable[..., Any],
    make_batch: Callable[..., Any],
    policy_named: Callable[..., Any],
    attach: Callable[..., Retainer],
) -> None:
    model: Any = with_head(config(encoder_only, num_labels=3), "AutoModelForSequenceClassification")
    batch, policy = make_batch(model.base_model), policy_named("adaptive")
    with attach(model, policy, protected_ids=[3]):
        policy.train()
        model(**batch, labels=torch.tensor([0, 1, 2])).loss.backward()
    gradients = [parameter.grad for parameter in policy.scorers.parameters()]
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)
    assert sum(float(gradient.abs().sum()) for gradient in gradients if gradient is not None) > 0


@pytest.mark.parametrize("head", ["AutoModelForTokenClassification", "AutoModelForQuestionAnswering"])
def test_token_heads_keep_the_sequence_length(
    head: str,
    config: Callable[..., Any],
    make_batch: Callable[..., Any],
    policy_named: Callable[..., Any],
    attach: Callable[..., Retainer],
) -> None:
    model: Any = with_head(config("distilbert"), head)
    batch = make_batch(model.base_model)
    with torch.no_grad(), attach(model, policy_named("random")):
        output = model(**batch)
    scores = output.logits if "logits" in output else output.start_logits
    assert scores.shape[:2] == (3, 23) and torch.isfinite(scores).all()


def test_embeddings_as_input_give_the_same_result(
    encoder: Any,
    family: str,
    make_batch: Callable[..., Any],
    policy_named: Callable[..., Any],
    attach: Callable[..., Retainer],
) -> None:
    batch = make_batch(encoder, (23, 23, 23))
    embedded = encoder.get_input_embeddings()(batch["input_ids"])
    for name in ("truncate", "adaptive"):
        with torch.no_grad(), attach(encoder, policy_named(name)) as retainer:
            by_id = encoder(**batch).last_hidden_state
            kept = retainer.report.keep_indices
            by_embedding = encoder(inputs_embeds=embedded, attention_mask=batch["attention_mask"]).last_hidden_state
            assert all(torch.equal(kept[layer], retainer.report.keep_indices[layer]) for layer in kept)
        torch.testing.assert_close(by_embedding, by_id)


def test_missing_mask_and_positional_arguments_are_accepted(
    encoder: Any,
    family: str,
    make_batch: Callable[..., Any],
    policy_named: Callable[..., Any],
    attach: Callable[..., Retainer],
) -> None:
    batch = make_batch(encoder, (12, 12))
    with torch.no_grad(), attach(encoder, policy_named("random")):
        expected = encoder(**batch).last_hidden_state
        assert torch.equal(encoder(input_ids=batch["input_ids"]).last_hidden_state, expected)
        assert torch.equal(encoder(batch["input_ids"], batch["attention_mask"]).last_hidden_state, expected)


def test_four_dimensional_mask_is_refused(
    build: Callable[..., nn.Module], make_batch: Callable[..., Any], policy_named: Callable[..., Any], attach: Any
) -> None:
    encoder = build("bert")
    ids = make_batch(encoder)["input_ids"]
    with attach(encoder, policy_named("truncate")), pytest.raises(ValueError, match=r"must be \[B, T\]"):
        encoder(input_ids=ids, attention_mask=torch.ones(3, 1, 23, 23))


def test_unsupported_family_is_refused_with_the_supported_ones() -> None:
    from transformers import GPT2Config, GPT2Model

    model = GPT2Model(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=11, n_positions=8))
    with pytest.raises(ConfigError) as caught:
        Retainer(model, None, layers=[0])  # type: ignore[arg-type]
    assert "'gpt2'" in str(caught.value)
    assert all(family in str(caught.value) for family in adapters())


@pytest.mark.parametrize("layer", [4, -2, 9])
def test_layer_that_does_not_exist_is_refused(layer: int, build: Callable[..., nn.Module]) -> None:
    with pytest.raises(ConfigError) as caught:
        Retainer(build("bert"), None, layers=[0, layer])  # type: ignore[arg-type]
    assert [problem.key for problem in caught.value.problems] == ["layers"]
    assert f"layer {layer} does not exist, bert has 4 (0..3)" in str(caught.value)


def test_untested_attention_implementation_is_refused(build: Callable[..., nn.Module]) -> None:
    with pytest.raises(ConfigError, match="must be one of sdpa, eager, got 'flex_attention'") as caught:
        Retainer(build("bert", "flex_attention"), None, layers=[0])  # type: ignore[arg-type]
    assert [problem.key for problem in caught.value.problems] == ["attn_implementation"]


def test_unknown_treatment_of_dropped_tokens_is_refused(build: Callable[..., nn.Module]) -> None:
    with pytest.raises(ConfigError, match="got 'hide'") as caught:
        Retainer(build("bert"), None, layers=[0], dropped="hide")  # type: ignore[arg-type]
    assert [problem.key for problem in caught.value.problems] == ["dropped"]
