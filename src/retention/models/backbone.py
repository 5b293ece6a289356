"""Encoders and their tokenizers: pretrained or from scratch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)

from retention.core.flops import EncoderShape
from retention.engine.adapters import adapter_for
from retention.engine.observer import check_observed
from retention.engine.retainer import check_engine, check_prune_at
from retention.errors import Checks, ConfigError, Problem
from retention.models.encoders import build_encoder, strip_pooler
from retention.models.positions import extend, extended_config

_HIDDEN_DROPOUT = (  # what the families call it; T5 has one field for both
    "hidden_dropout_prob",
    "dropout",
    "dropout_rate",
    "activation_dropout",
    "embedding_dropout",
    "mlp_dropout",
)
_ATTENTION_DROPOUT = ("attention_probs_dropout_prob", "attention_dropout")
_UNKNOWN_VOCABULARY = 1000  # until the task brings its tokenizer; dimensions do not depend on it


class Backbone:
    """Base: what an experiment asks of an encoder. ``config`` is read before any weights.

    Args:
        name: shown in tables.
        attn_implementation: ``sdpa``, ``eager`` or None = the family's best that shows the policy what it observes.
        gradient_checkpointing: recompute each layer in the backward pass instead of keeping what it needs: training
            takes a third more time and far less memory.
    """

    def __init__(
        self, *, name: str, attn_implementation: str | None = None, gradient_checkpointing: bool = False
    ) -> None:
        self.name = name
        self.attn_implementation = attn_implementation
        self.gradient_checkpointing = gradient_checkpointing

    def config(self, vocab_size: int | None = None) -> Any:
        """The Hugging Face configuration."""
        raise TypeError(f"{type(self).__name__} has no configuration")

    def encoder(self, vocab_size: int) -> nn.Module:
        """The encoder with its weights, float32.

        Raises:
            ConfigError: gradient checkpointing is asked of a family that has none.
        """
        return self._recomputing(build_encoder(self.config(vocab_size), self.attn_implementation))

    def _recomputing(self, encoder: Any) -> nn.Module:
        if self.gradient_checkpointing:
            if not encoder.supports_gradient_checkpointing:
                message = f"{encoder.config.model_type} cannot recompute its layers in transformers; set it to false"
                raise ConfigError([Problem("backbone.gradient_checkpointing", message)])
            encoder.activation_checkpointing_enable({"use_reentrant": False})
        made: nn.Module = encoder
        return made

    def encoder_decoder(self, vocab_size: int) -> nn.Module:
        """The encoder with its decoder and language head, float32, for heads that write text.

        ``check_decoder`` says whether there is one.
        """
        extra = {} if self.attn_implementation is None else {"attn_implementation": self.attn_implementation}
        loader: Any = AutoModelForSeq2SeqLM
        model: nn.Module = loader.from_config(self.config(vocab_size), dtype=torch.float32, **extra)
        return model

    def check_decoder(self) -> None:
        """Raise ``ConfigError`` unless the model has a decoder."""
        config, checks = self.config(), Checks()
        message = (
            f"{self.name} ({config.model_type}) has no decoder, and this task writes text; choose backbone=led or t5"
        )
        checks.require(bool(config.is_encoder_decoder), "backbone", message)
        checks.finish()

    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The tokenizer, or None if the task brings its own."""
        return None

    def shape(self) -> EncoderShape:
        """Dimensions, from the configuration alone.

        Raises:
            ConfigError: the family has no adapter, or this configuration or its attention is not supported.
        """
        config = self.config()
        adapter = adapter_for(config.model_type)
        adapter.check(config)
        if self.attn_implementation is not None:
            checks, asked = Checks(), self.attn_implementation
            checks.gather(lambda: check_engine("cut", asked, adapter.attention), "backbone")
            checks.finish()
        return adapter.shape(config)

    def check_length(self, max_length: int) -> None:
        """Raise ``ConfigError`` where texts of so many tokens are longer than the encoder's table of positions."""
        config, checks = self.config(), Checks()
        table = adapter_for(config.model_type).position_table(config)
        room = max_length if table is None else table.num_positions(config)
        message = f"{self.name} has {room} positions, got {max_length}; lower it, or raise backbone.max_positions"
        checks.require(max_length <= room, "task.data.max_length", message)
        checks.finish()

    def check_prune_at(self, prune_at: str) -> None:
        """Raise ``ConfigError`` where tokens cannot leave the layers at this prune_at.

        Recomputed layers run again in the backward pass, when no gate inside them is listening any more.
        """
        prune_points, name = adapter_for(self.config().model_type).prune_points, self.name
        if self.gradient_checkpointing:
            prune_points, name = prune_points[:1], f"{name} whose layers are recomputed (gradient_checkpointing=true)"
        check_prune_at(prune_at, prune_points, name)

    def show(self, observes: Sequence[str]) -> None:
        """Make sure that a policy can observe this of the layers; decides ``attn_implementation`` where that is open.

        Raises:
            ConfigError: the family, or the implementation that was asked for, does not show it.
        """
        family = str(self.config().model_type)
        check_observed(observes, adapter_for(family).observable, self.attn_implementation, family)
        if "attention" in observes:
            self.attn_implementation = "eager"


class Pretrained(Backbone):
    """A checkpoint from the hub or a local folder.

    Args:
        name: shown in tables.
        path: hub id or folder with config.json, weights and tokenizer.
        revision: of the hub repository.
        fields: configuration fields that replace those of the checkpoint.
        max_positions: tokens that the table of learned positions is extended to, see ``extend``; None = as it is.
            An encoder saved after the extension keeps it.
        attn_implementation, gradient_checkpointing: see ``Backbone``.
        hidden_dropout: replaces the checkpoint's dropout of states, in [0, 1); None = as it is. Drawing its masks takes
            a fifth of a training step on a CPU.
        attention_dropout: likewise, of attention weights. 0 lets the fused kernels run while training on a CPU.
        freeze_embeddings: do not train the token embeddings; saves their gradient and optimiser state.

    Raises:
        ConfigError: a value is out of range.
    """

    def __init__(
        self,
        *,
        name: str,
        path: str,
        revision: str | None = None,
        fields: dict[str, Any] | None = None,
        max_positions: int | None = None,
        attn_implementation: str | None = None,
        gradient_checkpointing: bool = False,
        hidden_dropout: float | None = None,
        attention_dropout: float | None = None,
        freeze_embeddings: bool = False,
    ) -> None:
        checks = Checks()
        for key, value in (("hidden_dropout", hidden_dropout), ("attention_dropout", attention_dropout)):
            valid = value is None or 0.0 <= value < 1.0
            checks.require(valid, key, f"must be in [0, 1) or null, got {value}")
        positive = max_positions is None or max_positions >= 1
        checks.require(positive, "max_positions", f"must be at least 1 token or null, got {max_positions}")
        checks.finish()
        super().__init__(
            name=name, attn_implementation=attn_implementation, gradient_checkpointing=gradient_checkpointing
        )
        self.path = path
        self.revision = revision
        self.fields = dict(fields or {})
        self.max_positions = max_positions
        self.hidden_dropout = hidden_dropout
        self.attention_dropout = attention_dropout
        self.freeze_embeddings = freeze_embeddings
        self._config: Any = None

    def config(self, vocab_size: int | None = None) -> Any:
        config = self._own_config()
        return config if self.max_positions is None else extended_config(config, self.max_positions)

    def encoder(self, vocab_size: int) -> nn.Module:
        extra = {} if self.attn_implementation is None else {"attn_implementation": self.attn_implementation}
        model: Any = strip_pooler(self._load(AutoModel, config=self._own_config(), dtype=torch.float32, **extra))
        if self.config() is not self._own_config():
            model = extend(model, build_encoder(self.config(), self.attn_implementation)).eval()
        if self.freeze_embeddings:
            model.get_input_embeddings().weight.requires_grad_(False)
        return self._recomputing(model)

    def encoder_decoder(self, vocab_size: int) -> nn.Module:
        extra = {} if self.attn_implementation is None else {"attn_implementation": self.attn_implementation}
        model: Any = self._load(AutoModelForSeq2SeqLM, config=self._own_config(), dtype=torch.float32, **extra)
        if self.freeze_embeddings:
            model.get_input_embeddings().weight.requires_grad_(False)
        whole: nn.Module = model
        return whole

    def check_decoder(self) -> None:
        super().check_decoder()
        checks = Checks()
        message = (
            f"must be null for a model that writes text, got {self.max_positions}: its decoder has other positions"
        )
        checks.require(self.max_positions is None, "backbone.max_positions", message)
        checks.finish()

    def tokenizer(self) -> PreTrainedTokenizerBase:
        tokenizer: PreTrainedTokenizerBase = self._load(AutoTokenizer)
        if self.max_positions is not None:
            tokenizer.model_max_length = self.max_positions
        return tokenizer

    def _own_config(self) -> Any:
        """The configuration of the weights in the checkpoint, read once."""
        if self._config is None:
            config = self._load(AutoConfig)
            checks = Checks()
            for key, value in self.fields.items():
                message = f"{config.model_type} has no such configuration field"
                if checks.require(hasattr(config, key), f"backbone.fields.{key}", message):
                    setattr(config, key, value)
            checks.finish()
            _replace(config, _HIDDEN_DROPOUT, self.hidden_dropout)
            _replace(config, _ATTENTION_DROPOUT, self.attention_dropout)
            self._config = config
        return self._config

    def _load(self, loader: Any, **options: Any) -> Any:
        try:
            return loader.from_pretrained(self.path, revision=self.revision, **options)
        except (OSError, ValueError) as error:
            local = Path(self.path).is_dir()
            where = (
                "the folder holds no usable model" if local else "neither a folder nor a hub repository within reach"
            )
            message = f"{self.path!r}: {where} ({_first_line(error)}); pass backbone.path=<folder>"
            raise ConfigError([Problem("backbone.path", message)]) from error


class Scratch(Backbone):
    """A randomly initialised encoder; the task brings the tokenizer.

    Args:
        name: shown in tables.
        model_type: Hugging Face family, e.g. ``bert``.
        fields: its configuration fields.
        attn_implementation, gradient_checkpointing: see ``Backbone``.

    Raises:
        ConfigError: an unknown family, or fields that it does not have.
    """

    def __init__(
        self,
        *,
        name: str,
        model_type: str,
        fields: dict[str, Any],
        attn_implementation: str | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        checks = Checks()
        message = f"must be a family that transformers knows, such as bert, got {model_type!r}"
        if checks.require(model_type in CONFIG_MAPPING, "model_type", message):
            known = CONFIG_MAPPING[model_type]()
            for key in fields:
                checks.require(hasattr(known, key), f"fields.{key}", f"{model_type} has no such configuration field")
        checks.finish()
        super().__init__(
            name=name, attn_implementation=attn_implementation, gradient_checkpointing=gradient_checkpointing
        )
        self.model_type = model_type
        self.fields = dict(fields)

    def config(self, vocab_size: int | None = None) -> Any:
        return AutoConfig.for_model(self.model_type, **self.fields, vocab_size=vocab_size or _UNKNOWN_VOCABULARY)


def _replace(config: Any, names: tuple[str, ...], value: float | None) -> None:
    """Set those of the fields that the family has; None = leave them."""
    for name in names:
        if value is not None and hasattr(config, name):
            setattr(config, name, value)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
