"""Test encoders of models with a decoder: tokens are removed in the encoder, the decoder reads its output."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event
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
    # outside of the block the hook has no effect
    assert (logits - library(keep[2].long())).abs().max() < 5e-6
    assert (logits - library(batch["attention_mask"])).abs().max() > 1e-3, (
        "the mask of the cross-attention has an effect"
    )


def random_states(model: Any, seed: int, rows: int = 2) -> Encoded:
    """Return states of 6 tokens with random weights, of which the last is 0."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(rows, 6, generator=generator) * torch.tensor([1.0, 1, 1, 1, 1, 0])
    states = torch.randn(rows, 6, model.config.d_model, generator=generator)
    return Encoded(states.to(model.dtype), weights, torch.arange(6).expand(rows, 6))


@torch.no_grad()
def decoder_logits(model: Any, encoded: Encoded) -> Tensor:
    decoder_ids = torch.tensor([[0, 7, 8, 9]] * len(encoded.weights))
    with weighted_cross_attention(model, encoded.weights):
        logits: Tensor = model(**decoder_inputs(encoded), decoder_input_ids=decoder_ids).logits
    return logits


def test_threads_do_not_share_the_weights_of_the_cross_attention(
    encoder_decoder: str, config: Callable[..., Any]
) -> None:
    """A whole call runs in a second thread between the start of the first call and its cross-attention."""
    from transformers import AutoModelForSeq2SeqLM

    torch.manual_seed(0)
    model: Any = AutoModelForSeq2SeqLM.from_config(config(encoder_decoder, decoder_start_token_id=0)).eval()
    one, two = random_states(model, 1), random_states(model, 2, rows=3)
    expected = [decoder_logits(model, one), decoder_logits(model, two)]
    from_other: list[Tensor] = []
    interrupted = Event()

    def interrupt(*_: Any) -> None:
        if not interrupted.is_set():
            interrupted.set()
            with ThreadPoolExecutor(1) as pool:
                from_other.append(pool.submit(decoder_logits, model, two).result())

    model.register_forward_pre_hook(interrupt)
    torch.testing.assert_close(decoder_logits(model, one), expected[0])
    torch.testing.assert_close(from_other[0], expected[1])
    assert len(model.get_decoder()._forward_pre_hooks) == 1


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_cross_attention_works_in_half_precision(
    encoder_decoder: str, dtype: torch.dtype, implementation: str, config: Callable[..., Any]
) -> None:
    from transformers import AutoModelForSeq2SeqLM

    torch.manual_seed(0)
    settings = config(encoder_decoder, decoder_start_token_id=0)
    model: Any = AutoModelForSeq2SeqLM.from_config(settings).eval()
    model.get_decoder().config._attn_implementation = implementation
    encoded = random_states(model, 1)
    expected = decoder_logits(model, encoded)
    model.to(dtype)
    encoded = random_states(model, 1)
    logits = decoder_logits(model, encoded)
    assert logits.dtype == dtype and bool(logits.isfinite().all())
    assert (logits.float() - expected).abs().max() < 0.05 * expected.abs().max()
    encoded.hidden_states[:, -1] = 50.0  # the token with weight 0
    assert torch.equal(decoder_logits(model, encoded), logits)
