"""Console command ``retention``: train and test models, measure speed, print and compare results."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple

from retention import __version__
from retention.extras import missing_extra_message


class Command(NamedTuple):
    """Subcommand: module and name of its main function, and one line of help."""

    module: str
    function: str
    summary: str


COMMANDS = {
    "run": Command(
        "retention.experiment.entry", "main", "train and test a model with key=value settings; -m for sweeps"
    ),
    "distill": Command(
        "retention.experiment.distill", "main", "prune an embedding model or a classifier with texts without labels"
    ),
    "bench": Command("retention.bench.main", "main", "measure speed and memory against the fastest dense model"),
    "bench-models": Command(
        "retention.bench.trained_models", "main", "time finished runs side by side on their task's test rows"
    ),
    "bench-plots": Command("retention.bench.plots", "main", "draw figures from speed records"),
    "bench-limits": Command("retention.bench.limits", "main", "measure arithmetic rate and memory bandwidth"),
    "bench-memory": Command(
        "retention.bench.inference_memory", "main", "measure activation memory at inference, layer by layer"
    ),
    "evaluate-embeddings": Command(
        "retention.embedding_eval.main", "main", "score and time embedding models beside a dense one"
    ),
    "export": Command("retention.export.main", "main", "write a model folder as an ONNX file with the removal inside"),
    "report": Command("retention.report", "main", "print the quality table of run folders or record files"),
    "compare": Command("retention.report.paired_comparison", "main", "compare the predictions of two runs row by row"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand and return its exit status.

    Settings without a subcommand (``retention task=sst2``) go to ``run``. Lightning starts the other processes of a
    multi-GPU run that way.

    Args:
        argv: arguments after the program's name; None = those of this process.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0
    if arguments[0] == "--version":
        print(f"adaptive-retention {__version__}")
        return 0
    name = arguments.pop(0) if arguments[0] in COMMANDS else "run"
    if name == "run" and arguments and "=" not in arguments[0] and not arguments[0].startswith(("-", "+", "~")):
        print(f"retention: unknown command {arguments[0]!r}; choose from {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    command = COMMANDS[name]
    try:
        function = getattr(import_module(command.module), command.function)
        status: int | None = function(arguments)
    except ModuleNotFoundError as error:
        message = missing_extra_message(error, f"retention {name}")
        if message is None:
            raise
        print(message, file=sys.stderr)
        return 2
    return status or 0


def usage() -> str:
    """Return the help text."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name.ljust(width)}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: retention <command> [arguments]",
            "",
            "commands:",
            *lines,
            "",
            "`retention <command> --help` explains the arguments of a command. `--version` prints the version.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
