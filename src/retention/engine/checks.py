"""Check the settings of a retainer against a model, and name the remedy."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from retention.core.flops import BEFORE_FIRST_LAYER, EncoderShape
from retention.errors import ConfigError, Problem, require

DROPPED = ("forward", "cut")
# Class names of Hugging Face heads that answer with one value per position of their input.
_HEADS_BY_POSITION = (
    "ForQuestionAnswering",
    "ForTokenClassification",
    "ForMaskedLM",
    "ForPreTraining",
    "LMHeadModel",
    "ForCausalLM",
)


def check_layers(layers: Iterable[int], num_layers: int, name: str) -> tuple[int, ...]:
    """Return the indices of the gated layers, sorted and without duplicates; -1 is the gate before layer 0.

    Raises:
        ConfigError: a layer that the encoder does not have.
    """
    selected = tuple(sorted(set(layers)))
    for layer_idx in selected:
        message = f"layer {layer_idx} does not exist, {name} has {num_layers} (0..{num_layers - 1}); -1: before layer 0"
        require(BEFORE_FIRST_LAYER <= layer_idx < num_layers, "layers", message)
    return selected


def check_engine(dropped: str, attention: str, supported: Sequence[str]) -> None:
    """Check the treatment of dropped tokens and the attention implementation.

    Raises:
        ConfigError: a value that the engine does not support.
    """
    require(dropped in DROPPED, "dropped", f"must be one of {', '.join(DROPPED)}, got {dropped!r}")
    message = f"must be one of {', '.join(supported)}, got {attention!r}; load the model with attn_implementation=..."
    require(attention in supported, "attn_implementation", message)


def check_prune_at(prune_at: str, supported: Sequence[str], name: str) -> None:
    """Check that tokens can be removed at ``prune_at`` in the layers of a family.

    Raises:
        ConfigError: they cannot.
    """
    message = f"must be one of {', '.join(supported)} with {name}, got {prune_at!r}"
    require(prune_at in supported, "prune_at", message)


def check_protected_ids(protected_ids: Iterable[int]) -> tuple[int, ...]:
    """Return the token ids.

    Raises:
        ConfigError: one is not a whole number, such as the ``None`` of a special token that a tokenizer does not have.
    """
    remedy = "pass a list of token ids, for example tokenizer.all_special_ids"
    if isinstance(protected_ids, str | int) or not isinstance(protected_ids, Iterable):
        raise ConfigError([Problem("protected_ids", f"must be a list, got {protected_ids!r}; {remedy}")])
    checked = []
    for index, token_id in enumerate(protected_ids):
        try:
            checked.append(operator.index(token_id))
        except TypeError as error:
            missing = ": the tokenizer lacks this special token" if token_id is None else ""
            message = f"must be a whole number, got {token_id!r}{missing}; {remedy}"
            raise ConfigError([Problem(f"protected_ids[{index}]", message)]) from error
    return tuple(checked)


def check_protect_query(protect_query: bool, protected_ids: Sequence[int]) -> bool:
    """Return ``protect_query``.

    Raises:
        ConfigError: it is no bool, or there are no ids, one of which has to end the first text of a pair.
    """
    require(isinstance(protect_query, bool), "protect_query", f"must be True or False, got {protect_query!r}")
    message = "needs protected_ids with the separator of the tokenizer; pass for example tokenizer.all_special_ids"
    require(bool(protected_ids) or not protect_query, "protect_query", message)
    return protect_query


def check_head(model: nn.Module, dropped: str) -> None:
    """Check that the head of a model can read a shortened output.

    Raises:
        ConfigError: dropped tokens are cut off, and the head answers with one value per position, or reads the
            attention mask of the whole input beside the output.
    """
    names = [cls.__name__ for cls in type(model).__mro__]
    by_position = any(name.endswith(_HEADS_BY_POSITION) for name in names)
    message = (
        f"cut would shorten the output of {names[0]}, so that its answers no longer refer to positions of the input; "
        "use dropped='forward'"
    )
    require(dropped != "cut" or not by_position, "dropped", message)
    mean_pooling = names[0].endswith("ForSequenceClassification") and (
        getattr(getattr(model, "config", None), "classifier_pooling", None) == "mean"
    )
    message = (
        f"cut would shorten the output of the encoder, beside which {names[0]} reads the attention mask of the whole "
        "input; use dropped='forward'"
    )
    require(dropped != "cut" or not mean_pooling, "dropped", message)


def check_built_for(gate: Any, shape: EncoderShape) -> None:
    """Check that a policy was built for an encoder of this shape, if it was built at all.

    Raises:
        ConfigError: it was built for another one.
    """
    built_for: EncoderShape | None = getattr(gate, "encoder_shape", None)
    if built_for is None or built_for == shape:
        return
    message = (
        f"{getattr(gate, 'name', type(gate).__name__)} was built for an encoder of {built_for.num_layers} layers with "
        f"hidden size {built_for.hidden_size}, this one has {shape.num_layers} with {shape.hidden_size} or differs "
        "in other dimensions; make a new policy object for each model"
    )
    raise ConfigError([Problem("policy", message)])
