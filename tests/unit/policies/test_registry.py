"""Test the list of available policies: built-in ones, entry points of packages, and lazy exports."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import retention.policies
from retention.policies import RetentionPolicy
from retention.policies.registry import available_policies, built_in_policies

CONF = Path(__file__).parents[3] / "conf" / "retention"
FOLDER = Path(retention.policies.__file__).parent
MODULE = """
from retention.policies import RetentionPolicy

class Longest(RetentionPolicy):
    def score(self, view):
        return view.hidden_states.norm(dim=-1)

not_a_policy = 3
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Return ``installed(entry_points)``, which puts a package with these entry points on the path."""

    def install(entry_points: str) -> None:
        (tmp_path / "longest_policy_for_test.py").write_text(MODULE)
        info = tmp_path / "longest_policy-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: longest-policy\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[retention.policies]\n{entry_points}\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        available_policies.cache_clear()

    yield install
    monkeypatch.undo()
    sys.modules.pop("longest_policy_for_test", None)
    available_policies.cache_clear()


def test_built_in_policies_are_one_per_module() -> None:
    modules = {path.stem for path in FOLDER.glob("*.py")} - {"__init__", "registry", "retain"}
    assert set(built_in_policies()) == modules
    for name, policy in built_in_policies().items():
        assert issubclass(policy, RetentionPolicy) and policy.__module__ == f"retention.policies.{name}"


def test_every_built_in_policy_has_a_configuration() -> None:
    assert set(built_in_policies()) <= {path.stem for path in CONF.glob("*.yaml")}


def test_every_built_in_policy_is_exported() -> None:
    for policy in built_in_policies().values():
        assert getattr(retention.policies, policy.__name__) is policy
        assert policy.__name__ in retention.policies.__all__ and policy.__name__ in dir(retention.policies)
    assert all(hasattr(retention.policies, name) for name in retention.policies.__all__)


def test_unknown_export_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Oracle'"):
        _ = retention.policies.Oracle


def test_policy_of_a_package_is_available(installed: Callable[[str], None]) -> None:
    installed("longest = longest_policy_for_test:Longest")
    assert set(available_policies()) == {*built_in_policies(), "longest"}
    assert available_policies()["longest"].__name__ == "Longest"
    assert available_policies()["longest"](rho=0.5).rho == 0.5


@pytest.mark.parametrize(
    ("entry_point", "reason"),
    [
        ("longest = longest_policy_for_test:Shortest", "AttributeError"),
        ("longest = no_such_module_for_test:Longest", "ModuleNotFoundError"),
        ("longest = longest_policy_for_test:not_a_policy", "not a subclass"),
        ("random = longest_policy_for_test:Longest", "exists already"),
    ],
)
def test_broken_entry_point_gives_a_warning_that_names_the_package(
    entry_point: str, reason: str, installed: Callable[[str], None]
) -> None:
    installed(entry_point)
    with pytest.warns(UserWarning, match=rf"'longest-policy'.*{reason}"):
        policies = available_policies()
    assert policies == built_in_policies()


def test_policies_and_engine_need_torch_and_transformers_only() -> None:
    code = """
import sys, retention.engine, retention.policies, retention.errors
from retention.policies.registry import built_in_policies
built_in_policies()
print([name for name in ("pytorch_lightning", "hydra", "omegaconf", "datasets", "pandas", "scipy") if name in
sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
