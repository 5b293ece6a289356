"""Load and save the Hugging Face part of a model folder: encoder and tokenizer."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging as library_logging

from retention.engine import adapter_for
from retention.errors import MODEL_LOAD_ERRORS, CheckpointError, ConfigError, Problem, first_line, require

RUN_CHECKPOINT = Path("checkpoints") / "last.ckpt"  # of a run of the experiment framework

_ATTENTION = (None, "eager", "sdpa")
_ENCODER_ONLY = {"t5": "T5EncoderModel"}  # where AutoModel would add a decoder


def load_model(folder: Path, attn_implementation: str | None = None, *, loader: Any = None) -> Any:
    """Load an encoder in float32 and evaluation mode; code in the folder is not run.

    Args:
        folder: model folder.
        attn_implementation: ``sdpa``, ``eager`` or None = the default of the family.
        loader: class with ``from_pretrained``; None = the encoder without a head.

    Raises:
        CheckpointError: the folder holds no usable model, or lacks weights of the encoder.
        ConfigError: the family is not supported, or the attention is neither ``sdpa`` nor ``eager``.
    """
    message = f"must be sdpa, eager or null, got {attn_implementation!r}"
    require(attn_implementation in _ATTENTION, "attn_implementation", message)
    family = str(checked_config(folder).model_type)
    options: dict[str, Any] = {"dtype": torch.float32, "output_loading_info": True}
    if attn_implementation is not None:
        options["attn_implementation"] = attn_implementation
    with torch.random.fork_rng(devices=[]), _quiet():  # weights that the folder lacks are drawn at random
        model, report = _load(folder, loader or _encoder_class(family), **options)
    if any(name.startswith("pooler.") for name in report["missing_keys"]):
        model.pooler = None
    lacking = sorted(name for name in report["missing_keys"] if not name.startswith("pooler."))
    if lacking:
        listed = ", ".join(lacking[:3])
        raise CheckpointError(f"{folder}: lacks {len(lacking)} weights of the model ({listed}); it is another model")
    return model.eval()


def checked_config(folder: Path) -> Any:
    """Return the Hugging Face configuration of a model folder; code in the folder is not run.

    Raises:
        CheckpointError: there is no usable configuration, or loading the model would run code.
        ConfigError: the family is not supported.
    """
    if not (folder / "config.json").is_file():
        message = "holds no config.json; pass the folder of a Hugging Face or retained model"
        if (folder / RUN_CHECKPOINT).is_file():
            message = "is the folder of a run, which retention.load loads; pass the folder of a model"
        raise CheckpointError(f"{folder}: {message}")
    config: Any = _load(folder, AutoConfig)
    stored = getattr(config, "_attn_implementation", None)
    if stored not in _ATTENTION:  # other values would download and run code from the hub
        message = f"attn_implementation {stored!r} in config.json is not allowed; remove it"
        raise CheckpointError(f"{folder}: {message}")
    try:
        adapter_for(str(config.model_type))
    except ConfigError as error:
        raise ConfigError([Problem(str(folder), problem.message) for problem in error.problems]) from error
    return config


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model folder; code in the folder is not run.

    Raises:
        CheckpointError: the folder holds no usable tokenizer.
    """
    tokenizer: PreTrainedTokenizerBase = _load(folder, AutoTokenizer)
    return tokenizer


def save_model(model: nn.Module, tokenizer: PreTrainedTokenizerBase | None, folder: Path) -> None:
    """Write encoder and tokenizer as Hugging Face models do.

    Raises:
        ConfigError: ``AutoModel`` would not load the encoder from its folder.
    """
    hugging_face: Any = model
    expected = _saved_class(hugging_face.config)
    if type(model) is not expected:
        message = (
            f"AutoModel loads a {expected.__name__} from a folder of this family, so a {type(model).__name__} cannot "
            f"be saved; pass a {expected.__name__} (of a PEFT model the result of merge_and_unload)"
        )
        raise ConfigError([Problem("encoder", message)])
    hugging_face.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the library's report of missing weights, which are checked here."""
    before = library_logging.get_verbosity()
    library_logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        library_logging.set_verbosity(before)


def _encoder_class(family: str) -> Any:
    return getattr(transformers, _ENCODER_ONLY[family]) if family in _ENCODER_ONLY else AutoModel


def _saved_class(config: Any) -> type:
    mapping: Any = AutoModel
    family = str(config.model_type)
    matching: Any = mapping._model_mapping[type(config)] if family not in _ENCODER_ONLY else _encoder_class(family)
    cls: type = matching[0] if isinstance(matching, tuple) else matching
    return cls


def _load(folder: Path, loader: Any, **options: Any) -> Any:
    try:
        return loader.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True, **options)
    except MODEL_LOAD_ERRORS as error:
        raise CheckpointError(f"{folder}: cannot be loaded ({first_line(error)}); copy the folder again") from error
