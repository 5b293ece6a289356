"""Run the dense model without padding: the sequences of a batch are concatenated, and each attends to itself alone."""

from __future__ import annotations

import importlib.util
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface
from transformers.utils.import_utils import is_flash_attn_2_available

from retention.bench.inputs import Batch
from retention.engine import adapter_for

# Families whose attention goes through the interface of transformers, and which take position ids.
FAMILIES = ("bert", "distilbert", "electra", "modernbert", "roberta", "xlm-roberta")
_PER_SEQUENCE, _VARLEN = "retention_packed_per_sequence", "retention_packed_varlen"


def packed_implementation(device: str, dtype: torch.dtype) -> str:
    """Register the fastest attention for packed sequences with transformers and return its name.

    On a CPU: one fused attention call per sequence. On CUDA: one kernel for all sequences, from PyTorch or flash-attn.

    Raises:
        ValueError: the platform has no such kernel, or the kernel does not support ``dtype``.
    """
    if device == "cpu":
        AttentionInterface.register(_PER_SEQUENCE, per_sequence_attention)
        return _PER_SEQUENCE
    if dtype not in (torch.bfloat16, torch.float16):
        raise ValueError(f"packed attention on CUDA needs half precision, got {dtype}; use --dtype bfloat16")
    if importlib.util.find_spec("torch.nn.attention.varlen") is not None:
        AttentionInterface.register(_VARLEN, varlen_attention)
        return _VARLEN
    if is_flash_attn_2_available():
        return "flash_attention_2"
    raise ValueError("packed attention on CUDA needs torch.nn.attention.varlen (torch 2.10) or the package flash-attn")


def pack_batch(batch: Batch, config: Any) -> Batch:
    """Concatenate the sequences of a batch [B, N] into one row without padding.

    Not timed, because a data loader would do it.

    Returns:
        ``input_ids`` and ``position_ids`` [1, T]; ``offsets`` [B + 1] int32, the start of each sequence and T;
        ``max_length`` (on the CPU), tokens of the longest sequence.
    """
    real = batch["attention_mask"].bool()
    lengths = real.sum(1)
    table = adapter_for(config.model_type).position_table(config)
    first_position = 0 if table is None else table.offset
    positions = torch.arange(real.shape[1], device=real.device).expand(real.shape) + first_position
    return {
        "input_ids": batch["input_ids"][real].unsqueeze(0),
        "position_ids": positions[real].unsqueeze(0),
        "offsets": F.pad(lengths.cumsum(0), (1, 0)).to(torch.int32),
        "max_length": lengths.amax().cpu(),
    }


class PackedForward:
    """Run the encoder on packed batches and return the states of each sequence's first token, [B, 1, D]."""

    def __init__(self, encoder: nn.Module) -> None:
        self.encoder: Any = encoder

    def __call__(self, batch: Batch) -> Tensor:
        """Return the states of each sequence's first token."""
        offsets, longest = batch["offsets"], int(batch["max_length"])
        boundaries = {"cu_seq_lens_q": offsets, "cu_seq_lens_k": offsets}
        lengths = {"max_length_q": longest, "max_length_k": longest}
        output = self.encoder(input_ids=batch["input_ids"], position_ids=batch["position_ids"], **boundaries, **lengths)
        states: Tensor = output.last_hidden_state[0, offsets[:-1].long()]
        return states.unsqueeze(1)


def per_sequence_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    cu_seq_lens_q: Tensor,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Compute the attention of each sequence to itself, [1, H, T, d] -> [1, T, H, d], for ``AttentionInterface``."""
    parts = []
    for start, end in zip(cu_seq_lens_q[:-1].tolist(), cu_seq_lens_q[1:].tolist(), strict=True):
        q, k, v = (states[:, :, start:end] for states in (query, key, value))
        mask = _window_mask(end - start, sliding_window, query.device)
        parts.append(F.scaled_dot_product_attention(q, k, v, mask, dropout_p=dropout, scale=scaling))
    return torch.cat(parts, 2).transpose(1, 2), None


def varlen_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    cu_seq_lens_q: Tensor,
    max_length_q: int,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Compute the same in one kernel, https://docs.pytorch.org/docs/stable/nn.attention.varlen.html.

    Raises:
        ValueError: ``dropout`` is not 0, which the kernel does not support.
    """
    from torch.nn.attention.varlen import varlen_attn  # missing from older supported versions

    if dropout > 0.0:
        raise ValueError(f"packed attention has no dropout, got {dropout}; set the encoder's attention dropout to 0")
    side = -1 if sliding_window is None else sliding_window - 1
    # [T, H, d]; under autocast, rotary embeddings may return float32, which the kernel does not accept
    q, k, v = (states[0].transpose(0, 1).to(value.dtype) for states in (query, key, value))
    boundaries, lengths = (cu_seq_lens_q, cu_seq_lens_q), (max_length_q, max_length_q)
    output = cast(Tensor, varlen_attn(q, k, v, *boundaries, *lengths, scale=scaling, window_size=(side, side)))
    return output.unsqueeze(0), None


def _window_mask(length: int, sliding_window: int | None, device: torch.device) -> Tensor | None:
    """Return [N, N] bool, True = inside the window; ``sliding_window`` = keys on one side, the token included."""
    if sliding_window is None or sliding_window >= length:
        return None
    positions = torch.arange(length, device=device)
    return (positions[:, None] - positions[None, :]).abs() < sliding_window
