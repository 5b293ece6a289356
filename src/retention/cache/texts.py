"""Read texts for the commands of the bounded cache."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from retention.data.local_files import utf8_lines
from retention.errors import DataError, require
from retention.json_text import DuplicateKeyError, parse_json


def read_texts(path: Path, field: str = "text") -> Iterator[str]:
    """Yield the texts of a file: one per line of ``.txt``, or the value of ``field`` per line of ``.jsonl``.

    Raises:
        DataError: the file is missing, of another kind, not UTF-8, or a line has no such field.
    """
    if path.suffix not in (".txt", ".jsonl"):
        raise DataError(f"{path}: must be .txt (one text per line) or .jsonl")
    try:
        for number, line in enumerate(utf8_lines(path), start=1):
            if not line.strip():
                continue
            if path.suffix == ".txt":
                yield line.rstrip("\r\n")
                continue
            try:
                text = parse_json(line)[field]
            except DuplicateKeyError as error:
                raise DataError(f"{path}:{number}: {error.msg}; remove one of them") from error
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(f"{path}:{number}: not a JSON object with the field {field!r}") from error
            if not isinstance(text, str):
                raise DataError(f"{path}:{number}: {field!r} must be a string, got {type(text).__name__}")
            yield text
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error})") from error


def encode_texts(
    path: Path,
    tokenizer: Any,
    *,
    field: str = "text",
    limit: int,
    shortest: int,
    longest: int,
    skip: int = 0,
    distinct: bool = False,
) -> list[Tensor]:
    """Read and tokenize texts, cut to ``longest`` tokens; texts below ``shortest`` tokens are left out.

    Args:
        path: see ``read_texts``.
        tokenizer: a Hugging Face tokenizer.
        field: see ``read_texts``.
        limit: number of texts to return at most.
        shortest: fewest tokens of a text.
        longest: most tokens of a text.
        skip: number of texts that are long enough to leave out first.
        distinct: True to leave out texts with the same tokens as an earlier one.

    Returns:
        Token ids [1, T] of each text.

    Raises:
        ConfigError: ``limit`` is below 1, or ``skip`` below 0.
        DataError: the file cannot be read, or no text is long enough.
    """
    require(limit >= 1, "limit", f"must be >= 1, got {limit}")
    require(skip >= 0, "skip", f"must be >= 0, got {skip}")
    encoded: list[Tensor] = []
    seen: set[tuple[int, ...]] = set()
    for text in read_texts(path, field):
        ids = tokenizer(text, return_tensors="pt", truncation=True, max_length=longest)["input_ids"]
        tokens = tuple(ids[0].tolist())
        if len(tokens) >= shortest and not (distinct and tokens in seen):
            encoded.append(ids)
            seen.add(tokens)
        if len(encoded) == skip + limit:
            break
    if len(encoded) <= skip:
        raise DataError(
            f"{path}: only {len(encoded)} texts have {shortest} tokens or more; needs over {skip}; give longer "
            "texts, or choose a smaller cache or window, or skip fewer"
        )
    return encoded[skip:]
