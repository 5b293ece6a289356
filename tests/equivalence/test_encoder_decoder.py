"""Test encoders of models with a decoder: tokens are removed in the encoder, the decoder reads its output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from retention.engine import Retainer, encoder_of
from retention.models.encoded import Encoded
from retention.tasks.summarization.abstractive_head import decoder_inputs, weighted_cross_attention


def test_decoder_reads_the_restored_encoder_output(
    encoder_decoder: str,
    config: Callable[..., Any],
    make_batch: Callable[..., Any],
    nested_keep: Callable[..., Any],
    fixed_gate: Callable[..., Any],
) -> None:
    from transformers import AutoModelForSeq2SeqLM

    torch.manual_seed(0)
    model: Any = AutoModelForSeq2SeqLM.from_config(config(encoder_decoder, decoder_start_token_id=0)).eval()
    encoder = model.get_encoder()
    batch = make_batch(encoder)
    keep, decoder_ids = nested_keep(batch["attention_mask"]), torch.tensor([[0, 7, 8]] * 3)
    keys = list(model.state_dict())
    with torch.no_grad(), Retainer(model, fixed_gate(keep), layers=[0, 2]) as retainer:
        assert retainer.encoder is encoder_of(model) is encoder
        whole = model(**batch, decoder_input_ids=decoder_ids).logits
        states = encoder(**batch).last_hidden_state
        assert list(model.state_dict()) == keys
    with torch.no_grad():
        parts = model(
            encoder_outputs=(states,), attention_mask=batch["attention_mask"], decoder_input_ids=decoder_ids
        ).logits
        dense = model(**batch, decoder_input_ids=decoder_ids).logits
    assert states.shape[1] == 23
    torch.testing.assert_close(whole, parts)
    assert (whole - dense).abs().max() > 1e-3


@pytest.mark.parametrize("soft", [False, True], ids=["removed", "closed_gates"])
@pytest.mark.parametrize("dropped", ["cut", "forward"])
def test_cross_attention_ignores_removed_tokens(
    encoder_decoder: str,
    dropped: str,
    soft: bool,
    config: Callable[..., Any],
    make_batch: Callable[..., Any],
    nested_keep: Callable[..., Any],
    masked_states: Callable[..., Tensor],
    fixed_gate: Callable[..., Any],
) -> None:
    """Cross-attention to kept states equals the library at full length with removed tokens masked everywhere."""
    from transformers import AutoModelForSeq2SeqLM

    torch.manual_seed(0)
    model: Any = AutoModelForSeq2SeqLM.from_config(config(encoder_decoder, decoder_start_token_id=0)).eval()
    encoder, decoder_ids = model.get_encoder(), torch.tensor([[0, 7, 8, 9]] * 3)
    batch = make_batch(encoder)
    keep = nested_keep(batch["attention_mask"])

    def library(mask: Tensor) -> Tensor:
        outputs = BaseModelOutput(last_hidden_state=masked_states(encoder, batch, keep))
        with torch.no_grad():
            logits: Tensor = model(encoder_outputs=outputs, attention_mask=mask, decoder_input_ids=decoder_ids).logits
        return logits

    with torch.no_grad(), Retainer(model, fixed_gate(keep, soft=soft), layers=[0, 2], dropped=dropped) as retainer:
        states = encoder(**batch).last_hidden_state
        weights, positions = retainer.state.weights, retainer.state.positions
        if dropped == "forward":  # restored states are not attended to in this comparison
            weights, positions = keep[2].float(), torch.arange(states.shape[1]).expand_as(keep[2])
        encoded = Encoded(states, weights, positions)
        with weighted_cross_attention(model, encoded.weights):
            logits = model(**decoder_inputs(encoded), decoder_input_ids=decoder_ids).logits
    shortened = dropped == "cut" and not soft
    assert states.shape[1] == (int(keep[2].sum(1).max()) if shortened else 23)
    assert (logits - library(keep[2].long())).abs().max() < 5e-6
    assert (logits - library(batch["attention_mask"])).abs().max() > 1e-3, (
        "the mask of the cross-attention has an effect"
    )
    assert not model.get_decoder()._forward_pre_hooks
