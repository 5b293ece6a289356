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

USAGE = """usage: retention distill texts=<file> backbone.path=<model> output=<folder> [key=value ...]

Prune an embedding model, a fine-tuned classifier or a reranker with texts without labels; the unpruned model teaches.

  texts=<file>                 .txt (one text per line), .jsonl, .jsonl.gz, .parquet, .csv or .tsv
  backbone.path=<model>        folder or hub id of the model
  output=<folder>              where the pruned model is written
  retention.rho=0.3            kept tokens / tokens, mean over the gated layers, in (0, 1]
  prune_at=after_layer         or after_attention: faster, for classifiers and rerankers
  task.epochs=1                passes over the texts
  task.data.max_length=<n>     tokens per text in training (embedding models 256, classifiers 512)
  task.data.text_column=text   column of the texts, in files with columns
  budgets.sampled=1            one model for a range of keep ratios

retention distill ... --cfg job prints every setting. What they mean: docs/embeddings.md and docs/deployment.md."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run ``retention run`` with the recipe for the model and the settings of this command line.

    The recipe is ``experiment=classifier_distill`` for a fine-tuned sequence classifier or cross-encoder, and
    ``experiment=embedding_distill`` for any other model.

    Args:
        argv: Hydra's arguments, such as ``["texts=texts.txt", "backbone.path=model", "output=pruned"]``; None = those
            of this process. ``experiment=<name>`` replaces the recipe.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or {"-h", "--help"} & set(arguments):
        print(USAGE)
        return
    entry.main(with_recipe(arguments))


def with_recipe(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with the recipe for the model of ``backbone.path``, unless they name one."""
    named = any(argument.lstrip("+").startswith(("experiment=", "experiment@")) for argument in arguments)
    return list(arguments) if named else [f"experiment={_recipe(arguments)}", *arguments]


def _recipe(arguments: Sequence[str]) -> str:
    paths = [argument.removeprefix(_PATH).strip("'\"") for argument in arguments if argument.startswith(_PATH)]
    if not paths:
        return EMBEDDING
    try:
        content, _ = PretrainedConfig.get_config_dict(paths[-1])
    except (OSError, ValueError):  # the run itself says what is wrong with the model
        return EMBEDDING
    return CLASSIFIER if is_classifier(content.get("architectures")) else EMBEDDING
