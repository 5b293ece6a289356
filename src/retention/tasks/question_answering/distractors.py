"""Lengthen short papers with paragraphs of other papers."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import numpy as np

from retention.tasks.question_answering.qasper_papers import Paper

# A paper gets the same distractors in every run, whatever the run's seed.
_FIXED_SEED = 20250


def lengthen(papers: Sequence[Paper], tokens: int, count: Callable[[Sequence[str]], Sequence[int]]) -> list[Paper]:
    """Add paragraphs of the other papers until each paper has about ``tokens`` tokens, but not more.

    The blocks of a paper keep their order; the added paragraphs are shuffled in among them. Which ones they are and
    where they go depends on the paper's id alone. A paper that is long enough stays as it is.

    Args:
        papers: all papers of one file.
        tokens: target length.
        count: texts -> number of tokens of each.
    """
    sizes = [list(count(paper.blocks)) for paper in papers]
    paragraphs = [
        (owner, block, size)
        for owner, paper in enumerate(papers)
        for block, is_paragraph, size in zip(paper.blocks, paper.is_paragraph, sizes[owner], strict=True)
        if is_paragraph
    ]
    longer = []
    for number, paper in enumerate(papers):
        rng = np.random.default_rng([_FIXED_SEED, zlib.crc32(paper.id.encode())])
        room, present = tokens - sum(sizes[number]), set(paper.blocks)
        added: list[str] = []
        for index in rng.permutation(len(paragraphs)):
            owner, block, size = paragraphs[index]
            if owner != number and size <= room and block not in present:
                added.append(block)
                present.add(block)
                room -= size
            if room <= 0:
                break
        longer.append(_mixed(paper, added, rng))
    return longer


def _mixed(paper: Paper, added: Sequence[str], rng: np.random.Generator) -> Paper:
    """Insert the added paragraphs between the blocks of the paper, in an order drawn by ``rng``."""
    is_original = np.zeros(len(paper.blocks) + len(added), dtype=np.bool_)
    is_original[rng.permutation(len(is_original))[: len(paper.blocks)]] = True
    originals, others = iter(zip(paper.blocks, paper.is_paragraph, strict=True)), iter(added)
    mixed = [next(originals) if original else (next(others), True) for original in is_original]
    return Paper(paper.id, [block for block, _ in mixed], [kind for _, kind in mixed], paper.questions)
