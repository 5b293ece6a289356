"""Record an encoder with token removal as a graph of ``torch.export``."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from retention.errors import require
from retention.policies.adaptive import Adaptive
from retention.policies.dense import Dense
from retention.policies.truncate import Truncate
from retention.pretrained import Embedder, RetentionEncoder
from retention.pretrained.budget import check_rho

OUTPUTS = ("sentence_embedding", "token_embeddings")

FAMILIES = ("bert", "distilbert", "mpnet", "roberta", "xlm-roberta")  # exported and compared in the tests
POLICIES = (Adaptive, Truncate, Dense)

_EXAMPLE_SHAPE = (3, 17)  # any batch and length that the sizes of no model equal
_MOST_ROWS = 2**16


class _TensorCall(nn.Module):
    """Encoder or embedder as a function of tensors, from token ids to one tensor.

    Args:
        model: encoder or embedder.
        output: one of ``OUTPUTS``.
    """

    def __init__(self, model: Embedder | RetentionEncoder, output: str) -> None:
        super().__init__()
        self.model = model
        self.output = output

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Return embeddings [B, D], or token states [B, T, D] (kept ones only if dropped tokens are cut)."""
        if self.output == "sentence_embedding":
            embeddings: Tensor = self.model(input_ids, attention_mask, token_type_ids)
            return embeddings
        return encoder_in(self.model).encode(input_ids, attention_mask, token_type_ids).hidden_states


def encoder_in(model: Embedder | RetentionEncoder) -> RetentionEncoder:
    """Return the encoder with token removal of an embedder, or the encoder itself."""
    return model.encoder if isinstance(model, Embedder) else model


def takes_token_types(model: Embedder | RetentionEncoder) -> bool:
    """Return True if the encoder distinguishes segments, so that ``token_type_ids`` is an input."""
    inner: Any = encoder_in(model).encoder
    several = getattr(inner.config, "type_vocab_size", 0) > 1
    return several and "token_type_ids" in inspect.signature(type(inner).forward).parameters


def max_length(model: Embedder | RetentionEncoder) -> int:
    """Return the largest number of tokens of a sequence, from the position table of the encoder."""
    encoder = encoder_in(model)
    table = encoder.retainer.adapter.position_table(encoder.config)
    return 2**16 if table is None else table.num_positions(encoder.config)


def check_exportable(model: Embedder | RetentionEncoder, output: str) -> None:
    """Check that a model can be recorded as a graph that serves every batch.

    Raises:
        ConfigError: the output does not exist, or family, policy or setting are not among those that are tested.
    """
    require(output in OUTPUTS, "output", f"must be one of {', '.join(OUTPUTS)}, got {output!r}")
    is_embedder = isinstance(model, Embedder)
    message = "sentence_embedding needs a pooling: pass an Embedder, or choose token_embeddings"
    require(is_embedder or output != "sentence_embedding", "output", message)
    encoder = encoder_in(model)
    family, policy = str(encoder.config.model_type), encoder.policy
    require(family in FAMILIES, "family", f"must be one of {', '.join(FAMILIES)}, got {family!r}")
    names = ", ".join(each.__name__ for each in POLICIES)
    message = f"must be one of {names}, got {type(policy).__name__}: others read attention maps or change states"
    require(type(policy) in POLICIES, "policy", message)
    fuses = getattr(policy, "token_fusion", False)
    require(not fuses, "policy.token_fusion", "must be false: fused tokens are not exported; train without it")
    training = any(module.training for module in model.modules())
    require(not training, "model", "is in training mode; call model.eval() first")


def export_program(
    model: Embedder | RetentionEncoder, *, rho: float | None = None, output: str = "sentence_embedding"
) -> torch.export.ExportedProgram:
    """Record a model as a graph with the removal inside, for any batch size and any length up to the model's maximum.

    The number of kept tokens is computed in the graph from the attention mask, per sequence; tokens are gathered to the
    largest count of the batch and the other slots are masked. The keep ratio is part of the graph.

    Args:
        model: in evaluation mode, see ``check_exportable``.
        rho: target keep ratio in (0, 1]; None = the default of the model.
        output: ``sentence_embedding`` [B, D], or ``token_embeddings`` [B, T, D] with dropped tokens in the state that
            they left with ([B, M, D], kept tokens only, with ``dropped=cut``).

    Returns:
        Program with the inputs ``input_ids``, ``attention_mask`` and, for encoders with segments, ``token_type_ids``,
        [B, T] long each. Sequences are padded on the right; T >= 2.

    Raises:
        ConfigError: the model cannot be exported, or ``rho`` cannot be used.
    """
    check_exportable(model, output)
    inputs = _example(model)
    sizes = {0: torch.export.Dim("batch", min=1, max=_MOST_ROWS)}
    sizes[1] = torch.export.Dim("sequence", min=2, max=max_length(model))
    with torch.no_grad(), _at_fixed_budget(encoder_in(model), rho):
        return torch.export.export(
            _TensorCall(model, output).eval(),
            (),
            inputs,
            dynamic_shapes=cast(Any, dict.fromkeys(inputs, sizes)),
            strict=False,
        )


@contextmanager
def _at_fixed_budget(encoder: RetentionEncoder, rho: float | None) -> Iterator[None]:
    """Set the budget outside of the forward pass, which the graph then takes as constant."""
    default = encoder.rho
    chosen = encoder.default_rho if rho is None else rho
    check_rho(encoder.policy, chosen)
    encoder.rho = None
    try:
        with encoder.policy.at_budget(chosen):
            yield
    finally:
        encoder.rho = default


def _example(model: Embedder | RetentionEncoder) -> dict[str, Tensor]:
    """Return a padded batch; its values do not matter, as lengths are symbols of the graph."""
    input_ids = torch.ones(_EXAMPLE_SHAPE, dtype=torch.long)
    mask = torch.ones_like(input_ids)
    mask[0, _EXAMPLE_SHAPE[1] // 2 :] = 0
    batch = {"input_ids": input_ids, "attention_mask": mask}
    if takes_token_types(model):
        batch["token_type_ids"] = torch.zeros_like(input_ids)
    device = encoder_in(model).device
    return {name: value.to(device) for name, value in batch.items()}
