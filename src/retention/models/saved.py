"""Save and load the encoder configuration and tokenizer of a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from retention.errors import CheckpointError, first_line
from retention.models.backbone import Backbone

_ATTENTION = (None, "eager", "sdpa")


class SavedBackbone(Backbone):
    """Encoder of a finished run: configuration and tokenizer from its folder, weights from the checkpoint.

    Nothing is downloaded and no code in the folder is run.

    Args:
        name: displayed in tables.
        path: folder written by ``save_backbone``.
        attn_implementation: see ``Backbone``.
    """

    def __init__(self, *, name: str, path: str, attn_implementation: str | None = None) -> None:
        super().__init__(name=name, attn_implementation=attn_implementation)
        self.path = path

    def config(self, vocab_size: int | None = None) -> Any:
        """Read the Hugging Face configuration from the folder.

        Raises:
            CheckpointError: the folder has no usable configuration.
        """
        if not (Path(self.path) / "config.json").is_file():
            raise CheckpointError(
                f"{self.path}: no encoder configuration beside the checkpoint; a run folder holds checkpoints/ and "
                "encoder/ side by side, keep them together"
            )
        return self._load(AutoConfig)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Read the tokenizer from the folder.

        Raises:
            CheckpointError: the folder has no usable tokenizer.
        """
        tokenizer: PreTrainedTokenizerBase = self._load(AutoTokenizer)
        return tokenizer

    def _load(self, loader: Any) -> Any:
        try:
            loaded = loader.from_pretrained(self.path, trust_remote_code=False, local_files_only=True)
        except Exception as error:  # damaged files raise errors of many types in transformers and tokenizers
            raise CheckpointError(
                f"{self.path}: cannot be read ({first_line(error, 160)}); copy the folder again"
            ) from error
        attention = getattr(loaded, "_attn_implementation", None)
        if attention not in _ATTENTION:  # other values would download and run code from the hub
            raise CheckpointError(
                f"{self.path}: attn_implementation {attention!r} in config.json is not allowed; remove it"
            )
        return loaded


def save_backbone(folder: Path, encoder: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write configuration and tokenizer, so that a checkpoint can be used without the original model."""
    folder.mkdir(parents=True, exist_ok=True)
    encoder.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
