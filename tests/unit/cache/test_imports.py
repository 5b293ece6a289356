"""Check that the bounded cache needs torch and transformers only, and that its example runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

EXTRAS = {"pytorch_lightning", "hydra", "omegaconf", "datasets", "evaluate", "pandas", "scipy", "sklearn", "filelock"}
REPORT = "import json, sys\nprint(json.dumps([name.partition('.')[0] for name in sys.modules]))"


def modules_after(code: str) -> set[str]:
    """Return the top-level modules that a new process has loaded after running ``code``."""
    done = subprocess.run([sys.executable, "-c", f"{code}\n{REPORT}"], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_the_cache_and_its_training_load_no_extra() -> None:
    ours = modules_after("import retention.cache, retention.cache.train, retention.cache.evaluation")
    # transformers itself may load packages that happen to be installed
    assert not (ours - modules_after("import torch, transformers.cache_utils")) & EXTRAS


def test_an_extra_is_noticed() -> None:
    """Negative control: records need filelock."""
    assert "filelock" in modules_after("import retention.records")


def test_the_example_shows_bounded_memory() -> None:
    root = Path(__file__).parents[3]
    command = [sys.executable, str(root / "examples" / "bounded_cache.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "full cache: 419 tokens per layer, 419 KiB" in done.stdout
    for policy in ("StreamingLLM", "RandomBank", "KeyNorm"):
        assert f"{policy}: 64 tokens per layer, 64 KiB" in done.stdout
