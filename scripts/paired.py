"""Compare runs on the same test rows: the mean difference of their rows' scores and its 95 % interval.

A run folder holds the score of every test row (predictions.jsonl). Pairing takes out what makes some rows harder than
others for every model, so small test sets can tell runs apart that their two means cannot.

    python scripts/paired.py outputs/quality/arxiv_small/adaptive-0.3-seed0 outputs/quality/arxiv_small/random-0.3-seed0
    python scripts/paired.py <run> <run> <run> --record results/paired/arxiv.jsonl   # the first with each of the others
    python scripts/paired.py <run> <run> --reference <dense run>   # by how far their probabilities are from its own
    python scripts/paired.py 'q/adaptive-0.3-seed{seed}' 'q/dense-1.0-seed{seed}' --seeds 0 1 2   # means over seeds
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from retention.errors import RetentionError
from retention.records import append_record, build_record
from retention.report.paired_comparison import paired, paired_line


def main(argv: Sequence[str] | None = None) -> int:
    """Print one line for each pair; returns the exit status."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("run", type=Path, help="run folder")
    words.add_argument("others", type=Path, nargs="+", help="run folders that it is compared with")
    words.add_argument("--reference", type=Path, help="run folder; compare divergences from it instead of scores")
    words.add_argument("--seeds", type=int, nargs="+", help="a row's score is its mean over them: {seed} in a folder")
    words.add_argument("--record", type=Path, help="JSON Lines file that the results are appended to")
    typed = list(sys.argv[1:] if argv is None else argv)
    chosen = words.parse_args(typed)
    try:
        for other in chosen.others:
            started = time.perf_counter()
            reference = None if chosen.reference is None else _of_seeds(chosen.reference, chosen.seeds)
            result = paired(_of_seeds(chosen.run, chosen.seeds), _of_seeds(other, chosen.seeds), reference)
            print(paired_line(result))
            if chosen.record is not None:
                third = None if chosen.reference is None else chosen.reference.name
                config = {"run": chosen.run.name, "other": other.name, "reference": third}
                wall = time.perf_counter() - started
                argv_told = ["scripts/paired.py", *typed]
                seed = chosen.seeds[0] if chosen.seeds else int(result.first["seed"])
                record = build_record(result, config=config, seed=seed, wall_s=wall, argv=argv_told)
                append_record(chosen.record, record)
    except RetentionError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    return 0


def _of_seeds(folder: Path, seeds: Sequence[int] | None) -> list[Path]:
    """The folder, or that of each seed."""
    return [folder] if seeds is None else [Path(str(folder).replace("{seed}", str(seed))) for seed in seeds]


if __name__ == "__main__":
    sys.exit(main())
