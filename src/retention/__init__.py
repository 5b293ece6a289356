"""Drop tokens between the layers of Hugging Face encoders, by policies that decide which tokens to keep.

Examples:
    >>> import torch, transformers, retention
    >>> sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    >>> config = transformers.BertConfig(**sizes)
    >>> model = transformers.BertModel(config).eval()
    >>> batch = {"input_ids": torch.arange(10, 20)[None], "attention_mask": torch.ones(1, 10, dtype=torch.long)}
    >>> with torch.no_grad(), retention.retain(model, retention.Truncate(rho=0.5, schedule="flat").eval()) as retainer:
    ...     states = model(**batch).last_hidden_state
    >>> retainer.report.kept[0].tolist()
    [5]

Importing this package imports neither torch nor transformers; they are loaded with the first name that is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from retention.extras import missing_extra_message

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import torch

    from retention.engine import ForwardReport, Retainer
    from retention.policies import (
        H2O,
        LTC,
        LTP,
        Adaptive,
        AdaptiveAttention,
        AdaptiveCorpus,
        AttentionTopK,
        Dense,
        EarlyExit,
        InforCoef,
        InputTruncation,
        KeyNorm,
        LengthAdaptive,
        MrT5,
        PowerBert,
        Random,
        RetentionPolicy,
        Threshold,
        ToMe,
        ToP,
        Transkimmer,
        TRBert,
        Truncate,
    )
    from retention.policies.registry import available_policies
    from retention.policies.retain import retain
    from retention.pretrained import Embedder, RetentionEncoder
    from retention.trained import TrainedModel

__version__ = "0.2.0"

# Modules of the names that are imported when they are first used; those that are left out are in retention.policies.
_LAZY = {
    "Embedder": "retention.pretrained",
    "ForwardReport": "retention.engine",
    "Retainer": "retention.engine",
    "RetentionEncoder": "retention.pretrained",
    "available_policies": "retention.policies.registry",
}

__all__ = [
    "H2O",
    "LTC",
    "LTP",
    "Adaptive",
    "AdaptiveAttention",
    "AdaptiveCorpus",
    "AttentionTopK",
    "Dense",
    "EarlyExit",
    "Embedder",
    "ForwardReport",
    "InforCoef",
    "InputTruncation",
    "KeyNorm",
    "LengthAdaptive",
    "MrT5",
    "PowerBert",
    "Random",
    "Retainer",
    "RetentionEncoder",
    "RetentionPolicy",
    "TRBert",
    "Threshold",
    "ToMe",
    "ToP",
    "Transkimmer",
    "Truncate",
    "available_policies",
    "load",
    "retain",
]


def load(
    path: str | Path,
    rho: float | None = None,
    device: str | torch.device = "cpu",
    *,
    classes: Iterable[type] = (),
) -> TrainedModel:
    """Load a finished run as a model to use, see ``retention.trained.load``.

    Args:
        path: the run folder, or a checkpoint in it.
        rho: target keep ratio in (0, 1]; None = the one it was trained for.
        device: device of the model.
        classes: classes from outside the package that the run names, for example ``[my_package.MyPolicy]``.

    Raises:
        ImportError: the packages of the extra ``experiments`` are not installed.
        CheckpointError: there is no checkpoint, or it cannot be used.
        ConfigError: ``rho`` is out of range.
    """
    try:
        from retention.trained import load as load_trained
    except ModuleNotFoundError as error:
        message = missing_extra_message(error, "retention.load")
        if message is None:
            raise
        raise ImportError(message) from error
    return load_trained(path, rho, device, classes=classes)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_LAZY.get(name, "retention.policies")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
