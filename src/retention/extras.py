"""Name the optional dependencies that a feature needs."""

from __future__ import annotations

_EXPERIMENTS = frozenset(
    (
        *("datasets", "evaluate", "filelock", "hydra", "jinja2", "matplotlib", "nltk", "omegaconf", "pandas"),
        *("pyarrow", "pytorch_lightning", "rich", "rouge_score", "scipy", "sklearn", "tabulate", "tensorboard"),
        *("torchmetrics", "wandb"),
    )
)
_ONNX = frozenset(("onnx", "onnxruntime", "onnxscript"))


def missing_extra_message(error: ModuleNotFoundError, feature: str) -> str | None:
    """Return a message that says how to install what a feature needs.

    Args:
        error: the failed import.
        feature: name of the feature, for example ``retention.load``.

    Returns:
        The message; None if the missing module does not come with an extra of this package.
    """
    missing = (error.name or "").partition(".")[0]
    if missing not in _EXPERIMENTS | _ONNX:
        return None
    extra = "onnx" if missing in _ONNX else "experiments"
    return f"{feature} needs {missing}, which is not installed: pip install 'adaptive-retention[{extra}]'"
