"""Write folders of files atomically: the new folder takes the place of the old one when it is complete."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from retention.errors import DataError


@contextmanager
def replaced_folder(folder: str | Path) -> Iterator[Path]:
    """Yield a temporary folder that takes the place of ``folder`` when the block ends without an error.

    Every file gets the permissions of a newly created one. What ``folder`` held is removed; the caller decides whether
    it may be.

    Args:
        folder: to write; its parents are created.

    Raises:
        DataError: the folder cannot be written.
    """
    target = Path(folder).expanduser().resolve()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    except OSError as error:
        raise DataError(f"{target}: cannot be written ({error.strerror}); choose another folder") from error
    written = temporary / "new"
    try:
        written.mkdir()
        yield written
        _make_readable(written)
        if target.exists():
            os.replace(target, temporary / "old")
        try:
            os.replace(written, target)
        except OSError:
            if (temporary / "old").exists():
                os.replace(temporary / "old", target)
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _make_readable(folder: Path) -> None:
    """Give every file the permissions of a newly created one; safetensors writes files that only the owner can read."""
    permissions = folder.stat().st_mode & 0o666  # a new folder has 0o777 without the bits of the umask
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(permissions)
