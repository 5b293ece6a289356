"""The dense model without padding: the texts of a batch laid end to end, each seeing itself alone."""

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

# their attention goes through the library's interface, and their positions are an argument
FAMILIES = ("bert", "distilbert", "electra", "modernbert", "roberta", "xlm-roberta")
_PER_TEXT, _VARLEN = "retention_packed_per_text", "retention_packed_varlen"


def packed_implementation(device: str, dtype: torch.dtype) -> str:
    """Name of the best attention for packed texts on a device, known to transformers from now on.

    On a CPU one fused product per text; on CUDA one kernel for all texts: PyTorch's own, or that of flash-attn.

    Raises:
        ValueError: with what the platform lacks.
    """
    if device == "cpu":
        AttentionInterface.register(_PER_TEXT, per_text_attention)
        return _PER_TEXT
    if dtype not in (torch.bfloat16, torch.float16):
        raise ValueError(f"packed attention on CUDA computes in half precision, not {dtype}; use --dtype bfloat16")
    if importlib.util.find_spec("torch.nn.attention.varlen") is not None:
        AttentionInterface.register(_VARLEN, varlen_attention)
        return _VARLEN
    if is_flash_attn_2_available():
        return "flash_attention_2"
    raise ValueError("packed attention on CUDA needs torch.nn.attention.varlen (torch 2.10) or the package flash-attn")


def packed(batch: Batch, config: Any) -> Batch:
    """A batch [B, N] as one row without padding.

    Returns:
        ``input_ids`` and ``position_ids`` [1, T]; ``borders`` [B + 1] int32, first token of each text and T;
        ``longest`` (on the CPU), tokens of the longest text. A data loader makes all of it, so it is not timed.
    """
    real = batch["attention_mask"].bool()
    lengths = real.sum(1)
    table = adapter_for(config.model_type).position_table(config)
    places = torch.arange(real.shape[1], device=real.device).expand(real.shape) + (0 if table is None else table.offset)
    return {
        "input_ids": batch["input_ids"][real].unsqueeze(0),
        "position_ids": places[real].unsqueeze(0),
        "borders": F.pad(lengths.cumsum(0), (1, 0)).to(torch.int32),
        "longest": lengths.amax().cpu(),
    }


class PackedDense:
    """The encoder on packed batches -> states of the first token of each text, [B, 1, D]."""

    def __init__(self, encoder: nn.Module) -> None:
        self.encoder: Any = encoder

    def __call__(self, batch: Batch) -> Tensor:
        borders, longest = batch["borders"], int(batch["longest"])
        texts = {"cu_seq_lens_q": borders, "cu_seq_lens_k": borders, "max_length_q": longest, "max_length_k": longest}
        output = self.encoder(input_ids=batch["input_ids"], position_ids=batch["position_ids"], **texts)
        states: Tensor = output.last_hidden_state[0, borders[:-1].long()]
        return states.unsqueeze(1)


def per_text_attention(
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
    """Attention of each text to itself, [1, H, T, d] -> [1, T, H, d]; signature and result as transformers has them."""
    parts = []
    for first, last in zip(cu_seq_lens_q[:-1].tolist(), cu_seq_lens_q[1:].tolist(), strict=True):
        q, k, v = (states[:, :, first:last] for states in (query, key, value))
        band = _band(last - first, sliding_window, query.device)
        parts.append(F.scaled_dot_product_attention(q, k, v, band, dropout_p=dropout, scale=scaling))
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
    """The same in one kernel, https://docs.pytorch.org/docs/stable/nn.attention.varlen.html.

    Raises:
        ValueError: attention dropout is asked for, which the kernel does not have.
    """
    from torch.nn.attention.varlen import varlen_attn  # not part of every supported version

    if dropout > 0.0:
        raise ValueError("packed attention has no dropout; set the encoder's attention dropout to 0")
    sides = -1 if sliding_window is None else sliding_window - 1
    # [T, H, d]; under autocast rotary positions may leave float32, which the kernel does not take
    q, k, v = (states[0].transpose(0, 1).to(value.dtype) for states in (query, key, value))
    each, longest = cu_seq_lens_q, max_length_q
    output = cast(Tensor, varlen_attn(q, k, v, each, each, longest, longest, scale=scaling, window_size=(sides, sides)))
    return output.unsqueeze(0), None


def _band(length: int, sliding_window: int | None, device: torch.device) -> Tensor | None:
    """[N, N] bool, True = within the window; the library's number is the keys on one side and the token itself."""
    if sliding_window is None or sliding_window >= length:
        return None
    places = torch.arange(length, device=device)
    return (places[:, None] - places[None, :]).abs() < sliding_window
