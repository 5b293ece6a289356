"""Run the configured experiment: the body of ``run.py`` and of the console command ``retention run``."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import hydra
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from pytorch_lightning.utilities import rank_zero_only

from retention.errors import Checks, RetentionError, require
from retention.experiment.hydra_setup import config_dir, register_policies
from retention.experiment.outputs import check_parent
from retention.experiment.override_keys import complete_overrides
from retention.experiment.results import main_metric
from retention.experiment.resume import resume_hint
from retention.experiment.run import run
from retention.experiment.stopping import Stopped
from retention.experiment.sweeps import jobs_left
from retention.records.legacy import renamed_key

OUTPUTS = "outputs"  # folder of the run folders, see conf/config.yaml
_NO_LOGGER = ("logger=null", "logger=", "logger=false", "logger=False", "~logger")


def main(argv: Sequence[str] | None = None) -> None:
    """Compose the configuration and run it.

    Exits with status 2 if the user has to fix something, and with 128 + its number (130, 143, 138) after a signal.

    Args:
        argv: Hydra's arguments, such as ``["task=sst2", "retention.rho=0.3"]`` or ``["-m", "sweep=table1"]``;
            None = those of this process.
    """
    if argv is not None:
        sys.argv = [sys.argv[0], *argv]  # Hydra reads its arguments from there
    try:
        check_overrides(sys.argv[1:])
        check_folders(sys.argv[1:])
        check_run_folder(sys.argv[1:], os.environ)
        register_policies()
        sys.argv[1:] = complete_overrides(sys.argv[1:])
    except RetentionError as error:
        _fail(error)
    try:
        hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="config")(run_composed)()
    except KeyboardInterrupt:  # before or after training and test, which end with ``Stopped``
        print("SIGINT: interrupted; run the same command again", file=sys.stderr)
        raise SystemExit(130) from None


def run_composed(config: DictConfig) -> float | None:
    """Run a configuration that Hydra composed and return its main metric, which sweepers may optimize."""
    overrides = list(HydraConfig.get().overrides.task)
    sweep = HydraConfig.get().mode is RunMode.MULTIRUN
    argv = [sys.argv[0], "-m", *overrides] if sweep else sys.argv  # the arguments of the whole sweep are others
    try:
        records = run(config, overrides, lambda extra: compose("config", overrides=extra), argv, sweep=sweep)
    except RetentionError as error:
        if sweep:
            raise  # the sweep notes the failure and goes on, see ``Sweep.on_job_end``
        _fail(error)
    except Stopped as stopped:
        _print_stopped(stopped, config, sweep=sweep)
        raise
    return main_metric(records[-1])


def check_overrides(arguments: Sequence[str]) -> None:
    """Raise ``ConfigError`` for renamed keys and for ``logger=null``, before Hydra refuses them in its own words.

    Args:
        arguments: of the command line; flags and their values are ignored.
    """
    checks = Checks()
    for argument in arguments:
        key = argument.lstrip("+~").partition("=")[0].partition("@")[0]
        if not argument.startswith("-") and "=" in argument and (present := renamed_key(key)) is not None:
            checks.require(False, key, f"was renamed; use {argument.replace(key, present, 1)}")
        if argument in _NO_LOGGER:
            checks.require(False, "logger", f"{argument} is not an option; use logger=none for a run without a logger")
        elif (quoted := _quoted(argument)) is not None:
            message = f"the value has characters that Hydra reads as its own syntax; put it in quotes: {quoted}"
            checks.require(False, key, message)
    checks.finish()


def check_folders(arguments: Sequence[str]) -> None:
    """Raise ``ConfigError`` for folders of runs and sweeps that Hydra could not create, without creating them.

    Args:
        arguments: of the command line.
    """
    checks = Checks()
    values = dict(argument.lstrip("+").split("=", 1) for argument in arguments if "=" in argument)
    folders = {key: values[key].strip("'\"") for key in ("hydra.run.dir", "hydra.sweep.dir") if key in values}
    for key, folder in (folders or {"hydra.run.dir": OUTPUTS}).items():
        if "${" not in folder:
            checks.gather(lambda key=key, folder=folder: check_parent(key, Path(folder)))  # type: ignore[misc]
    checks.finish()


def _quoted(argument: str) -> str | None:
    """Return an override with quotes around its value if Hydra can read it only so, as it is typed in a shell."""
    key, _, value = argument.partition("=")
    if argument.startswith("-") or not value or value[0] in "'\"[{(" or "'" in value:
        return None
    parser = OverridesParser.create()
    try:
        parser.parse_override(argument)
    except HydraException:
        with suppress(HydraException):
            parser.parse_override(f"{key}='{value}'")
            return f"\"{key}='{value}'\""
    return None


def check_run_folder(arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    """Raise ``ConfigError`` if each process of torchrun or Slurm would choose a new run folder for itself.

    Processes that Lightning starts get the folder of the first one.

    Args:
        arguments: of the command line.
        environment: variables of the process: ``WORLD_SIZE`` and ``SLURM_NTASKS`` are numbers of processes.
    """
    processes = max(int(environment.get(name) or 1) for name in ("WORLD_SIZE", "SLURM_NTASKS"))
    given = any(argument.lstrip("+").startswith(("hydra.run.dir=", "paths.run_dir=")) for argument in arguments)
    is_run = not any(argument.startswith("-") for argument in arguments)  # sweeps have fixed folders
    message = f"must be set for {processes} processes, or each would choose a folder; add hydra.run.dir=<new folder>"
    require(processes == 1 or given or not is_run, "hydra.run.dir", message)


@rank_zero_only
def _print_stopped(stopped: Stopped, config: DictConfig, *, sweep: bool) -> None:
    """Print how to go on, and what is left of a sweep."""
    lines = [f"{stopped.name}: stopped; {resume_hint(config, sweep=sweep)}"]
    if sweep:
        job = HydraConfig.get()
        left = jobs_left(Path(job.sweep.dir), int(job.job.num))
        lines += [f"{len(left)} jobs of the sweep are left, the stopped one included:", *(f"  {each}" for each in left)]
    print("\n".join(lines), file=sys.stderr)


def _fail(error: RetentionError) -> None:
    print(f"{type(error).__name__}: {error}", file=sys.stderr)
    raise SystemExit(2) from None
