"""Name and create the folders of runs and of the jobs of sweeps."""

from __future__ import annotations

import hashlib
import re
from itertools import count
from pathlib import Path

from omegaconf import OmegaConf

_MAX_BYTES = 150  # of a job's folder name; file systems allow 255


def register_resolvers() -> None:
    """Make ``${job_name:...}``, ``${new_folder:...}`` and ``${last_part:...}`` available to configurations."""
    OmegaConf.register_new_resolver("job_name", job_name, replace=True)
    OmegaConf.register_new_resolver("new_folder", new_folder, replace=True, use_cache=True)
    OmegaConf.register_new_resolver("last_part", last_part, replace=True)


def last_part(path: str | None) -> str:
    """Return the last part of the path of a model, or ``pretrained`` without one.

    Examples:
        >>> last_part("sentence-transformers/all-MiniLM-L6-v2")
        'all-MiniLM-L6-v2'
    """
    return Path(path).name if path else "pretrained"


def new_folder(path: str) -> str:
    """Create a folder that did not exist before and return its path; a number is appended if the path is taken.

    The creation is atomic, so two runs that start in the same second get folders of their own.
    """
    parent = Path(path).parent
    parent.mkdir(parents=True, exist_ok=True)
    for number in count(1):
        folder = parent / (Path(path).name if number == 1 else f"{Path(path).name}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return str(folder)
    raise AssertionError("unreachable")


def job_name(overrides: str) -> str:
    """Return a folder name for the overrides of a job: the overrides themselves, or their beginning and a digest.

    Args:
        overrides: ``key=value,key=value``, as in ``hydra.job.override_dirname``.

    Examples:
        >>> job_name("retention.rho=0.3,retention=adaptive")
        'retention.rho=0.3,retention=adaptive'
        >>> job_name("")
        'defaults'
        >>> job_name("retention.schedule=[0.5, 0.3]")
        'retention.schedule=_0.5,_0.3_-4d65d202'
    """
    plain = re.sub(r"[^\w.,=+~@-]", "_", overrides, flags=re.ASCII)
    if plain == overrides and len(plain) <= _MAX_BYTES:
        return plain or "defaults"
    digest = hashlib.sha256(overrides.encode()).hexdigest()[:8]
    return f"{plain[: _MAX_BYTES - 9]}-{digest}"
