"""Test model configurations in which removal would not equal masking, and heads that need the full length."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.equivalence.conftest import TINY
from torch import Tensor

from retention.engine import adapters
from retention.errors import ConfigError
from retention.policies import Truncate, retain


def test_decoder_is_refused(tiny: Callable[..., Any]) -> None:
    """Its tokens would see later ones once a mask is rebuilt."""
    model = tiny("BertLMHeadModel", is_decoder=True, use_cache=False)
    with pytest.raises(ConfigError, match="is_decoder: must be false"):
        retain(model, Truncate(rho=0.5))


@pytest.mark.parametrize("field", ["is_decoder", "is_causal", "chunk_size_feed_forward"])
@pytest.mark.parametrize("family", sorted(adapters()))
def test_every_family_refuses_causal_and_chunked_layers(family: str, field: str) -> None:
    from transformers import AutoConfig

    config = AutoConfig.for_model(family, **TINY[family])
    adapters()[family].check(config)
    setattr(config, field, 3 if field.startswith("chunk") else True)
    with pytest.raises(ConfigError) as caught:
        adapters()[family].check(config)
    assert [problem.key for problem in caught.value.problems] == [f"model.config.{field}"]


def test_causal_call_is_refused(tiny: Callable[..., Any], ids: Tensor) -> None:
    model = tiny()
    with retain(model, Truncate(rho=0.5).eval()), pytest.raises(ValueError, match="is_causal=True"):
        model(input_ids=ids, is_causal=True)


@pytest.mark.parametrize(
    "class_name",
    ["BertForQuestionAnswering", "BertForTokenClassification", "BertForMaskedLM", "BertForPreTraining"],
)
def test_cut_is_refused_with_heads_that_answer_by_position(class_name: str, tiny: Callable[..., Any]) -> None:
    model = tiny(class_name)
    with pytest.raises(ConfigError, match="use dropped='forward'"):
        retain(model, Truncate(rho=0.3), dropped="cut")
    retain(model, Truncate(rho=0.3), dropped="forward")


def test_subclass_of_such_a_head_is_refused_too(tiny: Callable[..., Any]) -> None:
    model = tiny("BertForQuestionAnswering")
    model.__class__ = type("Reader", (type(model),), {})
    with pytest.raises(ConfigError, match="shorten the output of Reader"):
        retain(model, Truncate(rho=0.3), dropped="cut")


def test_cut_is_refused_with_a_head_that_reads_the_whole_mask() -> None:
    from transformers import AutoConfig, ModernBertForSequenceClassification

    config = AutoConfig.for_model("modernbert", **TINY["modernbert"], classifier_pooling="mean")
    model = ModernBertForSequenceClassification._from_config(config, attn_implementation="eager").eval()
    with pytest.raises(ConfigError, match="reads the attention mask of the whole input; use dropped='forward'"):
        retain(model, Truncate(rho=0.3), dropped="cut")
    retain(model, Truncate(rho=0.3), dropped="forward")


def test_cut_serves_heads_that_read_the_first_token(tiny: Callable[..., Any], ids: Tensor) -> None:
    model = tiny("BertForSequenceClassification")
    logits = []
    for dropped in ("cut", "forward"):
        with retain(model, Truncate(rho=0.3).eval(), dropped=dropped, protected_ids=[1]), torch.no_grad():
            logits.append(model(input_ids=ids).logits)
    torch.testing.assert_close(*logits)


def test_question_answering_with_forward_gives_positions_of_the_input(tiny: Callable[..., Any], ids: Tensor) -> None:
    model = tiny("BertForQuestionAnswering")
    with retain(model, Truncate(rho=0.3).eval()), torch.no_grad():
        output = model(input_ids=ids, start_positions=torch.tensor([7, 8]), end_positions=torch.tensor([9, 9]))
    assert torch.isfinite(output.loss) and output.start_logits.shape == (2, 20)


def test_family_without_an_adapter_is_refused() -> None:
    from transformers import GPT2Config, GPT2Model

    with pytest.raises(ConfigError, match="model: no adapter for the family 'gpt2'; supported: bert, "):
        retain(GPT2Model(GPT2Config(n_embd=8, n_layer=1, n_head=2)), Truncate(rho=0.5))
