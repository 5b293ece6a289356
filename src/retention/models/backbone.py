"""Load encoders and their tokenizers: pretrained or from scratch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)

from retention.core.flops import EncoderShape
from retention.engine.adapters import Adapter, adapter_for, encoder_of
from retention.engine.observer import check_observed
from retention.engine.retainer import check_engine, check_prune_at
from retention.errors import MODEL_LOAD_ERRORS, ConfigError, Problem, first_line, require
from retention.models.encoders import build_encoder, strip_pooler
from retention.models.layer_selection import config_of_layers, full_config, select_layers
from retention.models.positions import extend_positions, extended_config
from retention.models.pretrained_classifier import check_classifier

_HIDDEN_DROPOUT = (  # names in the supported families; T5 has one field for both
    "hidden_dropout_prob",
    "dropout",
    "dropout_rate",
    "activation_dropout",
    "embedding_dropout",
    "mlp_dropout",
)
_ATTENTION_DROPOUT = ("attention_probs_dropout_prob", "attention_dropout")
_UNKNOWN_VOCABULARY = 1000  # until the task brings its tokenizer; the shape does not depend on it
_MAX_FIELD = 2**31 - 1  # of a whole number in a configuration


class Backbone:
    """Base class of encoders in experiments. The configuration is read before any weights.

    Args:
        name: displayed in tables.
        attn_implementation: ``sdpa``, ``eager`` or None = the family's fastest that shows the policy what it observes.
        gradient_checkpointing: True to recompute each layer in the backward pass instead of keeping its activations:
            training takes a third more time and far less memory.
    """

    def __init__(
        self, *, name: str, attn_implementation: str | None = None, gradient_checkpointing: bool = False
    ) -> None:
        self.name = name
        self.attn_implementation = attn_implementation
        self.gradient_checkpointing = gradient_checkpointing

    def config(self, vocab_size: int | None = None) -> Any:
        """Return the Hugging Face configuration.

        Args:
            vocab_size: of the tokenizer, for encoders that are trained from scratch.
        """
        raise TypeError(f"{type(self).__name__} has no configuration")

    def encoder(self, vocab_size: int) -> nn.Module:
        """Load the encoder with its weights, float32.

        Args:
            vocab_size: of the tokenizer, for encoders that are trained from scratch.

        Raises:
            ConfigError: gradient checkpointing is requested of a family that does not support it.
        """
        return self._with_checkpointing(build_encoder(self.config(vocab_size), self.attn_implementation))

    def load(self, part: str, vocab_size: int) -> nn.Module:
        """Load the part of the model that a head is built for, float32.

        Args:
            part: see ``Head.loads``.
            vocab_size: of the tokenizer, for models that are trained from scratch.

        Raises:
            ConfigError: the model cannot be loaded, or lacks the part.
        """
        loaders = {"encoder": self.encoder, "encoder_decoder": self.encoder_decoder, "classifier": self.classifier}
        model = loaders[part](vocab_size)
        if part != "encoder":
            self._with_checkpointing(encoder_of(model))
        return model

    def check_part(self, part: str) -> None:
        """Raise ``ConfigError`` if the model lacks a part, see ``load``."""
        if part == "encoder_decoder":
            self.check_decoder()
        elif part == "classifier":
            check_classifier(self.config(), self.name)

    def classifier(self, vocab_size: int) -> nn.Module:
        """Load the encoder with the trained head of a sequence classifier, float32.

        Args:
            vocab_size: of the tokenizer, for models that are trained from scratch.
        """
        loader: Any = AutoModelForSequenceClassification
        config = self.config(vocab_size)
        model: nn.Module = loader.from_config(config, dtype=torch.float32, trust_remote_code=False, **self._attention())
        return model

    def encoder_decoder(self, vocab_size: int) -> nn.Module:
        """Load the encoder with its decoder and language model head, float32, for heads that write text.

        Args:
            vocab_size: of the tokenizer, for models that are trained from scratch.
        """
        loader: Any = AutoModelForSeq2SeqLM
        model: nn.Module = loader.from_config(
            self.config(vocab_size), dtype=torch.float32, trust_remote_code=False, **self._attention()
        )
        return model

    def check_decoder(self) -> None:
        """Raise ``ConfigError`` if the model has no decoder."""
        config = self.config()
        message = (
            f"{self.name} ({config.model_type}) has no decoder, and this task writes text; choose backbone=led or t5"
        )
        require(bool(config.is_encoder_decoder), "backbone", message)

    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """Load the tokenizer; return None if the task brings its own."""
        return None

    def shape(self) -> EncoderShape:
        """Return the dimensions of the encoder, from the configuration alone.

        Raises:
            ConfigError: the family has no adapter, or this configuration or its attention is not supported.
        """
        config = self.config()
        adapter = _adapter(config)
        with _named_settings():
            adapter.check(config)
        if self.attn_implementation is not None:
            try:
                check_engine("cut", self.attn_implementation, adapter.attention)
            except ConfigError as error:
                raise ConfigError(problem.under("backbone") for problem in error.problems) from error
        return adapter.shape(config)

    @property
    def layer_indices(self) -> tuple[int, ...] | None:
        """Return the indices of the checkpoint's layers that the encoder consists of; None = all layers."""
        return None

    def full_shape(self) -> EncoderShape:
        """Return the dimensions of the encoder with all layers of its checkpoint: the reference of FLOPs ratios."""
        config = full_config(self.config())
        return _adapter(config).shape(config)

    def check_length(self, max_length: int) -> None:
        """Raise ``ConfigError`` if sequences of ``max_length`` tokens are longer than the encoder's position table."""
        config = self.config()
        table = _adapter(config).position_table(config)
        limit = max_length if table is None else table.num_positions(config)
        message = f"{self.name} has {limit} positions, got {max_length}; lower it, or raise backbone.max_positions"
        require(max_length <= limit, "task.data.max_length", message)

    def check_prune_at(self, prune_at: str) -> None:
        """Raise ``ConfigError`` if tokens cannot leave the layers at this ``prune_at``."""
        check_prune_at(prune_at, _adapter(self.config()).prune_points, self.name)

    def support_observation(self, observes: Sequence[str]) -> None:
        """Choose an ``attn_implementation`` that shows a policy what it observes, if none is configured.

        Args:
            observes: see ``RetentionPolicy.observes``.

        Raises:
            ConfigError: the family, or the configured implementation, does not show it.
        """
        config = self.config()
        check_observed(observes, _adapter(config).observable, self.attn_implementation, str(config.model_type))
        if "attention" in observes:
            self.attn_implementation = "eager"

    def _attention(self) -> dict[str, str]:
        return {} if self.attn_implementation is None else {"attn_implementation": self.attn_implementation}

    def _with_checkpointing(self, encoder: Any) -> nn.Module:
        if self.gradient_checkpointing:
            message = f"{encoder.config.model_type} does not support it in transformers; set it to false"
            require(encoder.supports_gradient_checkpointing, "backbone.gradient_checkpointing", message)
            encoder.activation_checkpointing_enable({"use_reentrant": False})
        module: nn.Module = encoder
        return module


class PretrainedBackbone(Backbone):
    """A pretrained model from the Hugging Face hub or a local folder.

    Args:
        name: displayed in tables.
        path: hub id or folder with config.json, weights and tokenizer.
        revision: of the hub repository.
        trust_remote_code: True to run Python code that the model repository brings; False refuses models that need it.
        fields: configuration fields that replace those of the checkpoint.
        max_positions: number of tokens that the table of learned positions is extended to, see ``extend_positions``;
            None = as in the checkpoint. An encoder saved after the extension keeps it.
        attn_implementation: see ``Backbone``.
        gradient_checkpointing: see ``Backbone``.
        hidden_dropout: replaces the checkpoint's dropout of states, in [0, 1); None = as in the checkpoint. Drawing its
            masks takes a fifth of a training step on a CPU.
        attention_dropout: the same for attention weights. 0 enables the fused kernels for training on a CPU.
        freeze_embeddings: True to leave the token embeddings untrained; saves their gradient and optimizer state.
        layers: layers of the checkpoint that the encoder consists of: a number k = the first k, or a list of 0-based
            indices in ascending order; None = all. Shallower students of this kind are the usual alternative to
            removing tokens (Sajjad et al. 2023, arXiv 2004.03844).

    Raises:
        ConfigError: a value is out of range.
    """

    def __init__(
        self,
        *,
        name: str,
        path: str | None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        fields: dict[str, Any] | None = None,
        max_positions: int | None = None,
        attn_implementation: str | None = None,
        gradient_checkpointing: bool = False,
        hidden_dropout: float | None = None,
        attention_dropout: float | None = None,
        freeze_embeddings: bool = False,
        layers: int | list[int] | None = None,
    ) -> None:
        require(bool(path), "path", "is required: the folder or the hub name of a model; pass backbone.path=<folder>")
        path = str(path)
        indices = list(range(layers)) if isinstance(layers, int) else layers
        valid = indices is None or (len(indices) > 0 and min(indices) >= 0 and sorted(set(indices)) == indices)
        message = f"must be a number of layers >= 1, an ascending list of layer indices or null, got {layers!r}"
        require(valid, "layers", message)
        for key, value in (("hidden_dropout", hidden_dropout), ("attention_dropout", attention_dropout)):
            require(value is None or 0.0 <= value < 1.0, key, f"must be in [0, 1) or null, got {value}")
        positive = max_positions is None or max_positions >= 1
        require(positive, "max_positions", f"must be at least 1 token or null, got {max_positions}")
        super().__init__(
            name=name, attn_implementation=attn_implementation, gradient_checkpointing=gradient_checkpointing
        )
        self.path = path
        self.revision = revision
        self.trust_remote_code = trust_remote_code
        self.fields = dict(fields or {})
        self.max_positions = max_positions
        self.hidden_dropout = hidden_dropout
        self.attention_dropout = attention_dropout
        self.freeze_embeddings = freeze_embeddings
        self._layers = None if indices is None else tuple(indices)
        self._config: Any = None

    @property
    def layer_indices(self) -> tuple[int, ...] | None:
        """Return the indices of the checkpoint's layers that the encoder consists of; None = all layers."""
        return self._layers

    def config(self, vocab_size: int | None = None) -> Any:
        """Return the Hugging Face configuration, with the configured changes."""
        config = self._deep_config()
        with _named_settings():
            return config if self._layers is None else config_of_layers(config, self._layers)

    def _deep_config(self) -> Any:
        config = self._checkpoint_config()
        with _named_settings():
            return config if self.max_positions is None else extended_config(config, self.max_positions)

    def encoder(self, vocab_size: int) -> nn.Module:
        """Load the encoder with its weights, float32.

        Raises:
            ConfigError: the model cannot be loaded, or does not support gradient checkpointing.
        """
        config = self._checkpoint_config()
        model: Any = strip_pooler(self._load(AutoModel, config=config, dtype=torch.float32, **self._attention()))
        if (deep := self._deep_config()) is not config:
            longer = build_encoder(deep, self.attn_implementation, trust_remote_code=self.trust_remote_code)
            model = extend_positions(model, longer).eval()
        if self._layers is not None:
            model = select_layers(model, self._layers)
        return self._with_frozen_embeddings(model)

    def encoder_decoder(self, vocab_size: int) -> nn.Module:
        """Load the encoder with its decoder and language model head, float32.

        Raises:
            ConfigError: the model cannot be loaded.
        """
        options = {"config": self._checkpoint_config(), "dtype": torch.float32, **self._attention()}
        return self._with_frozen_embeddings(self._load(AutoModelForSeq2SeqLM, **options))

    def classifier(self, vocab_size: int) -> nn.Module:
        """Load the encoder with the trained head of a sequence classifier, float32.

        Raises:
            ConfigError: the model cannot be loaded, or has no trained head.
        """
        message = "must be null for a trained classifier; extend its positions before you fine-tune it"
        require(self.max_positions is None, "backbone.max_positions", message)
        options = {"config": self._checkpoint_config(), "dtype": torch.float32, **self._attention()}
        model, report = self._load(AutoModelForSequenceClassification, output_loading_info=True, **options)
        missing = sorted(report["missing_keys"])
        message = f"{self.path!r} lacks {len(missing)} weights of the classifier ({', '.join(missing[:3])})"
        require(not missing, "backbone.path", f"{message}; pass the folder of a fine-tuned classifier")
        if self._layers is not None:
            select_layers(encoder_of(model), self._layers)
        return self._with_checkpointing(self._with_frozen_embeddings(model))

    def check_decoder(self) -> None:
        """Raise ``ConfigError`` if the model has no decoder, or its positions would be extended."""
        super().check_decoder()
        message = (
            f"must be null for a model that writes text, got {self.max_positions}: its decoder has other positions"
        )
        require(self.max_positions is None, "backbone.max_positions", message)
        require(self._layers is None, "backbone.layers", "must be null for a model that writes text")

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Load the tokenizer.

        Raises:
            ConfigError: there is none.
        """
        tokenizer: PreTrainedTokenizerBase = self._load(AutoTokenizer)
        if self.max_positions is not None:
            tokenizer.model_max_length = self.max_positions
        return tokenizer

    def _checkpoint_config(self) -> Any:
        """Return the configuration of the weights in the checkpoint, read once."""
        if self._config is None:
            config = self._load(AutoConfig)
            for key, value in self.fields.items():
                message = f"{config.model_type} has no such configuration field"
                require(hasattr(config, key), f"backbone.fields.{key}", message)
                setattr(config, key, value)
            _replace(config, _HIDDEN_DROPOUT, self.hidden_dropout)
            _replace(config, _ATTENTION_DROPOUT, self.attention_dropout)
            self._config = config
        return self._config

    def _with_frozen_embeddings(self, model: Any) -> nn.Module:
        if self.freeze_embeddings:
            model.get_input_embeddings().weight.requires_grad_(False)
        module: nn.Module = model
        return module

    def _load(self, loader: Any, **options: Any) -> Any:
        try:
            return loader.from_pretrained(
                self.path, revision=self.revision, trust_remote_code=self.trust_remote_code, **options
            )
        except MODEL_LOAD_ERRORS as error:
            raise ConfigError([self._problem(error)]) from error

    def _problem(self, error: Exception) -> Problem:
        if "trust_remote_code" in str(error):
            message = (
                f"{self.path!r} needs Python code of its repository; read it, and set this to true if you trust it"
            )
            return Problem("backbone.trust_remote_code", message)
        local = Path(self.path).is_dir()
        reason = "the folder holds no usable model" if local else "neither a folder nor a hub repository within reach"
        return Problem(
            "backbone.path", f"{self.path!r}: {reason} ({first_line(error, 160)}); pass backbone.path=<folder>"
        )


class ScratchBackbone(Backbone):
    """A randomly initialized encoder; the task brings the tokenizer.

    Args:
        name: displayed in tables.
        model_type: Hugging Face family, e.g. ``bert``.
        fields: its configuration fields.
        attn_implementation: see ``Backbone``.
        gradient_checkpointing: see ``Backbone``.

    Raises:
        ConfigError: an unknown family, or a field that it does not have.
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
        message = f"must be a family that transformers supports, such as bert, got {model_type!r}"
        require(model_type in CONFIG_MAPPING, "model_type", message)
        default = CONFIG_MAPPING[model_type]()
        for key in fields:
            require(hasattr(default, key), f"fields.{key}", f"{model_type} has no such configuration field")
            _check_field(key, fields[key])
        super().__init__(
            name=name, attn_implementation=attn_implementation, gradient_checkpointing=gradient_checkpointing
        )
        self.model_type = model_type
        self.fields = dict(fields)

    def config(self, vocab_size: int | None = None) -> Any:
        """Return the Hugging Face configuration.

        Args:
            vocab_size: of the tokenizer; None = not known yet.
        """
        return AutoConfig.for_model(self.model_type, **self.fields, vocab_size=vocab_size or _UNKNOWN_VOCABULARY)


def _adapter(config: Any) -> Adapter:
    with _named_settings():
        return adapter_for(config.model_type)


@contextmanager
def _named_settings() -> Iterator[None]:
    """Name, in errors of the engine about a model and its configuration, the settings of a backbone."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(Problem(_setting(problem.key), problem.message) for problem in error.problems) from error


def _setting(key: str) -> str:
    return "backbone.path" if key == "model" else key.replace("model.config.", "backbone.fields.")


def _check_field(key: str, value: Any) -> None:
    """Raise ``ConfigError`` for a whole number that is no size; ids and indices may be negative."""
    if isinstance(value, int) and not isinstance(value, bool):
        low = -_MAX_FIELD if key.endswith(("_id", "_index")) else 0
        message = f"must be a whole number in [{low}, {_MAX_FIELD}], got {value}"
        require(low <= value <= _MAX_FIELD, f"fields.{key}", message)


def _replace(config: Any, names: tuple[str, ...], value: float | None) -> None:
    """Set those of the fields that the family has; None = keep them."""
    for name in names:
        if value is not None and hasattr(config, name):
            setattr(config, name, value)
