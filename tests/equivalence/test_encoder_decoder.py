"""Encoders of models with a decoder: tokens leave between the encoder's layers, the decoder reads all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from retention.engine import Retainer, encoder_of


def test_the_decoder_reads_what_the_encoder_kept(
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
    keep, asked = nested_keep(batch["attention_mask"]), torch.tensor([[0, 7, 8]] * 3)
    keys = list(model.state_dict())
    with torch.no_grad(), Retainer(model, fixed_gate(keep), layers=[0, 2]) as retainer:
        assert retainer.encoder is encoder_of(model) is encoder
        whole = model(**batch, decoder_input_ids=asked).logits
        states = encoder(**batch).last_hidden_state
        assert list(model.state_dict()) == keys
    with torch.no_grad():
        parts = model(encoder_outputs=(states,), attention_mask=batch["attention_mask"], decoder_input_ids=asked).logits
        dense = model(**batch, decoder_input_ids=asked).logits
    assert states.shape[1] == 23
    torch.testing.assert_close(whole, parts)
    assert (whole - dense).abs().max() > 1e-3
