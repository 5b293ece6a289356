"""Train low-rank adapters (LoRA, Hu et al., arXiv 2106.09685) of a decoder together with the scorers of its cache."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from retention.errors import ConfigError, DataError, Problem, require
from retention.records.folders import replaced_folder


@dataclass(frozen=True)
class LoraAdapters:
    """Adapters in the linear layers of a decoder, which stays the object that it was.

    Attributes:
        peft_model: the wrapper of peft.
    """

    peft_model: Any

    @classmethod
    def attach(cls, model: nn.Module, rank: int) -> LoraAdapters:
        """Put adapters of this rank, which do nothing yet, into all linear layers of the decoder, in place.

        Args:
            model: a decoder of transformers.
            rank: r of the adapters, >= 1.

        Raises:
            ConfigError: the rank is out of range, or peft is not installed.
        """
        require(rank >= 1, "lora", f"the rank must be >= 1, got {rank}; leave the option out to train scorers alone")
        try:
            from peft import LoraConfig, get_peft_model
        except ModuleNotFoundError as error:
            message = "adapters need peft, which is not installed: pip install peft"
            raise ConfigError([Problem("lora", message)]) from error
        config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
        return cls(get_peft_model(model, config))

    @property
    def decoder(self) -> Any:
        """Return the decoder with its adapters."""
        return self.peft_model.get_base_model()

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the adapters."""
        return [parameter for name, parameter in self.peft_model.named_parameters() if "lora_" in name]

    def disabled(self) -> AbstractContextManager[None]:
        """Return a context in which the decoder computes without its adapters."""
        context: AbstractContextManager[None] = self.peft_model.disable_adapter()
        return context

    def save(self, folder: Path, tokenizer: Any) -> None:
        """Write adapters and tokenizer to a folder that ``from_pretrained`` loads with the decoder they belong to.

        Args:
            folder: must not exist; it appears when it is complete.
            tokenizer: of the decoder.

        Raises:
            DataError: the folder exists, or cannot be written.
        """
        if folder.exists():
            raise DataError(f"{folder}: exists; choose a new folder for the adapters")
        with replaced_folder(folder) as written:
            self.peft_model.save_pretrained(written)
            tokenizer.save_pretrained(written)
