"""Check the names of ``retention`` and what importing them loads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import retention
from retention.errors import RetentionError
from retention.extras import missing_extra_message
from retention.policies.bases.retention_policy import RetentionPolicy
from retention.policies.registry import available_policies

EXTRAS = ("pytorch_lightning", "hydra", "omegaconf", "datasets", "evaluate", "pandas", "scipy", "sklearn", "matplotlib")


def modules_after(code: str) -> Any:
    """Return the names of the modules that a new process has loaded after running ``code``."""
    report = f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_the_package_loads_no_dependency() -> None:
    assert not modules_after("import retention") & {"torch", "transformers", "numpy", *EXTRAS}


def test_policies_and_retain_need_no_extra() -> None:
    names = [name for name in retention.__all__ if name != "load"]
    loaded = modules_after(f"from retention import {', '.join(names)}\navailable_policies()")
    assert not loaded & set(EXTRAS)
    assert "torch" in loaded


def test_every_name_can_be_used() -> None:
    for name in retention.__all__:
        assert getattr(retention, name) is not None
        assert name in dir(retention)
    with pytest.raises(AttributeError, match="no attribute 'Unknown'"):
        _ = retention.Unknown


def test_every_built_in_policy_has_a_name() -> None:
    classes = {policy for policy in available_policies().values() if policy.__module__.startswith("retention.")}
    exported = {getattr(retention, name) for name in retention.__all__}
    assert classes <= exported and RetentionPolicy in exported


def test_load_reports_a_missing_run(tmp_path: Path) -> None:
    with pytest.raises(RetentionError, match="checkpoint"):
        retention.load(tmp_path)


def test_load_names_the_missing_extra() -> None:
    code = "import sys; sys.modules['omegaconf'] = None; import retention; retention.load('anywhere')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "ImportError" in done.stderr and "pip install 'adaptive-retention[experiments]'" in done.stderr


def test_other_missing_modules_are_no_extra() -> None:
    assert missing_extra_message(ModuleNotFoundError("no module", name="my_policies"), "retention run") is None
    assert missing_extra_message(ModuleNotFoundError("no module", name="retention.typo"), "retention run") is None
