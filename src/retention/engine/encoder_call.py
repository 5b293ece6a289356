"""Read the arguments of an encoder's forward pass."""

from __future__ import annotations

import inspect
from collections.abc import Hashable, Mapping, Sequence
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn


def encoder_arguments(encoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of ``encoder.forward`` by name, as its class declares them.

    Raises:
        ValueError: they do not fit the class, because a replaced ``forward`` takes others.
    """
    signature = _signature(cast(Hashable, type(encoder)))
    try:
        call = signature.bind_partial(*args, **kwargs).arguments
    except TypeError as error:
        message = f"cannot read the arguments of {type(encoder).__name__}.forward: {error}; pass them by name"
        raise ValueError(message) from error
    variable = next((name for name, each in signature.parameters.items() if each.kind is each.VAR_KEYWORD), "")
    return {**call, **call.pop(variable, {})}


@cache
def _signature(encoder_type: Hashable) -> inspect.Signature:
    signature = inspect.signature(cast(type[nn.Module], encoder_type).forward)
    return signature.replace(parameters=list(signature.parameters.values())[1:])


def input_ids_and_mask(call: Mapping[str, Any]) -> tuple[Tensor | None, Tensor]:
    """Return the token ids [B, T] (None if the call has embeddings) and the attention mask [B, T], non-zero = real.

    Args:
        call: of ``encoder_arguments``; without a mask every token is real.

    Raises:
        ValueError: there is no input; it has no batch dimension; it holds no token; the mask has another shape; or
            attention is requested to be causal, in which removal would let tokens see later ones.
    """
    input_ids: Tensor | None = call.get("input_ids")
    source: Tensor | None = call.get("inputs_embeds") if input_ids is None else input_ids
    if source is None:
        message = "got neither input_ids nor inputs_embeds; pass input_ids=... to the encoder, by name"
        raise ValueError(f"{message} if its forward has been replaced (got {', '.join(call) or 'no argument'})")
    name, form, dims = ("input_ids", "[B, T]", 2) if input_ids is not None else ("inputs_embeds", "[B, T, D]", 3)
    if source.dim() == dims - 1:
        remedy = f"add the dimension of the batch, {name}.unsqueeze(0)"
        raise ValueError(f"{name} must be {form}, got shape {list(source.shape)}; {remedy}")
    shape = tuple(source.shape[:2])
    if len(shape) < 2 or 0 in shape:
        raise ValueError(f"the batch holds no token: input of shape {tuple(source.shape)}; leave empty batches out")
    if call.get("is_causal"):
        raise ValueError("is_causal=True is not supported: token removal needs bidirectional attention")
    mask: Tensor | None = call.get("attention_mask")
    if mask is None:
        return input_ids, torch.ones(shape, dtype=torch.long, device=source.device)
    if mask.dim() != 2 or tuple(mask.shape) != shape:
        raise ValueError(
            f"attention_mask must be [B, T] = {list(shape)} with 1 = real token, got shape {tuple(mask.shape)}"
        )
    return input_ids, mask


def wants_hidden_states(encoder: nn.Module, call: Mapping[str, Any]) -> bool:
    """Return True if the call, or by default the configuration, requests ``output_hidden_states``."""
    requested = call.get("output_hidden_states")
    if requested is None:
        requested = getattr(cast(Any, encoder).config, "output_hidden_states", False)
    return requested is not False and requested is not None


def protected_tokens(
    input_ids: Tensor | None,
    mask: Tensor,
    protected_mask: Tensor | None,
    protected_ids: Sequence[int],
    *,
    protect_query: bool = False,
) -> Tensor:
    """Return the tokens that are never removed, [B, T] bool.

    Args:
        input_ids: [B, T] long, or None.
        mask: attention mask [B, T].
        protected_mask: [B, T], takes precedence over the ids; None = use the ids.
        protected_ids: token ids.
        protect_query: True to add the first text of each pair, see ``first_text_tokens``.

    Raises:
        ValueError: the protected mask has another shape; or there are ids to protect and no ``input_ids``.
    """
    if protected_mask is not None:
        if protected_mask.shape != mask.shape:
            shapes = f"{list(mask.shape)}, got {list(protected_mask.shape)}"
            raise ValueError(f"the mask passed to protect() must be [B, T] = {shapes}")
        return protected_mask.bool()
    if not protected_ids:
        return torch.zeros_like(mask, dtype=torch.bool)
    if input_ids is None:
        raise ValueError(
            "protected_ids cannot be located in inputs_embeds; mark the positions to keep with "
            "`with retainer.protect(mask):`, a mask [B, T] with True = never removed"
        )
    protected = _is_one_of(input_ids, protected_ids)
    return protected | first_text_tokens(input_ids, mask, protected_ids) if protect_query else protected


def first_text_tokens(input_ids: Tensor, mask: Tensor, separator_ids: Sequence[int]) -> Tensor:
    """Return the real tokens up to the first separator after the start: the first text of each pair, [B, T] bool.

    A row without a second text belongs to the first text as a whole.

    Args:
        input_ids: [B, T] long.
        mask: attention mask [B, T]; padding may be on either side.
        separator_ids: ids of the tokens that end a text, which may also stand before the first one.
    """
    real = mask.bool()
    separators = _is_one_of(input_ids, separator_ids) & real & (real.cumsum(1) > 1)
    return real & (separators.cumsum(1) == 0)


def _is_one_of(input_ids: Tensor, ids: Sequence[int]) -> Tensor:
    # Not torch.isin, which has no counterpart in ONNX.
    return (input_ids.unsqueeze(-1) == torch.tensor(ids, device=input_ids.device, dtype=torch.long)).any(-1)
