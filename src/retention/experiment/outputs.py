"""Check that a run can write its files, before it trains, and write its model folder."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from pytorch_lightning.utilities import rank_zero_only

from retention.data.base import RetentionData
from retention.data.encoded_split import cache_folder
from retention.errors import Checks, require
from retention.experiment.model_card import training_details
from retention.experiment.steps import RunParts
from retention.models.retention_model import RetentionModel
from retention.records import Record
from retention.tasks.trained_model import trained_class_of


@rank_zero_only
def check_outputs(runs: Iterable[tuple[DictConfig, RunParts]]) -> None:
    """Create the run folders, and try to write where the runs will write.

    Args:
        runs: configuration and parts of each run.

    Raises:
        ConfigError: all places that cannot be written, with the reason.
    """
    checks = Checks()
    for config, parts in runs:
        checks.gather(lambda config=config: _try_folder("paths.run_dir", Path(config.paths.run_dir)))  # type: ignore[misc]
        if config.output is not None:
            folder = Path(config.output).expanduser().resolve()
            parts.check_output(folder)
            checks.gather(lambda folder=folder: _try_folder("output", folder.parent))  # type: ignore[misc]
        if config.record is not None:
            checks.gather(lambda config=config: _try_record(Path(config.record)))  # type: ignore[misc]
    checks.gather(lambda: _try_folder("HF_DATASETS_CACHE", cache_folder()))
    checks.problems = list(dict.fromkeys(checks.problems))
    checks.finish()


def check_parent(key: str, folder: Path) -> None:
    """Raise ``ConfigError`` unless a folder exists or can be created; nothing is created.

    Args:
        key: of the setting that names the folder.
        folder: the folder.
    """
    try:
        with suppress(FileNotFoundError, NotADirectoryError):
            folder.stat()
        parent = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    except (OSError, ValueError) as error:  # a name that is too long, or has a null character
        require(False, key, f"{str(folder)!r} cannot be used ({error}); choose another folder")
    require(parent.is_dir(), key, f"{str(folder)!r} cannot be created, {parent} is a file; choose another folder")
    _try_folder(key, parent)


def save_output(folder: str, model: RetentionModel, data: RetentionData, record: Record) -> None:
    """Write the model folder of a finished run.

    Args:
        folder: ``output`` of the configuration.
        model: the trained model; moved to the CPU and set to evaluation mode.
        data: of the run.
        record: of the run, for the model card.

    Raises:
        DataError: the folder holds other files, or cannot be written.
    """
    trained: Any = trained_class_of(model.head)(model.cpu().eval(), data)
    trained.save_pretrained(Path(folder).expanduser(), details=training_details(record))


def _try_folder(key: str, folder: Path) -> None:
    """Raise ``ConfigError`` unless a file can be created in a folder, which is created if needed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, ValueError) as error:  # a path with a null character is a ValueError
        reason = getattr(error, "strerror", None) or str(error)
        require(False, key, f"{str(folder)!r} cannot be written ({reason}); choose another folder")


def _try_record(file: Path) -> None:
    """Raise ``ConfigError`` unless a line can be appended to a file; nothing is written."""
    require(not file.is_dir(), "record", f"{file} is a folder; name a file in it, such as {file}/records.jsonl")
    require(file.suffix != ".json", "record", f"{file} would get several records; use the suffix .jsonl")
    _try_folder("record", file.parent)
    if file.exists():
        require(file.is_file(), "record", f"{file} is not a regular file")
        try:
            with file.open("ab"):
                pass
        except OSError as error:
            require(False, "record", f"{file} cannot be written ({error.strerror}); choose another file")
