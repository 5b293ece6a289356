"""Test how processes of launchers are recognized, and the strategy that shards the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hydra import compose, initialize_config_dir
from pytorch_lightning.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

from retention.errors import ConfigError
from retention.experiment.config import build_runs
from retention.experiment.entry import check_run_folder
from retention.experiment.hydra_setup import config_dir
from retention.experiment.run import build_trainer
from retention.experiment.sharded_strategy import FullyShardedStrategy

SLURM = {
    "SLURM_JOB_ID": "17",
    "SLURM_JOB_NAME": "retention",
    "SLURM_NTASKS": "2",
    "SLURM_NTASKS_PER_NODE": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "0",
    "SLURM_NODELIST": "localhost",
}
TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "17",
    "WORLD_SIZE": "2",
    "RANK": "1",
    "LOCAL_RANK": "1",
    "GROUP_RANK": "0",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "localhost",
    "MASTER_PORT": "29511",
}


@pytest.fixture
def trainer_of(tmp_path: Path) -> Any:
    """Return a function that builds the trainer of a command line."""

    def build(*typed: str) -> Any:
        overrides = [f"paths.run_dir={tmp_path}", "compare=[]", "trainer.accelerator=cpu", "trainer.devices=2", *typed]
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            config = compose("config", overrides=overrides)
            [(config, parts)] = build_runs(config, lambda extra: compose("config", overrides=extra), overrides)
        return build_trainer(config, parts)

    return build


@pytest.mark.parametrize(("variables", "kind"), [(SLURM, SLURMEnvironment), (TORCHRUN, TorchElasticEnvironment)])
def test_processes_of_a_launcher_are_recognized(variables: dict[str, str], kind: type, trainer_of: Any) -> None:
    with mock.patch.dict("os.environ", variables):
        trainer = trainer_of("trainer.strategy=ddp")
        environment = trainer.strategy.cluster_environment
        assert isinstance(environment, kind) and environment.creates_processes_externally
        assert (environment.world_size(), environment.global_rank()) == (2, 1) and not trainer.is_global_zero


def test_strategy_fsdp_shards_over_all_processes(trainer_of: Any) -> None:
    strategy = trainer_of("trainer.strategy=fsdp").strategy
    assert isinstance(strategy, FullyShardedStrategy) and strategy.num_processes == 2
    assert not strategy._save_distributed_checkpoint, "a checkpoint is one file, which any strategy can read"
    with pytest.raises(ConfigError, match=r"trainer: .*64-true"):
        trainer_of("trainer.strategy=fsdp", "trainer.precision=64-true")


@pytest.mark.parametrize("variable", ["WORLD_SIZE", "SLURM_NTASKS"])
def test_processes_of_a_launcher_need_one_run_folder(variable: str) -> None:
    with pytest.raises(ConfigError, match=r"hydra\.run\.dir: must be set for 2 processes"):
        check_run_folder(["task=sst2"], {variable: "2"})
    check_run_folder(["task=sst2", "hydra.run.dir=run"], {variable: "2"})
    check_run_folder(["-m", "seed=0,1"], {variable: "2"})
    check_run_folder(["task=sst2"], {variable: "1"})
    check_run_folder(["task=sst2"], {})
