"""From a run folder to a trained model."""

from __future__ import annotations

from pathlib import Path

import torch

from retention.errors import CheckpointError
from retention.experiment.checkpoints import load_weights, read_checkpoint
from retention.experiment.config import build_parts, loaded_config
from retention.experiment.run import build_module, resolve_tokenizer
from retention.trained.model import Trained

_CHECKPOINT = Path("checkpoints") / "last.ckpt"


def load(path: str | Path, *, rho: float | None = None, device: str | torch.device = "cpu") -> Trained:
    """Load a finished run; needs its folder alone, neither data nor the hub.

    Args:
        path: the run folder, or a checkpoint in it.
        rho: share of tokens to keep, in (0, 1]; None = as trained. Models trained for any budget
            (``experiment=sst2_any_budget``) serve every share they were trained for; others lose more than they must.
        device: where the model goes.

    Raises:
        CheckpointError: there is no checkpoint, or it cannot be used.
        ConfigError: ``rho`` is out of range.

    >>> model = load("outputs/sst2/2026-01-31_12-00-00", rho=0.3)   # doctest: +SKIP
    >>> model.predict(["a gripping film"])[0].labels                # doctest: +SKIP
    ('positive',)
    """
    given = Path(path)
    checkpoint = given / _CHECKPOINT if given.is_dir() else given
    if given.is_dir() and not checkpoint.is_file():
        raise CheckpointError(f"{given}: holds no {_CHECKPOINT}; pass the folder of a finished run, or a checkpoint")
    content = read_checkpoint(checkpoint)
    config = loaded_config(content, checkpoint, rho)
    parts = build_parts(config)
    tokenizer = resolve_tokenizer(parts)
    parts.data.attach(tokenizer)
    module = build_module(config, parts, len(tokenizer))
    load_weights(module, content, checkpoint, policy=True, other_budget=rho is not None)
    return Trained(module.to(device).eval(), parts.data)
