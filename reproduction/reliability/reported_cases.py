"""Run the tests of reported kinds of trouble (``tests/cases``) and count their outcomes."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from reproduction.reliability.check import Scale
from reproduction.reliability.outcome import RIGHT, WRONG, Tally
from retention.records import Reliability

ROOT = Path(__file__).resolve().parents[2]


def check_reported_cases(scale: Scale, folder: Path) -> Reliability:
    """Run every test in ``tests/cases``, the slow ones included."""
    del scale
    return run_tests(ROOT / "tests" / "cases", folder)


def run_tests(tests: Path, folder: Path) -> Reliability:
    """Run the tests of a folder in a process of its own; a test that fails counts as wrong."""
    folder.mkdir(parents=True, exist_ok=True)
    report, tally = folder / "cases.xml", Tally("reported_cases")
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests), f"--junit-xml={report}"]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True)
    if not report.exists():
        raise RuntimeError(f"the tests did not run: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    skipped = 0
    for case in ElementTree.parse(report).iter("testcase"):
        if case.find("skipped") is not None:
            skipped += 1
            continue
        failed = case.find("failure") is not None or case.find("error") is not None
        module = case.get("classname", "").rpartition(".")[2].removeprefix("test_")
        tally.add(WRONG if failed else RIGHT, module, case.get("name", ""))
    return tally.result(skipped=skipped)
