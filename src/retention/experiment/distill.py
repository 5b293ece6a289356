"""Distill an embedding model without labels: the console command ``retention distill``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from retention.experiment import entry

RECIPE = "embedding_distill"


def main(argv: Sequence[str] | None = None) -> None:
    """Run ``retention run experiment=embedding_distill`` with the settings of this command line.

    Args:
        argv: Hydra's arguments, such as ``["texts=texts.txt", "backbone.path=model", "output=pruned"]``; None = those
            of this process. ``experiment=<name>`` replaces the recipe.
    """
    entry.main(with_recipe(sys.argv[1:] if argv is None else argv))


def with_recipe(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with the recipe, unless they name one."""
    named = any(argument.lstrip("+").startswith(("experiment=", "experiment@")) for argument in arguments)
    return list(arguments) if named else [*arguments, f"experiment={RECIPE}"]
