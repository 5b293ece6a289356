"""Build the wheel from the working tree, install it into new environments and use it there."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
PRUNE = """
import torch, transformers
from retention import Truncate, retain

model = transformers.AutoModel.from_pretrained(FOLDER).eval()
batch = {"input_ids": torch.arange(5, 25).reshape(2, 10), "attention_mask": torch.ones(2, 10, dtype=torch.long)}
with torch.no_grad(), retain(model, Truncate(rho=0.5, schedule="flat").eval()) as retainer:
    states = model(**batch).last_hidden_state
print(states.shape[1], [kept.tolist() for kept in retainer.report.kept.values()])
"""
CORE_ONLY = """
import importlib.util, retention
assert not [name for name in ("pytorch_lightning", "hydra", "datasets", "pandas") if importlib.util.find_spec(name)]
from retention import load
try:
    load("x")
except ImportError as error:
    print(error)
"""


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command that cannot see the checkout and return its output."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from the working tree."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, cwd=ROOT)
    [path] = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create an environment with the wheel and its required dependencies, and return its interpreter."""
    folder = tmp_path_factory.mktemp("core")
    run(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
    interpreter = folder / "venv" / "bin" / "python"
    install(interpreter, "torch", cwd=folder)  # first and alone, so that pip keeps the build it is set up to find
    install(interpreter, str(wheel), cwd=folder)
    return interpreter


def install(interpreter: Path, *packages: str, cwd: Path) -> None:
    """Install packages with the tested versions."""
    pip = (interpreter, "-m", "pip", "install", "-q", "--disable-pip-version-check")
    run(*pip, "--constraint", ROOT / "constraints.txt", *packages, cwd=cwd)


def test_wheel_has_the_package_and_its_configuration(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    folders = {name.split("/")[0] for name in names}
    assert folders == {"retention", wheel.name.rsplit("-", 3)[0] + ".dist-info"}
    packaged = {name.removeprefix("retention/conf/") for name in names if name.startswith("retention/conf/")}
    assert packaged == {str(path.relative_to(ROOT / "conf")) for path in (ROOT / "conf").rglob("*.yaml")}
    assert "retention/py.typed" in names


def test_core_install_prunes_tokens(python: Path, tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    config = BertConfig(vocab_size=40, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32)
    BertModel(config).save_pretrained(tmp_path / "encoder")
    shown = run(python, "-c", PRUNE.replace("FOLDER", repr(str(tmp_path / "encoder"))), cwd=tmp_path)
    assert shown.splitlines()[-1] == "10 [[5, 5], [5, 5]]"


def test_core_install_names_the_missing_extra(python: Path, tmp_path: Path) -> None:
    assert "pip install 'adaptive-retention[experiments]'" in run(python, "-c", CORE_ONLY, cwd=tmp_path)
    done = subprocess.run(
        [python.with_name("retention"), "run"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "adaptive-retention[experiments]" in done.stderr
    assert "run " in run(python.with_name("retention"), "--help", cwd=tmp_path)


def test_experiments_install_trains_outside_the_checkout(
    python: Path, wheel: Path, tmp_path: Path, run_small: Callable[..., Path]
) -> None:
    install(python, f"adaptive-retention[experiments] @ {wheel.as_uri()}", cwd=tmp_path)
    folder = run_small("hydra.run.dir=outputs/tiny", command=[python.with_name("retention")])
    assert folder == tmp_path / "elsewhere" / "outputs" / "tiny"
    show = f"from retention import load; print(type(load({str(folder)!r})).__name__)"
    assert run(python, "-c", show, cwd=tmp_path).splitlines()[-1] == "Classifier"
    listed = run(python.with_name("retention"), "report", folder, cwd=tmp_path)
    assert "adaptive" in listed
