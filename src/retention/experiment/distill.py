"""Prune a pretrained model with texts without labels: the console command ``retention distill``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from transformers import PretrainedConfig

from retention.experiment import entry
from retention.models.pretrained_classifier import is_classifier

EMBEDDING = "embedding_distill"
CLASSIFIER = "classifier_distill"
_PATH = "backbone.path="


def main(argv: Sequence[str] | None = None) -> None:
    """Run ``retention run`` with the recipe for the model and the settings of this command line.

    The recipe is ``experiment=classifier_distill`` for a fine-tuned sequence classifier or cross-encoder, and
    ``experiment=embedding_distill`` for any other model.

    Args:
        argv: Hydra's arguments, such as ``["texts=texts.txt", "backbone.path=model", "output=pruned"]``; None = those
            of this process. ``experiment=<name>`` replaces the recipe.
    """
    entry.main(with_recipe(sys.argv[1:] if argv is None else argv))


def with_recipe(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with the recipe for the model of ``backbone.path``, unless they name one."""
    named = any(argument.lstrip("+").startswith(("experiment=", "experiment@")) for argument in arguments)
    return list(arguments) if named else [*arguments, f"experiment={_recipe(arguments)}"]


def _recipe(arguments: Sequence[str]) -> str:
    paths = [argument.removeprefix(_PATH).strip("'\"") for argument in arguments if argument.startswith(_PATH)]
    if not paths:
        return EMBEDDING
    try:
        content, _ = PretrainedConfig.get_config_dict(paths[-1])
    except (OSError, ValueError):  # the run itself says what is wrong with the model
        return EMBEDDING
    return CLASSIFIER if is_classifier(content.get("architectures")) else EMBEDDING
