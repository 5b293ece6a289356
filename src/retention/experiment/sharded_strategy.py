"""Lightning strategy of ``trainer.strategy=fsdp``: fully sharded data parallelism over all processes."""

from __future__ import annotations

from pytorch_lightning.strategies import ModelParallelStrategy, Strategy
from typing_extensions import override

from retention.errors import require


class FullyShardedStrategy(ModelParallelStrategy):
    """Shard the model over all processes, and write checkpoints that a run with any strategy can read.

    The module decides what is sharded, see ``RetentionModule.configure_model``. Runs on GPUs (NCCL) and, for tests, on
    CPU processes (gloo).
    """

    def __init__(self) -> None:
        super().__init__(save_distributed_checkpoint=False)

    @override
    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_processes * self.num_nodes
        self._tensor_parallel_size = 1
        super().setup_environment()


def check_resumable(strategy: Strategy) -> None:
    """Raise ``ConfigError`` if a training cannot be resumed with this strategy.

    A sharded training that Lightning 2.6 resumes does not end with the weights of the uninterrupted one.
    """
    message = (
        "a training with trainer.strategy=fsdp cannot be resumed exactly; start a new training from the model with "
        "init=<checkpoint>, or use trainer.strategy=ddp"
    )
    require(not isinstance(strategy, FullyShardedStrategy), "ckpt", message)
