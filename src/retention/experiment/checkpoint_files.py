"""Write checkpoint files so that a crash or a full disk never leaves a part of one."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import TorchCheckpointIO
from typing_extensions import override

from retention.errors import CheckpointError, first_line
from retention.experiment.training_state import add_digest


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write each checkpoint under a temporary name in its own folder, then rename it.

    Until the new file is complete on the disk, an older one of the same name stays as it is. The temporary name is
    always the same, so that the remains of a killed process are overwritten by the next one.
    """

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write a checkpoint, with a digest of its training state.

        Raises:
            CheckpointError: the file cannot be written, for example because the disk is full.
        """
        target = Path(path)
        temporary = target.with_name(f".{target.name}.tmp")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                torch.save(add_digest(checkpoint), file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except (OSError, RuntimeError) as error:  # torch reports an incomplete write as RuntimeError
            reason = getattr(error, "strerror", None) or first_line(error)
            kept = f"; the earlier {target.name} is unchanged" if target.exists() else ""
            raise CheckpointError(
                f"{target}: the checkpoint cannot be written ({reason}); free some space or make the folder "
                f"writable, then run the command again{kept}"
            ) from error
        finally:
            _remove(temporary)
        _sync_folder(target.parent)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # a read-only folder holds no temporary file of ours
        path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make the renaming durable, where the system can sync folders."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    with contextlib.suppress(OSError):
        os.fsync(handle)
    os.close(handle)
