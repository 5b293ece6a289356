"""Write model folders atomically, find them on disk or on the Hugging Face hub, and upload them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HFValidationError

from retention.errors import CheckpointError, DataError, first_line
from retention.pretrained.retention_files import CONFIG, FOLDER
from retention.records.folders import replaced_folder

# Weights in formats that can hold code (*.bin, *.h5), and code, are not downloaded.
_DOWNLOADED = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "README.md")
_NOT_DOWNLOADED = ("onnx/*", "openvino/*")


@contextmanager
def written_folder(folder: str | Path) -> Iterator[Path]:
    """Yield a temporary folder that takes the place of ``folder`` when the block ends without an error.

    Args:
        folder: new or empty, or a model folder with a policy, which is replaced as a whole.

    Raises:
        DataError: the folder holds other files, or cannot be written.
    """
    check_replaceable(Path(folder).expanduser().resolve())
    with replaced_folder(folder) as written:
        yield written


def resolve_folder(name: str | Path, *, revision: str | None = None, token: str | None = None) -> Path:
    """Return a local folder, or download a model from the Hugging Face hub (JSON, text and safetensors files only).

    Args:
        name: existing folder, or the name of a model on the hub, ``owner/name``.
        revision: branch, tag or commit on the hub.
        token: access token; None = the stored login.

    Raises:
        CheckpointError: there is neither a folder nor a model of this name.
    """
    local = Path(name).expanduser()
    if local.is_dir():
        return local
    if isinstance(name, Path) or local.is_absolute() or str(name).startswith((".", "~")) or local.exists():
        raise CheckpointError(f"{name}: is not a folder; pass a model folder, or the name of a model on the hub")
    try:
        local_folder = snapshot_download(
            str(name),
            revision=revision,
            token=token,
            allow_patterns=list(_DOWNLOADED),
            ignore_patterns=list(_NOT_DOWNLOADED),
        )
    except (HFValidationError, OSError, ValueError) as error:
        reason = first_line(error)
        raise CheckpointError(f"{name}: is neither a folder nor a model that the hub gives out ({reason})") from error
    return Path(local_folder)


def push_folder(
    write: Callable[[Path], None], repo_id: str, *, private: bool | None, token: str | None, commit_message: str
) -> str:
    """Write a model folder and upload it to a repository, which is created if needed; return the commit's address.

    Args:
        write: writes the folder.
        repo_id: ``owner/name``.
        private: visibility of a new repository; None = the default of the owner.
        token: access token; None = the stored login.
        commit_message: of the upload.
    """
    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "model"
        write(folder)  # before the repository is created: a model that cannot be saved leaves nothing behind
        repository = api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository.repo_id, folder_path=folder, commit_message=commit_message, repo_type="model"
        )
    return str(commit.commit_url)


def check_replaceable(target: Path) -> None:
    """Raise ``DataError`` if a model folder cannot be written to ``target`` without the loss of other files."""
    if not target.exists():
        return
    if not target.is_dir():
        raise DataError(f"{target}: is a file; choose the name of a folder")
    if any(target.iterdir()) and not (target / FOLDER / CONFIG).is_file():
        raise DataError(f"{target}: holds other files, which would be lost; choose a new or empty folder")
