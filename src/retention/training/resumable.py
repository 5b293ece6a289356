"""Provide the base class of the LightningModules: random generators that a resumed run continues."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl

from retention.training.random_state import RandomState, gather_rng_states, restore_rng, seed_rank, state_of_rank


class ResumableModule(pl.LightningModule):
    """LightningModule whose checkpoints hold the configuration of the run and the random generators of all ranks.

    Args:
        config: plain configuration of the run, stored in checkpoints.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.save_hyperparameters({"config": config})
        self._rng: list[RandomState] | RandomState | None = None

    def on_train_start(self) -> None:
        """Restore this rank's random generators in a resumed run; seed them by rank in a new one."""
        if self._rng is None:
            seed_rank(self.global_rank)
        else:
            restore_rng(state_of_rank(self._rng, self.global_rank))
            self._rng = None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the states of the random generators of all ranks."""
        checkpoint["rng"] = gather_rng_states()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the states of the random generators until training starts."""
        self._rng = checkpoint.get("rng")
