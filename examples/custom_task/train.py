"""Train and test a task that is not part of the package: named entity recognition, in the folder beside this file.

    python examples/custom_task/train.py                       # generated sentences, a tiny encoder, some seconds
    python examples/custom_task/train.py retention=random      # further settings of `retention run`

The task is the package `entity_tagging` (data, head, metrics) and the file `conf/task/entities.yaml`. Needs the extra
`experiments`.
"""

import json
import random
import sys
import tempfile
from pathlib import Path

from retention.cli import main as retention

HERE = Path(__file__).resolve().parent
NAMES = ["Ada", "Bo Chen", "Carla Diaz", "Dev", "Eva Lind"]
PLACES = ["Oslo", "New York", "Lima", "Cape Town", "Rome"]
TEMPLATES = ["today {person} went to {place} .", "in {place} it rained and {person} stayed home .", "nobody left ."]


def tagged_sentence(rng: random.Random) -> dict[str, list[str]]:
    """Return the words of a random sentence and their tags."""
    words: list[str] = []
    tags: list[str] = []
    for word in rng.choice(TEMPLATES).split():
        kind = word.strip("{}")
        entity = {"person": NAMES, "place": PLACES}.get(kind)
        if entity is None or word == kind:
            words.append(word)
            tags.append("O")
            continue
        parts = rng.choice(entity).split()
        words += parts
        tags += [f"B-{kind}", *[f"I-{kind}"] * (len(parts) - 1)]
    return {"words": words, "tags": tags}


def main() -> int:
    """Write generated files, then train on them."""
    sys.path.insert(0, str(HERE))  # where Python finds `entity_tagging`
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        for split, count in (("train", 256), ("test", 64)):
            lines = [json.dumps(tagged_sentence(rng)) for _ in range(count)]
            Path(folder, f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        settings = [
            f"hydra.searchpath=[file://{HERE}/conf]",  # where Hydra finds task=entities
            "task=entities",
            f"data.dir={folder}",
            "data.source='generated sentences'",
            "data.provenance=generated",
            "trainer.accelerator=cpu",
        ]
        return retention(["run", *settings, *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
