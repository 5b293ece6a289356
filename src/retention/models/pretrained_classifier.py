"""Take a pretrained sequence classifier apart into its encoder and its head, and put it together again."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from retention.engine import encoder_of
from retention.errors import require

SUFFIX = "ForSequenceClassification"  # of the class names of these models in transformers


@dataclass
class EncoderStates(BaseModelOutputWithPooling):
    """Output of an encoder without attention maps; Longformer's heads ask for those of global tokens as well."""

    global_attentions: Any = None


class GivenStates(nn.Module):
    """Stand-in for the encoder of a classifier: its output are the states that it gets as ``inputs_embeds``.

    Args:
        config: Hugging Face configuration of the encoder.
        pooler: of the encoder, which the classifier reads; None = it reads token states.
        unused: a pooler that the classifier does not read, kept for the weights of the saved model.
    """

    def __init__(self, config: Any, pooler: nn.Module | None, unused: nn.Module | None = None) -> None:
        super().__init__()
        self.config = config
        self.pooler = pooler
        self.unused = None if unused is None else unused.requires_grad_(False)

    def forward(self, *_: Any, inputs_embeds: Tensor, **__: Any) -> EncoderStates:
        """Return the given states [B, T, D], and what the pooler makes of them."""
        pooled: Any = None if self.pooler is None else self.pooler(inputs_embeds)
        states: Any = inputs_embeds
        return EncoderStates(last_hidden_state=states, pooler_output=pooled)


def is_classifier(architectures: Any) -> bool:
    """Return True if a model of these classes, ``architectures`` of its configuration, classifies sequences."""
    classes = architectures if isinstance(architectures, list | tuple) else ()
    return any(str(each).endswith(SUFFIX) for each in classes)


def check_classifier(config: Any, name: str) -> None:
    """Check that a configuration is that of a sequence classifier that reads the states of an encoder.

    Args:
        config: Hugging Face configuration.
        name: of the model, for messages.

    Raises:
        ConfigError: it is that of another model.
    """
    classes = [str(each) for each in config.architectures or ()]
    message = (
        f"{name} holds no trained sequence classifier ({', '.join(classes) or 'its config.json names no class'}); pass "
        f"a fine-tuned model, whose class ends in {SUFFIX}. For an embedding model use experiment=embedding_distill"
    )
    require(is_classifier(classes), "backbone.path", message)
    message = f"{name} ({config.model_type}) classifies by its decoder; pass a model with an encoder only"
    require(not config.is_encoder_decoder, "backbone.path", message)


def take_encoder(model: Any) -> nn.Module:
    """Replace the encoder of a classifier by a stand-in, in place, so that the rest is a head that reads given states.

    Args:
        model: Hugging Face model whose class ends in ``ForSequenceClassification``.

    Returns:
        The encoder, without its pooler, which belongs to the head.
    """
    encoder: Any = encoder_of(model)
    pooler = getattr(encoder, "pooler", None)
    reads_pooler = type(pooler).__name__.endswith("Pooler")  # others, such as that of BigBird, feed no classifier
    stand_in = GivenStates(encoder.config, pooler if reads_pooler else None, None if reads_pooler else pooler)
    if pooler is not None:
        encoder.pooler = None
    setattr(model, model.base_model_prefix, stand_in)
    module: nn.Module = encoder
    return module


def with_encoder(model: Any, encoder: Any) -> Any:
    """Return a whole classifier from the parts of ``take_encoder``; it shares all weights with them.

    Args:
        model: classifier with the stand-in.
        encoder: the encoder, possibly with fewer layers.
    """
    whole, inner = _shallow_copy(model), _shallow_copy(encoder)
    stand_in: GivenStates = getattr(model, model.base_model_prefix)
    pooler = stand_in.unused if stand_in.pooler is None else stand_in.pooler
    if pooler is not None:
        inner.pooler = pooler
    setattr(whole, model.base_model_prefix, inner)
    whole.config = encoder.config
    return whole


def _shallow_copy(module: Any) -> Any:
    """Return a copy that shares weights and submodules, but not the table of its submodules."""
    copied = copy.copy(module)
    copied._modules = dict(module._modules)
    return copied
