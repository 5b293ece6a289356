"""List the reliability checks and run them, each with one record."""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from reproduction.reliability.check import FULL, Check, Scale
from reproduction.reliability.checkpoints import check_checkpoints
from reproduction.reliability.configurations import check_configurations
from reproduction.reliability.data_files import check_data_files
from reproduction.reliability.interruptions import check_kills, check_signals
from reproduction.reliability.payloads import check_payloads
from reproduction.reliability.reported_cases import check_reported_cases
from reproduction.reliability.serving import check_server
from reproduction.reliability.threads import check_threads
from reproduction.reliability.work_lost import check_work_lost
from retention.errors import DataError
from retention.records import Record, build_record

CHECKS: tuple[Check, ...] = (
    Check("reported_cases", check_reported_cases),
    Check("fuzzed_configurations", check_configurations),
    Check("damaged_checkpoints", check_checkpoints),
    Check("damaged_data_files", check_data_files),
    Check("payloads", check_payloads),
    Check("kill", check_kills),
    Check("stop_signals", check_signals),
    Check("work_lost", check_work_lost),
    Check("threads", check_threads),
    Check("server_load", check_server),
)


def run_checks(
    names: Sequence[str] = (), scale: Scale = FULL, checks: Sequence[Check] = CHECKS
) -> Iterator[tuple[str, Record]]:
    """Run checks one after the other in a temporary folder; yield the name and the record of each when it is done.

    Args:
        names: checks to run; empty = all.
        scale: numbers of attempts.
        checks: the checks to choose from.

    Raises:
        DataError: there is no check of one of the names, or the system cannot fork processes.
    """
    by_name = {check.name: check for check in checks}
    if unknown := sorted(set(names) - by_name.keys()):
        raise DataError(f"--only: there is no check {', '.join(unknown)}; choose from {', '.join(by_name)}")
    if platform.system() != "Linux":
        raise DataError(f"reliability: the checks need Linux (fork, /proc), this is {platform.system()}")
    for name in names or tuple(by_name):
        print(f"{name}: running", flush=True)
        started = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="retention_reliability_") as folder:
            result = by_name[name].run(scale, Path(folder))
        wall_s = time.perf_counter() - started
        print(f"{name}: {result.tried} tried, {result.clear} clear, {result.wrong} wrong, {wall_s:.0f} s", flush=True)
        argv = ["-m", "reproduction", "reliability", "--only", name]
        yield name, build_record(result, config=asdict(scale), seed=scale.seed, wall_s=wall_s, argv=argv)
