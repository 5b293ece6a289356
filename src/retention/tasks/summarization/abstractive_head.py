"""Abstractive summarization: a decoder writes the summary from the states that the encoder kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GenerationConfig
from transformers.modeling_outputs import BaseModelOutput

from retention.engine import encoder_of
from retention.errors import Checks
from retention.models.encoded import Batch, Encoded
from retention.tasks.summarization.metrics import Rouge, rouge_scores
from retention.training.distillation import soft_target_losses
from retention.training.module import RetentionModule

FormatFn = Callable[[Sequence[Sequence[int]]], list[str]]

_IGNORED = -100  # the label of padding
_CLOSED = 1e-30  # a weight whose logarithm leaves no attention, and is finite


class AbstractiveSummarizationModule(RetentionModule):
    """Encoder-decoder: trained on the abstract token by token, evaluated on what it writes.

    The decoder's cross-attention reads what the encoder hands over: with ``dropped=cut`` the kept states alone, so
    decoding gets cheaper as well; with ``dropped=forward`` all states, the dropped ones as they left. Gates enter
    the cross-attention as log z on the logits of the token as a key, as in the encoder's later layers, so that tokens
    that were removed and tokens that are masked everywhere give the same summary.

    Metrics are ROUGE-1/2/Lsum of the written summary and ``token_loss``, the cross-entropy of the abstract's tokens in
    nats, each predicted from the true ones before it. The share of FLOPs in records is the encoder's.

    Args:
        encoder: a Hugging Face model with encoder, decoder and language head, such as
            ``LEDForConditionalGeneration``; it is taken apart.
        spell: makes texts of token ids, one sentence per line.
        max_summary_length: tokens that are written at most, special ones included.
        beams: hypotheses of beam search, >= 1; 1 = greedy.
        no_repeat: n >= 0; no n tokens in a row are written twice; 0 = no such rule.
        length_penalty: exponent of the length by which hypotheses are divided; above 1 favours long ones.
        others: see ``RetentionModule``.

    Raises:
        ConfigError: a setting is out of range.
    """

    fixed_width: ClassVar[bool] = False
    writes: ClassVar[bool] = True  # needs an encoder with its decoder

    @staticmethod
    def check_settings(*, beams: int = 1, no_repeat: int = 3, length_penalty: float = 1.0) -> None:
        """Raise ``ConfigError`` with every setting of the head that is out of range."""
        checks = Checks()
        checks.require(beams >= 1, "beams", f"must be at least 1, got {beams}")
        checks.require(no_repeat >= 0, "no_repeat", f"must be at least 0 (0 = no rule), got {no_repeat}")
        message = f"is the exponent of beam search, got {length_penalty} with beams=1; raise beams or leave it at 1"
        checks.require(beams > 1 or length_penalty == 1.0, "length_penalty", message)
        checks.finish()

    def __init__(
        self,
        *,
        encoder: nn.Module,
        spell: FormatFn,
        max_summary_length: int,
        beams: int = 1,
        no_repeat: int = 3,
        length_penalty: float = 1.0,
        **shared: Any,
    ) -> None:
        self.check_settings(beams=beams, no_repeat=no_repeat, length_penalty=length_penalty)
        whole: Any = encoder
        _check_places(whole.config, max_summary_length)
        super().__init__(encoder=take_encoder(whole), **shared)
        self.decoder = whole
        self.generation = GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=max_summary_length,
            min_new_tokens=2,  # the first special token and one to read
            num_beams=beams,
            no_repeat_ngram_size=no_repeat,
            length_penalty=length_penalty,
            do_sample=False,
            pad_token_id=whole.config.pad_token_id,
            bos_token_id=getattr(whole.config, "bos_token_id", None),
            eos_token_id=whole.config.eos_token_id,
            decoder_start_token_id=whole.config.decoder_start_token_id,
        )
        self.rouge = Rouge()
        self._spell = spell
        self._encoded: Encoded | None = None

    def encode(self, batch: Batch) -> Encoded:
        """Run the encoder with retention; ``collect`` writes from what it gave last."""
        encoded = super().encode(batch)
        self._encoded = None if self.training else encoded
        return encoded

    def logits(self, encoded: Encoded, batch: Batch) -> Tensor:
        """[B, L, V]: the token at each place of the abstract, from the true ones before it."""
        begun = self.decoder.prepare_decoder_input_ids_from_labels(labels=batch["labels"])
        with weighed_reading(self.decoder, encoded.weights):
            output = self.decoder(**decoder_inputs(encoded), decoder_input_ids=begun, use_cache=False)
        logits: Tensor = output.logits
        return logits

    def task_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy per token, mean over the tokens of the batch."""
        return F.cross_entropy(logits.float().flatten(0, 1), batch["labels"].flatten(), ignore_index=_IGNORED)

    def distillation_loss(self, logits: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        losses = soft_target_losses(logits, teacher, self.settings.distill.temperature)
        return losses[batch["labels"] != _IGNORED].mean()

    def confidence(self, logits: Tensor, batch: Batch) -> Tensor:
        """Log-probability of the likeliest token at each place of the abstract."""
        likeliest = F.log_softmax(logits.float(), -1).amax(-1)
        return likeliest.masked_fill(batch["labels"] == _IGNORED, 0.0).sum()

    def write(self, encoded: Encoded) -> list[list[int]]:
        """The tokens of the summaries, with special ones."""
        with weighed_reading(self.decoder, encoded.weights):
            written: Tensor = self.decoder.generate(**decoder_inputs(encoded), generation_config=self.generation)
        return cast("list[list[int]]", written.tolist())

    def collect(self, logits: Tensor, batch: Batch) -> dict[str, list[Any]]:
        encoded, self._encoded = cast(Encoded, self._encoded), None
        losses = F.cross_entropy(
            logits.float().transpose(1, 2), batch["labels"], ignore_index=_IGNORED, reduction="none"
        )
        return {
            "index": batch["index"].tolist(),
            "summary": self._spell(self.write(encoded)),
            "abstract": batch["abstract"],
            "loss": losses.sum(1).tolist(),
            "tokens": (batch["labels"] != _IGNORED).sum(1).tolist(),
        }

    def score(self, rows: dict[str, list[Any]]) -> dict[str, float]:
        scores: dict[str, float] = self.rouge.compute(predictions=rows["summary"], references=rows["abstract"])
        return scores | {"token_loss": sum(rows["loss"]) / sum(rows["tokens"])}

    def answers(self, rows: dict[str, list[Any]]) -> list[dict[str, Any]]:
        """``index``, the written ``summary`` and its ROUGE-1 as the ``score``, of each article."""
        scores = rouge_scores(rows["summary"], rows["abstract"], ("rouge1",))
        said = super().answers({name: rows[name] for name in ("index", "summary")})
        return [{**answer, "score": score["rouge1"]} for answer, score in zip(said, scores, strict=True)]


def _check_places(config: Any, max_summary_length: int) -> None:
    """Raise ``ConfigError`` where the decoder has learned positions, but too few of them."""
    checks, places = Checks(), getattr(config, "max_decoder_position_embeddings", None)
    message = f"the decoder has room for {places} tokens, the one it starts with included, got {max_summary_length}"
    fits = places is None or max_summary_length < places
    checks.require(fits, "task.data.max_summary_length", f"{message}; lower it")
    checks.finish()


class TakenEncoder(nn.Module):
    """Stands where the encoder was: an encoder-decoder that lost its encoder gets states, never tokens."""

    main_input_name = "input_ids"

    def forward(self, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError("the encoder has been taken out of this model; pass encoder_outputs")


def take_encoder(model: nn.Module) -> nn.Module:
    """Take the encoder out of an encoder-decoder, so that its weights are in one place only; returns it."""
    encoder = encoder_of(model)
    for parent in model.modules():
        for name, child in list(parent.named_children()):
            if child is encoder:
                setattr(parent, name, TakenEncoder())
    return encoder


@contextmanager
def weighed_reading(model: Any, weights: Tensor) -> Iterator[None]:
    """Inside the block the decoder of ``model`` weighs the encoder's tokens [B, M] as keys of its cross-attention.

    The library takes a mask of zeros and ones; what the decoder gets here is log weight, added to the logits.
    """
    bias = weights.clamp_min(_CLOSED).log().masked_fill(weights == 0, torch.finfo(weights.dtype).min)

    def rewrite(decoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        rows, steps = kwargs["input_ids"].shape
        each = bias.repeat_interleave(rows // len(bias), 0)  # every text has as many rows as there are beams
        return args, {**kwargs, "encoder_attention_mask": each[:, None, None, :].expand(-1, 1, steps, -1)}

    handle = model.get_decoder().register_forward_pre_hook(rewrite, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def decoder_inputs(encoded: Encoded) -> dict[str, Any]:
    """What an encoder-decoder gets in the place of tokens: states [B, M, D] and a mask [B, M], 1 = there."""
    outputs = BaseModelOutput(last_hidden_state=encoded.hidden_states)
    return {"encoder_outputs": outputs, "attention_mask": (encoded.weights > 0).long()}
