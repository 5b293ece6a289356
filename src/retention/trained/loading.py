"""Load the model of a finished run."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Real
from pathlib import Path

import torch

from retention.errors import CheckpointError, require
from retention.experiment.assembly import build_model, resolve_tokenizer
from retention.experiment.checkpoints import load_weights, read_checkpoint
from retention.experiment.config import load_parts
from retention.pretrained.model_files import RUN_CHECKPOINT
from retention.tasks.trained_model import TrainedModel, trained_class_of


def load(
    path: str | Path,
    rho: float | None = None,
    device: str | torch.device = "cpu",
    *,
    classes: Iterable[type] = (),
) -> TrainedModel:
    """Load a finished run; only its folder is needed, neither data nor network.

    A run folder from somebody else is data: nothing that it names is executed, and only classes of this package, of
    installed policy packages and of ``classes`` are built.

    Args:
        path: run folder, or a checkpoint in it; ``~`` is the home folder.
        rho: target keep ratio, in (0, 1]; None = as trained. Models that were trained for a range of budgets (see
            ``experiment=sst2_any_budget``) keep their quality over that range; others lose more than necessary.
        device: device of the model.
        classes: classes from outside the package that the run names, for example ``[my_package.MyPolicy]``.

    Returns:
        A ``Classifier``, ``Reader``, ``Summarizer``, ``Reranker`` or ``TextEmbedder``, depending on the task. Threads
        can share it.

    Raises:
        CheckpointError: there is no checkpoint, or it cannot be used.
        ConfigError: ``rho`` is out of range, or the checkpoint names a class that is not allowed.

    Examples:
        >>> model = load("outputs/sst2/2026-01-31_12-00-00", rho=0.3)   # doctest: +SKIP
        >>> model.predict(["a gripping film"])[0].labels                # doctest: +SKIP
        ('positive',)
    """
    given = Path(path).expanduser()
    if rho is not None:
        is_number = isinstance(rho, Real) and not isinstance(rho, bool)
        require(is_number, "rho", f"the target keep ratio must be a number in (0, 1], got {rho!r}")
        rho = float(rho)  # the configuration takes no numpy numbers
    checkpoint = given / RUN_CHECKPOINT if given.is_dir() else given
    if given.is_dir() and not checkpoint.is_file():
        message = f"holds no {RUN_CHECKPOINT}; pass the folder of a finished run, or a checkpoint"
        if (given / "config.json").is_file():
            message = (
                "is the folder of a model, not of a run; load an embedding model with "
                "retention.Embedder.from_pretrained, and a model with a head with retention.pretrained.load_retained"
            )
        raise CheckpointError(f"{given}: {message}")
    content = read_checkpoint(checkpoint)
    with torch.random.fork_rng(devices=[]):  # initial weights are drawn before those of the checkpoint replace them
        config, parts = load_parts(content, checkpoint, rho, classes)
        tokenizer = resolve_tokenizer(parts)
        parts.data.attach(tokenizer)
        model = build_model(config, parts, parts.policy, len(tokenizer))
    load_weights(model, content, checkpoint, policy=True, other_budget=rho is not None)
    return trained_class_of(model.head)(model.to(device).eval(), parts.data)
