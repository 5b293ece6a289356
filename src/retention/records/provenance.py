"""Describe the origin of a result: command, commit, package versions and machine, without private paths."""

from __future__ import annotations

import os
import platform
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

_PROJECT = Path(__file__).resolve().parents[3]
_PACKAGES = {
    "torch": "torch",
    "lightning": "pytorch-lightning",
    "transformers": "transformers",
    "datasets": "datasets",
    "retention": "adaptive-retention",
}
# an absolute path inside a longer text: not the tail of a relative path, not part of a web address
_PATH = re.compile(r"(?:(?<=file://)|(?<![\w.~/-]))/(?!/)[^\s'\"=,:;\[\]{}()]+")


def portable(value: Any, root: Path = _PROJECT) -> Any:
    """Return ``value`` without absolute paths of this machine; mappings and sequences are converted as well.

    A path below ``root`` becomes relative to it, any other keeps its last two parts; relative paths, ``~`` and web
    addresses stay unchanged.

    Examples:
        >>> portable({"dir": "/home/ann/sets/sst2", "hub": "https://example.org/a/b"})
        {'dir': 'sets/sst2', 'hub': 'https://example.org/a/b'}
    """
    if isinstance(value, str):
        return _portable_text(value, root)
    if isinstance(value, Mapping):
        return {key: portable(item, root) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [portable(item, root) for item in value]
    return value


def command_line(argv: Sequence[str]) -> str:
    """Return the command to type, with portable paths; a script is called through ``python``."""
    is_console_command = Path(argv[0]).name == "retention"
    words = ["retention", *argv[1:]] if is_console_command else ["python", *argv]
    return " ".join(shlex.quote(portable(word)) for word in words)


_NOT_RECORDS = ("--", ":(top)", ":(top,exclude)results")


def commit() -> str:
    """Return the commit of the running source; ``unknown`` outside of git.

    ``-dirty`` is appended if tracked files were changed. Changes below ``results/`` do not count, since the first run
    of a series appends a record there.
    """
    source = Path(__file__).resolve()
    # an installed copy may lie inside some other repository, whose commit would say nothing
    if _git("ls-files", "--error-unmatch", source.name, folder=source.parent) is None:
        return "unknown"
    head = _git("rev-parse", "HEAD", folder=source.parent)
    if head is None:
        return "unknown"
    changes = _git("status", "--porcelain", "--untracked-files=no", *_NOT_RECORDS, folder=source.parent)
    return f"{head}-dirty" if changes else head


def versions() -> dict[str, str | None]:
    """Return the versions of Python and of the packages a result depends on; None = not installed as a package."""
    installed: dict[str, str | None] = {"python": platform.python_version()}
    for name, distribution in _PACKAGES.items():
        try:
            installed[name] = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            installed[name] = None
    return installed


def usable_cores() -> int:
    """Return the number of cores that this process may use; all cores where the system does not report it."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> dict[str, Any]:
    """Return processor, usable cores, memory, GPU (None without one) and operating system, without the host name."""
    ram = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": _cpu_model(),
        "cores": usable_cores(),
        "ram_gib": round(ram / 2**30, 1),
        "gpu": _gpu_name(),
        "platform": platform.platform(),
    }


def _portable_text(text: str, root: Path) -> str:
    if text.startswith("/") and not any(mark in text for mark in "=,:"):
        return _short(text, root)  # a path on its own, perhaps with spaces
    return _PATH.sub(lambda match: _short(match[0], root), text)


def _short(path: str, root: Path) -> str:
    pure = PurePosixPath(path)
    if pure.is_relative_to(root):
        return str(pure.relative_to(root))
    return "/".join(pure.parts[1:][-2:]) or path


def _git(*arguments: str, folder: Path) -> str | None:
    """Return the output of a git command, None if it failed or git is not installed."""
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _cpu_model() -> str:
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        for line in listing.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _gpu_name() -> str | None:
    import torch  # not at module level: programs that only read records need none of it

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None
