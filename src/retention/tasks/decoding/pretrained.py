"""Load pretrained decoders of the supported families."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retention.cache.command import load_decoder, load_tokenizer
from retention.cache.families import ATTENTION, check_family
from retention.errors import ConfigError, Problem, first_line, require


@dataclass(frozen=True, kw_only=True)
class PretrainedDecoder:
    """Decoder of a folder or of the hub.

    Attributes:
        name: for the configuration.
        path: folder, or name on the hub.
        attn_implementation: ``sdpa`` or ``eager``; None = sdpa.

    Raises:
        ConfigError: a setting is out of range.
    """

    name: str
    path: str | None
    attn_implementation: str | None = None

    def __post_init__(self) -> None:
        message = "is required: the folder of a decoder, or its name on the hub; pass backbone.path=<folder>"
        require(isinstance(self.path, str) and bool(self.path.strip()), "path", message)
        valid = self.attn_implementation is None or self.attn_implementation in ATTENTION
        message = f"must be null or one of {', '.join(ATTENTION)}, got {self.attn_implementation!r}"
        require(valid, "attn_implementation", message)

    @property
    def label(self) -> str:
        """Return the name of the decoder for records."""
        return Path(str(self.path)).name

    def config(self) -> Any:
        """Load the configuration and check the family.

        Raises:
            ConfigError: there is no such decoder, or its family is not supported.
        """
        from transformers import AutoConfig

        try:
            config = AutoConfig.from_pretrained(str(self.path))
        except (OSError, ValueError) as error:
            message = f"{self.path}: holds no decoder that can be loaded ({first_line(error)}); check the path"
            raise ConfigError([Problem("path", message)]) from error
        check_family(config)
        return config

    def tokenizer(self) -> Any:
        """Load the tokenizer.

        Raises:
            CheckpointError: there is none.
        """
        return load_tokenizer(str(self.path))

    def load(self) -> Any:
        """Load the weights in float32, in evaluation mode.

        Raises:
            CheckpointError: they cannot be loaded.
        """
        return load_decoder(str(self.path), self.attn_implementation or "sdpa")
