"""Store which tokens of a text a trained classifier keeps, for the picture of tokens per layer.

python -m reproduction.token_example <run folder> "<text>"
python -m reproduction tokens_per_layer --out docs
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from reproduction.figures.tokens_per_layer import EXAMPLE
from retention.errors import RetentionError
from retention.records import write_atomic
from retention.records.provenance import command_line, commit
from retention.tasks.classification.predict import Classifier
from retention.trained import load


def main(argv: Sequence[str] | None = None) -> int:
    """Store the prediction of a trained classifier for one text as the committed example."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder of a classification task")
    parser.add_argument("text", help="the document")
    arguments = parser.parse_args(words)
    try:
        model = load(arguments.run)
    except RetentionError as error:
        parser.error(str(error))
    if not isinstance(model, Classifier):
        parser.error(f"{arguments.run}: is not a run of a classification task")
    [prediction] = model.predict([arguments.text])
    example = {
        "tokens": prediction.tokens,
        "depth": prediction.depth,
        "layers": model.model.shape.num_layers,
        "labels": prediction.labels,
        "rho": model.policy.rho,
        "keep_ratio": prediction.keep_ratio,
        "command": command_line(["-m", "reproduction.token_example", *words]),
        "commit": commit(),
    }
    write_atomic(EXAMPLE, json.dumps(example, ensure_ascii=False, indent=1) + "\n")
    print(EXAMPLE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
