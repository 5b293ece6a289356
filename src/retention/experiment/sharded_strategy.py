"""Lightning strategy of ``trainer.strategy=fsdp``: fully sharded data parallelism over all processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pytorch_lightning.strategies import ModelParallelStrategy
from typing_extensions import override

SHARDED = "fsdp"  # value of trainer.strategy


class FullyShardedStrategy(ModelParallelStrategy):
    """Shard the model over all processes, and write checkpoints that a test with any strategy can read.

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

    @override
    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint as data; the trainer does not pass on its argument ``weights_only`` here."""
        content: dict[str, Any] = super().load_checkpoint(checkpoint_path, weights_only=True)
        return content
