"""Find the Hugging Face model inside the wrappers of other libraries."""

from __future__ import annotations

from typing import Any

from torch import nn

from retention.errors import ConfigError, Problem


def unwrapped(model: Any) -> Any:
    """Return the model inside PEFT, ``torch.compile`` and distributed data parallel; one without wrapper as it is.

    Raises:
        ConfigError: the model is in ``nn.DataParallel``.
    """
    while True:
        if isinstance(model, nn.DataParallel):
            message = (
                "nn.DataParallel copies the model to threads in every call, and tokens would not be removed in the "
                "copies; use one process per device (DistributedDataParallel, trainer.strategy=ddp), or pass "
                "model.module to run on one device"
            )
            raise ConfigError([Problem("model", message)])
        if isinstance(model, nn.parallel.DistributedDataParallel):
            model = model.module
        elif hasattr(model, "_orig_mod"):  # torch.compile
            model = model._orig_mod
        elif hasattr(model, "get_base_model"):  # PEFT
            model = model.get_base_model()
        else:
            return model
