"""Read and write files of tensors that can be computed again; damaged files are removed."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from retention.errors import first_line

T = TypeVar("T")

log = logging.getLogger(__name__)


def load_cached(file: Path | None, description: str, parse: Callable[[dict[str, Tensor]], T]) -> T | None:
    """Return the parsed tensors of a cache file; None if there is none, or if it is damaged: then it is removed.

    Args:
        file: written by ``save_tensors``; files of earlier versions have no checksum.
        description: of the content, for the warning.
        parse: turns the tensors into the result; any error of it means that the file is damaged.
    """
    if file is None or not file.exists():
        return None
    try:
        content: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
        stored = content.pop("checksum", None)
        if stored is not None and not torch.equal(stored, _checksum(content)):
            raise ValueError("its checksum differs")
        if any(bool(values.isnan().any()) for values in content.values()):
            raise ValueError("it has NaN values")
        return parse(content)
    except Exception as error:  # for damaged files the unpickler raises errors of many types
        reason = first_line(error)
        log.warning("%s: the cached %s are damaged (%s) and are computed again", file, description, reason)
        file.unlink(missing_ok=True)
        return None


def save_tensors(file: Path, content: dict[str, Tensor]) -> None:
    """Write tensors with their checksum, under a temporary name that is renamed; call under a lock."""
    temporary = file.with_name(f"{file.name}.tmp")
    try:
        torch.save({**content, "checksum": _checksum(content)}, temporary)
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


def _checksum(content: dict[str, Tensor]) -> Tensor:
    """Compute the SHA-256 of the tensors, [32] uint8."""
    digest = hashlib.sha256()
    for name in sorted(content):
        digest.update(name.encode() + content[name].contiguous().numpy().tobytes())
    return torch.tensor(list(digest.digest()), dtype=torch.uint8)
