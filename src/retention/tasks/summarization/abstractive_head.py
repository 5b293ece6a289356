"""Provide the head for abstractive summarization: a decoder generates the summary from the encoder's kept states."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GenerationConfig
from transformers.modeling_outputs import BaseModelOutput

from retention.core.thread_override import ThreadOverride
from retention.engine import encoder_of
from retention.errors import require
from retention.models.encoded import Batch, Encoded
from retention.models.head import Columns, Head
from retention.models.soft_targets import soft_target_losses
from retention.tasks.summarization.metrics import ROUGE_TYPES, Rouge, rouge_scores

DecodeFn = Callable[[Sequence[Sequence[int]]], list[str]]

_IGNORED = -100  # the label of padding
_MIN_WEIGHT = 1e-30  # its logarithm leaves no attention, and is finite
_registration = threading.Lock()
_bias = ThreadOverride()  # [B, M], of the block of ``weighted_cross_attention`` in which the thread is


class AbstractiveSummarizationHead(Head):
    """Decoder of an encoder-decoder: trained on the abstract with teacher forcing, evaluated on generated text.

    The decoder's cross-attention reads what the encoder returns: with ``dropped=cut`` the kept states alone, so that
    decoding gets cheaper as well; with ``dropped=forward`` all states, dropped tokens with their last state. Gates
    enter the cross-attention as log z on the logits of the token as a key, as in the encoder's later layers, so that
    removed tokens and tokens that are masked everywhere give the same summary.

    Metrics are ROUGE-1/2/Lsum of the generated summary and ``token_loss``, the cross-entropy of the abstract's tokens
    in nats with teacher forcing. The FLOPs ratio in records is the encoder's.

    Args:
        encoder: a Hugging Face model with encoder, decoder and language model head, such as
            ``LEDForConditionalGeneration``; its encoder is taken out and its other parts become this head.
        decode_fn: turns token ids into text, one sentence per line.
        max_summary_length: maximum number of generated tokens, special tokens included.
        beams: hypotheses of beam search, >= 1; 1 = greedy.
        no_repeat: n >= 0; no n tokens in a row are generated twice; 0 = no such rule.
        length_penalty: exponent of the length by which the scores of hypotheses are divided; above 1 prefers long ones.

    Raises:
        ConfigError: a setting is out of range, or the decoder has too few positions.
    """

    fixed_width: ClassVar[bool] = False
    metric_names: ClassVar[tuple[str, ...]] = ROUGE_TYPES
    loads: ClassVar[str] = "encoder_decoder"

    @staticmethod
    def check_settings(*, beams: int = 1, no_repeat: int = 3, length_penalty: float = 1.0) -> None:
        """Raise ``ConfigError`` if a setting is out of range."""
        require(beams >= 1, "beams", f"must be at least 1, got {beams}")
        require(no_repeat >= 0, "no_repeat", f"must be at least 0 (0 = no rule), got {no_repeat}")
        message = f"is the exponent of beam search, got {length_penalty} with beams=1; raise beams or leave it at 1"
        require(beams > 1 or length_penalty == 1.0, "length_penalty", message)

    def __init__(
        self,
        *,
        encoder: nn.Module,
        decode_fn: DecodeFn,
        max_summary_length: int,
        beams: int = 1,
        no_repeat: int = 3,
        length_penalty: float = 1.0,
    ) -> None:
        self.check_settings(beams=beams, no_repeat=no_repeat, length_penalty=length_penalty)
        encoder_decoder: Any = encoder
        _check_summary_length(encoder_decoder.config, max_summary_length)
        super().__init__()
        take_encoder(encoder_decoder)
        self.decoder = encoder_decoder
        self.generation = GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=max_summary_length,
            min_new_tokens=2,  # the first special token and one more
            num_beams=beams,
            no_repeat_ngram_size=no_repeat,
            length_penalty=length_penalty,
            do_sample=False,
            pad_token_id=encoder_decoder.config.pad_token_id,
            bos_token_id=getattr(encoder_decoder.config, "bos_token_id", None),
            eos_token_id=encoder_decoder.config.eos_token_id,
            decoder_start_token_id=encoder_decoder.config.decoder_start_token_id,
        )
        self.rouge = Rouge()
        self._decode_fn = decode_fn

    def logits(self, encoded: Encoded, batch: Batch) -> Tensor:
        """Compute the logits of each token of the abstract given the true tokens before it, [B, L, V]."""
        decoder_input_ids = self.decoder.prepare_decoder_input_ids_from_labels(labels=batch["labels"])
        with weighted_cross_attention(self.decoder, encoded.weights):
            output = self.decoder(**decoder_inputs(encoded), decoder_input_ids=decoder_input_ids, use_cache=False)
        logits: Tensor = output.logits
        return logits

    def task_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Compute the cross-entropy, mean over the tokens of the batch."""
        return F.cross_entropy(logits.float().flatten(0, 1), batch["labels"].flatten(), ignore_index=_IGNORED)

    def distillation_loss(self, logits: Tensor, teacher_logits: Tensor, batch: Batch, temperature: float) -> Tensor:
        """Compute the soft-target loss, mean over the tokens of the batch."""
        losses = soft_target_losses(logits, teacher_logits, temperature)
        return losses[batch["labels"] != _IGNORED].mean()

    def confidence(self, logits: Tensor, batch: Batch) -> Tensor:
        """Compute the log-probability of the most likely token at each position of the abstract, summed."""
        best = F.log_softmax(logits.float(), -1).amax(-1)
        return best.masked_fill(batch["labels"] == _IGNORED, 0.0).sum()

    def generate(self, encoded: Encoded) -> list[list[int]]:
        """Generate the token ids of the summaries, special tokens included."""
        with weighted_cross_attention(self.decoder, encoded.weights):
            tokens: Tensor = self.decoder.generate(**decoder_inputs(encoded), generation_config=self.generation)
        return cast("list[list[int]]", tokens.tolist())

    def eval_rows(self, logits: Tensor, encoded: Encoded, batch: Batch) -> Columns:
        """Return the generated summary, the abstract, and the summed loss of the abstract's tokens of each article."""
        losses = F.cross_entropy(
            logits.float().transpose(1, 2), batch["labels"], ignore_index=_IGNORED, reduction="none"
        )
        return {
            "index": batch["index"].tolist(),
            "summary": self._decode_fn(self.generate(encoded)),
            "abstract": batch["abstract"],
            "loss": losses.sum(1).tolist(),
            "tokens": (batch["labels"] != _IGNORED).sum(1).tolist(),
        }

    def compute_metrics(self, rows: Columns, stage: str = "test") -> dict[str, float]:
        """Compute ROUGE-1, ROUGE-2 and ROUGE-Lsum of the summaries, and the token loss."""
        scores: dict[str, float] = self.rouge.compute(predictions=rows["summary"], references=rows["abstract"])
        return scores | {"token_loss": sum(rows["loss"]) / sum(rows["tokens"])}

    def prediction_rows(self, rows: Columns) -> list[dict[str, Any]]:
        """Return ``index``, the generated ``summary`` and its ROUGE-1 as ``score``, of each article."""
        scores = rouge_scores(rows["summary"], rows["abstract"], ("rouge1",))
        summaries = super().prediction_rows({name: rows[name] for name in ("index", "summary")})
        return [{**row, "score": score["rouge1"]} for row, score in zip(summaries, scores, strict=True)]


def _check_summary_length(config: Any, max_summary_length: int) -> None:
    """Raise ``ConfigError`` if the decoder has learned positions, but too few of them."""
    positions = getattr(config, "max_decoder_position_embeddings", None)
    message = f"the decoder has {positions} positions, the start token included, got {max_summary_length}; lower it"
    require(positions is None or max_summary_length < positions, "task.data.max_summary_length", message)


class RemovedEncoder(nn.Module):
    """Placeholder for the encoder that was taken out of an encoder-decoder, which then reads states, never tokens."""

    main_input_name = "input_ids"

    def forward(self, *args: Any, **kwargs: Any) -> None:
        """Raise ``RuntimeError``: the model must be called with ``encoder_outputs``."""
        raise RuntimeError("the encoder has been taken out of this model; pass encoder_outputs")


def take_encoder(model: nn.Module) -> nn.Module:
    """Take the encoder out of an encoder-decoder and return it, so that its weights are registered only once."""
    encoder = encoder_of(model)
    for parent in model.modules():
        for name, child in list(parent.named_children()):
            if child is encoder:
                setattr(parent, name, RemovedEncoder())
    return encoder


@contextmanager
def weighted_cross_attention(model: Any, weights: Tensor) -> Iterator[None]:
    """Weight the encoder's tokens [B, M] as keys of the decoder's cross-attention inside the block.

    The library takes a mask of zeros and ones; here the decoder gets log weight, which is added to the logits. The
    block applies to the thread that enters it. The hook stays on the decoder, since hooks cannot be removed while
    another thread calls the module; outside of a block it does nothing.
    """
    bias = weights.float().clamp_min(_MIN_WEIGHT).log().masked_fill(weights == 0, torch.finfo(model.dtype).min)
    decoder = model.get_decoder()
    with _registration:
        if _add_bias not in decoder._forward_pre_hooks.values():
            decoder.register_forward_pre_hook(_add_bias, with_kwargs=True)
    with _bias.using(bias.to(model.dtype)):
        yield


def _add_bias(decoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
    """Replace the mask of the cross-attention by the bias of this thread, if it has one."""
    if (bias := _bias.value) is None:
        return None
    rows, steps = kwargs["input_ids"].shape
    by_row = bias.repeat_interleave(rows // len(bias), 0)  # every article has as many rows as there are beams
    return args, {**kwargs, "encoder_attention_mask": by_row[:, None, None, :].expand(-1, 1, steps, -1)}


def decoder_inputs(encoded: Encoded) -> dict[str, Any]:
    """Return the arguments of an encoder-decoder that replace its tokens: states [B, M, D] and a mask [B, M]."""
    outputs = BaseModelOutput(last_hidden_state=encoded.hidden_states)
    return {"encoder_outputs": outputs, "attention_mask": (encoded.weights > 0).long()}
