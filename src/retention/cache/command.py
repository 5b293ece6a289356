"""Provide what the commands of this package share: exit codes, decoders, and the arguments of a cache."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from retention.cache.budget import CacheBudget
from retention.errors import MODEL_LOAD_ERRORS, CheckpointError, RetentionError, first_line, require

if TYPE_CHECKING:  # needs the extra ``experiments``
    from retention.records import Decoding


def exit_code(command: Callable[[], None]) -> int:
    """Run a command and return 0; print an error of this project and return 1.

    Args:
        command: does the work.
    """
    try:
        command()
    except RetentionError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def load_decoder(name: str, attn_implementation: str | None = None) -> Any:
    """Load a causal language model in float32, in evaluation mode.

    Args:
        name: folder or hub name.
        attn_implementation: None = the default of the family.

    Raises:
        CheckpointError: there is none that can be loaded.
    """
    from transformers import AutoModelForCausalLM

    options = {"dtype": torch.float32, "attn_implementation": attn_implementation}
    return _load(AutoModelForCausalLM, name, "decoder", options).eval()


def load_tokenizer(name: str) -> Any:
    """Load the tokenizer of a decoder.

    Args:
        name: folder or hub name.

    Raises:
        CheckpointError: there is none that can be loaded.
    """
    from transformers import AutoTokenizer

    return _load(AutoTokenizer, name, "tokenizer", {})


def _load(loader: Any, name: str, part: str, options: dict[str, Any]) -> Any:
    try:
        return loader.from_pretrained(name, **options)
    except MODEL_LOAD_ERRORS as error:
        local = Path(name).is_dir()
        place = f"the folder holds no usable {part}" if local else "neither a folder nor a hub model within reach"
        remedy = "give the folder of a decoder with its tokenizer, completely copied"
        raise CheckpointError(f"{name}: {place}; {remedy} ({first_line(error)})") from error


def add_cache_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the decoder, the files of learned scores, and the budget of a cache."""
    parser.add_argument("--model", required=True, help="folder or hub name of a decoder")
    parser.add_argument("--scores", type=Path, nargs="*", default=[], help="files of retention.cache.train")
    parser.add_argument("--sinks", type=int, default=4, help="default: 4")
    parser.add_argument("--window-share", type=float, default=0.5, help="window / size (default: 0.5)")
    parser.add_argument("--per-head", action="store_true", help="let each key-value head hold its own tokens")


def cache_budget(size: int, arguments: argparse.Namespace) -> CacheBudget:
    """Build the budget of a cache of ``size`` tokens per layer or head from the arguments of a command.

    Raises:
        ConfigError: size, sinks or window do not fit together; names the options of the command.
    """
    require(arguments.sinks >= 0, "--sinks", f"must be 0 or more, got {arguments.sinks}")
    message = f"must be in (0, 1], got {arguments.window_share}"
    require(0 < arguments.window_share <= 1, "--window-share", message)
    window = max(1, int(size * arguments.window_share))
    message = (
        f"must leave room for {arguments.sinks} first tokens (--sinks) and a window of {window} "
        f"(--window-share {arguments.window_share:g}), got {size}"
    )
    require(size >= arguments.sinks + window, "--sizes" if hasattr(arguments, "sizes") else "--size", message)
    return CacheBudget(size=size, sinks=arguments.sinks, window=window, per_head=arguments.per_head)


def append_result(arguments: argparse.Namespace, result: Decoding, seconds: float, argv: Sequence[str]) -> None:
    """Append the record of a result to the file of ``--record``; needs the extra ``experiments``.

    Args:
        arguments: of the command, the configuration of the record.
        result: the record.
        seconds: that the measurement took.
        argv: arguments of Python that repeat the command.
    """
    from retention.records import append_record, build_record

    config = {
        name: [str(item) for item in value] if isinstance(value, list | tuple) else str(value)
        for name, value in vars(arguments).items()
        if name != "record"
    } | {"threads": torch.get_num_threads()}
    append_record(arguments.record, build_record(result, config=config, seed=arguments.seed, wall_s=seconds, argv=argv))
