"""Hydra entry point: ``python run.py task=sst2 retention.rho=0.3``."""

from __future__ import annotations

import sys

import hydra
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from retention.errors import RetentionError
from retention.experiment.run import run


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(config: DictConfig) -> float | None:
    typed = list(HydraConfig.get().overrides.task)
    sweep = HydraConfig.get().mode is RunMode.MULTIRUN
    argv = ["run.py", "-m", *typed] if sweep else sys.argv  # a launcher's processes have arguments of their own
    try:
        records = run(config, typed, lambda extra: compose("config", overrides=extra), argv)
    except RetentionError as error:
        if sweep:
            raise  # retention.experiment.sweeps notes it and goes on
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    result: float = records[-1]["metrics"][records[-1]["monitor"]]
    return result


if __name__ == "__main__":
    main()
