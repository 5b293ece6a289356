"""Save and load Hugging Face models with a task head together with their retention policy."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from retention.engine import Retainer
from retention.errors import CheckpointError
from retention.policies.retain import retain
from retention.pretrained.folder import resolve_folder, written_folder
from retention.pretrained.model_card import model_card
from retention.pretrained.model_files import load_model
from retention.pretrained.retention_files import RetentionSettings, read_retention, write_retention


def retention_settings(retainer: Retainer) -> RetentionSettings:
    """Return the settings of a retainer whose gate is a policy."""
    policy: Any = retainer.gate
    return RetentionSettings(
        dropped=retainer.dropped,
        prune_at=retainer.prune_at,
        protected_ids=retainer.protected_ids,
        protect_query=retainer.protect_query,
        budgets=policy.budget_range,
    )


def save_retained(
    folder: str | Path,
    model: Any,
    retainer: Retainer,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    details: str = "",
) -> None:
    """Write a model with its head, tokenizer and policy, completely or not at all.

    Args:
        folder: new or empty, or a folder with a policy, which is replaced.
        model: Hugging Face model, loaded by its class from the folder; of a PEFT model the result of
            ``merge_and_unload``.
        retainer: of ``retain(model, policy)``.
        tokenizer: written beside the model.
        details: further sections of the model card, in Markdown.

    Raises:
        DataError: the folder holds other files.
        ConfigError: the policy cannot be saved.
    """
    policy: Any = retainer.gate
    with written_folder(folder) as target:
        model.save_pretrained(target)
        if tokenizer is not None:
            tokenizer.save_pretrained(target)
        settings = retention_settings(retainer)
        write_retention(target, policy, settings)
        card = model_card(policy, settings, retainer.encoder.config, details, model_class=type(model).__name__)
        (target / "README.md").write_text(card, encoding="utf-8")


def load_retained(
    name: str | Path,
    loader: Any,
    *,
    device: str | torch.device = "cpu",
    revision: str | None = None,
    token: str | None = None,
    classes: Iterable[type] = (),
) -> tuple[Any, Retainer]:
    """Load a model with its head and policy, from ``save_retained`` or a checkpoint of ``RetentionCallback``.

    Args:
        name: a folder, or the name of a model on the Hugging Face hub.
        loader: class with ``from_pretrained``, such as ``AutoModelForSequenceClassification``.
        device: device of the weights.
        revision: branch, tag or commit on the hub.
        token: access token of the hub.
        classes: policy classes from outside the package.

    Returns:
        The model, which keeps every token, and the context in which it removes them; both in evaluation mode.

    Raises:
        CheckpointError: the folder does not exist, is incomplete or is not safe to load, or is one of an encoder that
            was saved with another keep ratio than the policy's.

    Examples:
        >>> model, retainer = load_retained(folder, AutoModelForSequenceClassification)   # doctest: +SKIP
        >>> with retainer:                                                                # doctest: +SKIP
        ...     logits = model(**batch).logits
    """
    folder = resolve_folder(name, revision=revision, token=token)
    model = load_model(folder, loader=loader)
    stored = read_retention(folder, model, classes)
    if "attention" in stored.policy.observes:
        model = load_model(folder, "eager", loader=loader)
    model, policy = model.to(device), stored.policy.to(device)
    settings = stored.settings
    if settings.rho is not None:
        message = f"was saved with a keep ratio of its own, {settings.rho}; load it by the class that wrote it"
        raise CheckpointError(f"{folder}: {message}, RetentionEncoder or Embedder")
    retainer = retain(
        model,
        policy,
        protected_ids=settings.protected_ids,
        dropped=settings.dropped,
        prune_at=settings.prune_at,
        protect_query=settings.protect_query,
    )
    return model, retainer
