"""Generate associative recall over a vocabulary of symbols, and count how much of it a bounded cache still answers.

Multi-query associative recall (Arora et al., arXiv 2312.04927) with keys that are assigned again: the last value
counts. Symbols without meaning lie between the pairs, so that what has to be held fits in a cache of a fraction of the
context, and a last stretch of them is longer than any window, so that the newest tokens hold no pair.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from retention.cache.budget import CacheBudget
from retention.cache.cache import retain_cache
from retention.cache.comparison import Measurement
from retention.cache.generation import greedy_tokens
from retention.cache.policies.base import CachePolicy
from retention.cache.reading import TokenBatch, full_cache, read_context
from retention.errors import require

PAD, START, QUESTION = range(3)
# added to the seed of a training: contexts of the test and of the validation are not those of the training
TEST_SEED, VALIDATION_SEED = 1_000_003, 2_000_003
_FIRST_SYMBOL = 3


@dataclass(frozen=True)
class SymbolBatch:
    """Contexts and the questions about them.

    Attributes:
        contexts: [B, C] long, a start token, pairs of a key and its value, and fillers.
        keys: [B, Q] long, the key of each question.
        answers: [B, Q] long, the last value of that key.
    """

    contexts: Tensor
    keys: Tensor
    answers: Tensor

    def chained(self) -> Tensor:
        """Return contexts followed by all questions, each a marker, the key and the answer, [B, C + 3 Q] long."""
        parts = torch.stack([torch.full_like(self.keys, QUESTION), self.keys, self.answers], dim=2)
        return torch.cat([self.contexts, parts.flatten(1)], dim=1)

    def answering(self) -> Tensor:
        """Return the columns of ``chained`` at which the answers are predicted, [Q] long."""
        return self.contexts.shape[1] + 1 + 3 * torch.arange(self.keys.shape[1])


@dataclass(frozen=True, kw_only=True)
class SymbolRecall:
    """Settings of the generated contexts.

    Attributes:
        keys: number of keys in the vocabulary.
        values: number of values in the vocabulary; guessing is right once in so many.
        fillers: number of symbols without meaning in the vocabulary.
        pairs: different keys of a context, in [1, keys].
        reassigned: keys that get another value later in the context, in [0, pairs].
        context: tokens of a context.
        tail: fillers at its end, >= 0.

    Raises:
        ConfigError: a number is out of range, or the pairs do not fit in the context.
    """

    keys: int = 16
    values: int = 16
    fillers: int = 8
    pairs: int = 4
    reassigned: int = 2
    context: int = 64
    tail: int = 20

    def __post_init__(self) -> None:
        require(self.values >= 2, "values", f"must be >= 2, got {self.values}")
        require(self.fillers >= 1, "fillers", f"must be >= 1, got {self.fillers}")
        require(1 <= self.pairs <= self.keys, "pairs", f"must be in [1, keys = {self.keys}], got {self.pairs}")
        message = f"must be in [0, pairs = {self.pairs}], got {self.reassigned}"
        require(0 <= self.reassigned <= self.pairs, "reassigned", message)
        require(self.tail >= 0, "tail", f"must be >= 0, got {self.tail}")
        smallest = 1 + 2 * self.assignments + self.tail
        message = f"must be >= 1 + 2 (pairs + reassigned) + tail = {smallest}, got {self.context}"
        require(self.context >= smallest, "context", message)

    @property
    def assignments(self) -> int:
        """Return the number of pairs of key and value in a context."""
        return self.pairs + self.reassigned

    @property
    def vocabulary(self) -> int:
        """Return the number of token ids."""
        return _FIRST_SYMBOL + self.keys + self.values + self.fillers

    def batch(self, rows: int, questions: int, generator: torch.Generator) -> SymbolBatch:
        """Draw contexts and questions; keys are drawn independently, so that no answer follows from earlier ones.

        Args:
            rows: B.
            questions: Q.
            generator: makes the result reproducible.
        """
        chosen = _shuffled(torch.arange(self.keys).expand(rows, -1), generator)[:, : self.pairs]
        count = self.assignments
        keys = _shuffled(torch.cat([chosen, chosen[:, : self.reassigned]], dim=1), generator)
        values = torch.randint(self.values, (rows, count), generator=generator)
        last = torch.zeros((rows, self.keys), dtype=torch.long)
        for index in range(count):
            key = keys[:, index : index + 1]
            drawn = values[:, index : index + 1]
            is_repeated = drawn + 1 == last.gather(1, key)  # a new value differs from the one before
            drawn.copy_((drawn + is_repeated) % self.values)
            last.scatter_(1, key, drawn + 1)
        # pairs lie at random columns of the area before the tail, without overlap
        area = self.context - 1 - self.tail - count
        offsets = _shuffled(torch.arange(area).expand(rows, -1), generator)[:, :count].sort(1).values
        columns = 1 + offsets + torch.arange(count)
        first_value, first_filler = _FIRST_SYMBOL + self.keys, _FIRST_SYMBOL + self.keys + self.values
        contexts = torch.randint(first_filler, self.vocabulary, (rows, self.context), generator=generator)
        contexts[:, 0] = START
        contexts.scatter_(1, columns, _FIRST_SYMBOL + keys)
        contexts.scatter_(1, columns + 1, first_value + values)
        queried = chosen.gather(1, torch.randint(self.pairs, (rows, questions), generator=generator))
        return SymbolBatch(contexts, _FIRST_SYMBOL + queried, first_value + last.gather(1, queried) - 1)

    def held_out(self, rows: int, seed: int) -> SymbolBatch:
        """Draw contexts, with a question per key, that no training draws.

        Args:
            rows: B.
            seed: that of the training, plus ``TEST_SEED`` or ``VALIDATION_SEED``.
        """
        return self.batch(rows, self.pairs, torch.Generator().manual_seed(seed))


@torch.no_grad()
def recall_accuracy(
    model: Any, batch: SymbolBatch, policy: CachePolicy | None = None, budget: CacheBudget | None = None
) -> list[float]:
    """Return the share of exactly answered questions of each context, in [0, 1].

    The contexts are read once; each question continues from a copy of the cache and does not see the others.

    Args:
        model: a supported decoder with a language-model head, in evaluation mode.
        batch: contexts and questions.
        policy: of the bounded cache; None = the full cache.
        budget: of the bounded cache.
    """
    if policy is None:
        policy, budget = full_cache()
    budget = budget or CacheBudget()
    contexts = TokenBatch.build(list(batch.contexts))
    rows, questions = batch.keys.shape
    with retain_cache(model, policy, budget) as cache:
        read_context(model, cache, contexts)
        cache.batch_repeat_interleave(questions)
        prompts = torch.stack([torch.full_like(batch.keys, QUESTION), batch.keys], dim=2).view(rows * questions, 2)
        before = contexts.attention_mask.repeat_interleave(questions, dim=0)
        written = greedy_tokens(model, cache, list(prompts), before, new_tokens=1)
    right = written.view(rows, questions) == batch.answers
    shares: list[float] = right.float().mean(1).tolist()
    return shares


def measure_recall(model: Any, batch: SymbolBatch, policy: CachePolicy | None, budget: CacheBudget) -> Measurement:
    """Measure the share of exactly answered questions, see ``recall_accuracy``."""
    shares = recall_accuracy(model, batch, policy, budget)
    rows, questions = batch.keys.shape
    return Measurement(fmean(shares), shares, [batch.contexts.shape[1]] * rows, [questions] * rows)


def _shuffled(values: Tensor, generator: torch.Generator) -> Tensor:
    """Shuffle each row of [B, N]."""
    return values.gather(1, torch.rand(values.shape, generator=generator).argsort(1))
