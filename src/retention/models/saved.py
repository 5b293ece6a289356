"""The encoder of a finished run, kept beside its checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from retention.errors import CheckpointError
from retention.models.backbone import Backbone


class Saved(Backbone):
    """The encoder of a finished run: configuration and tokenizer from its folder, weights from the checkpoint.

    Args:
        name: shown in tables.
        path: folder written by ``save_backbone``.
        attn_implementation: see ``Backbone``.
    """

    def __init__(self, *, name: str, path: str, attn_implementation: str | None = None) -> None:
        super().__init__(name=name, attn_implementation=attn_implementation)
        self.path = path

    def config(self, vocab_size: int | None = None) -> Any:
        if not (Path(self.path) / "config.json").is_file():
            raise CheckpointError(
                f"{self.path}: no encoder configuration beside the checkpoint; a run folder holds checkpoints/ and "
                "encoder/ side by side, keep them together"
            )
        return AutoConfig.from_pretrained(self.path)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(self.path)
        return tokenizer


def save_backbone(folder: Path, encoder: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write configuration and tokenizer, so that a checkpoint can be used without the original model."""
    folder.mkdir(parents=True, exist_ok=True)
    encoder.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
