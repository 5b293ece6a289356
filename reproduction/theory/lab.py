"""Run the theory lab and record its results."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import torch

from reproduction.theory.evidence import TheoryClaim, evidence_fields
from retention.records import Record, Theory, build_record

SEED = 0  # recorded; every claim fixes the seeds of its instances itself


def run_theory_lab(
    claims: Sequence[TheoryClaim], argv: Sequence[str] = ("-m", "reproduction", "theory")
) -> Iterator[Record]:
    """Run the experiment of each claim on one thread; yield a record for each.

    Args:
        claims: to check.
        argv: command that the records name.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for claim in claims:
            start = time.perf_counter()
            evidence = claim.run()
            result = Theory(claim=claim.name, source=claim.source, **evidence_fields(evidence))
            yield build_record(
                result,
                config={},
                seed=SEED,
                wall_s=time.perf_counter() - start,
                argv=list(argv),
            )
    finally:
        torch.set_num_threads(threads)
