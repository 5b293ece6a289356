"""Generate tasks with exact answers, and count how many a decoder with a bounded cache still answers.

``recall`` is multi-query associative recall (Arora et al., arXiv 2312.04927) in sentences: passwords of names, some of
which are assigned anew, so that the last one counts. ``tracking`` follows codes from name to name, as the variable
tracking of RULER (Hsieh et al., arXiv 2404.06654). ``needle`` hides one code at a random depth of a real text.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from retention.cache.budget import CacheBudget
from retention.cache.cache import RetentionCache, retain_cache
from retention.cache.generation import greedy_tokens
from retention.cache.policies.base import CachePolicy
from retention.cache.reading import TokenBatch, full_cache, read_context
from retention.errors import DataError, require

NAMES = (
    *("Alice", "Bruno", "Carla", "David", "Elena", "Frank", "Grace", "Henry", "Irene", "James", "Karen", "Louis"),
    *("Maria", "Nadia", "Oscar", "Paula", "Quinn", "Rosa", "Simon", "Tanya", "Ursula", "Victor", "Wendy", "Xavier"),
    *("Yusuf", "Zelda"),
)
WORDS = (
    *("apple", "bridge", "candle", "dragon", "eagle", "forest", "garden", "hammer", "island", "jacket", "kitchen"),
    *("ladder", "mirror", "needle", "orange", "pencil", "rocket", "silver", "table", "window", "yellow", "zebra"),
)


@dataclass(frozen=True)
class Question:
    """Question about a context: a sentence to be continued, and its exact continuation."""

    prompt: str
    answer: str


@dataclass(frozen=True)
class RecallExample:
    """Context and the questions about it."""

    context: str
    questions: tuple[Question, ...]


def recall_examples(
    count: int, *, pairs: int = 20, reassigned: int = 4, questions: int = 4, seed: int = 0
) -> Iterator[RecallExample]:
    """Yield contexts of ``pairs + reassigned`` sentences that each assign a password, one word, to a name.

    Args:
        count: number of contexts.
        pairs: number of names, at most 26.
        reassigned: names whose password is assigned again later; the last one counts.
        questions: number of names in questions; up to half of them reassigned ones.
        seed: of the generator.

    Raises:
        ConfigError: a number is out of range.
    """
    require(1 <= pairs <= len(NAMES), "pairs", f"must be in [1, {len(NAMES)}], got {pairs}")
    require(0 <= reassigned <= pairs, "reassigned", f"must be in [0, pairs = {pairs}], got {reassigned}")
    require(1 <= questions <= pairs, "questions", f"must be in [1, pairs = {pairs}], got {questions}")
    generator = random.Random(seed)
    for _ in range(count):
        names = generator.sample(NAMES, pairs)
        changed = generator.sample(names, reassigned)
        passwords: dict[str, str] = {}
        sentences = []
        for name in [*names, *changed]:
            passwords[name] = generator.choice([word for word in WORDS if word != passwords.get(name)])
            sentences.append(f"The password of {name} is {passwords[name]}.")
        again = changed[: questions // 2]
        others = [name for name in names if name not in changed] + [name for name in changed if name not in again]
        chosen = [*again, *others[: questions - len(again)]]
        generator.shuffle(chosen)
        final = tuple(Question(f" The password of {name} is", f" {passwords[name]}") for name in chosen)
        yield RecallExample(" ".join(sentences), final)


def tracking_examples(count: int, *, chains: int = 4, hops: int = 2, seed: int = 0) -> Iterator[RecallExample]:
    """Yield contexts in which codes are handed on from name to name, and ask for the last name of each chain.

    A chain assigns a code to a name, and then ``hops`` times the code of the name before to another one; the sentences
    of the chains are mixed, each chain in its order.

    Args:
        count: number of contexts.
        chains: number of codes, and of questions.
        hops: how often each code is handed on; ``chains * (hops + 1)`` is at most 26.
        seed: of the generator.

    Raises:
        ConfigError: a number is out of range.
    """
    require(hops >= 0, "hops", f"must be >= 0, got {hops}")
    most = len(NAMES) // (hops + 1)
    require(1 <= chains <= most, "chains", f"must be in [1, {len(NAMES)} names / (hops + 1) = {most}], got {chains}")
    generator = random.Random(seed)
    for _ in range(count):
        names = generator.sample(NAMES, chains * (hops + 1))
        members = [names[index::chains] for index in range(chains)]
        codes = [str(code) for code in generator.sample(range(1000, 10_000), chains)]
        order = [chain for chain in range(chains) for _ in range(hops + 1)]
        generator.shuffle(order)
        sentences, handed = [], [0] * chains
        for chain in order:
            link = handed[chain]
            source = f"the code of {members[chain][link - 1]}" if link else codes[chain]
            sentences.append(f"The code of {members[chain][link]} is {source}.")
            handed[chain] += 1
        questions = [
            Question(f" As a number, the code of {members[chain][-1]} is", f" {codes[chain]}")
            for chain in range(chains)
        ]
        yield RecallExample(" ".join(sentences), tuple(questions))


def needle_examples(texts: Sequence[str], count: int, *, words: int = 250, seed: int = 0) -> Iterator[RecallExample]:
    """Yield real texts of ``words`` words with one sentence that assigns a code, at a random depth, and its question.

    Args:
        texts: the haystack; each example takes the next text that is long enough.
        count: number of examples.
        words: length of the context without the needle, >= 10.
        seed: of the generator.

    Raises:
        ConfigError: ``words`` is out of range.
        DataError: there are fewer long texts than examples.
    """
    require(words >= 10, "words", f"must be >= 10, got {words}")
    generator = random.Random(seed)
    long = [split[:words] for text in texts if len(split := text.split()) >= words]
    if len(long) < count:
        raise DataError(f"needle: only {len(long)} texts have {words} words or more, needs {count}")
    for haystack in long[:count]:
        name, code = generator.choice(NAMES), f"{generator.randrange(1000, 10_000)}"
        depth = generator.randrange(words // 10, words - words // 10)
        context = [*haystack[:depth], f"The code of {name} is {code}.", *haystack[depth:]]
        yield RecallExample(" ".join(context), (Question(f" The code of {name} is", f" {code}"),))


@torch.no_grad()
def exact_answers(
    model: Any,
    tokenizer: Any,
    examples: Sequence[RecallExample],
    policy: CachePolicy | None = None,
    budget: CacheBudget | None = None,
) -> list[float]:
    """Return the share of exactly answered questions of each example, in [0, 1].

    The contexts are read once, as one batch; each question continues from a copy of the cache. The answer is what
    greedy decoding writes, as many tokens as the exact answer has.

    Args:
        model: a supported decoder with a language-model head, in evaluation mode.
        tokenizer: its tokenizer.
        examples: all with the same number of questions.
        policy: of the bounded cache; None = the full cache.
        budget: of the bounded cache.

    Raises:
        ConfigError: there are no examples, or they have different numbers of questions.
    """
    counts = {len(example.questions) for example in examples}
    require(len(counts) == 1, "examples", f"needs examples with the same number of questions, got {sorted(counts)}")
    contexts = TokenBatch.build([_encode(tokenizer, example.context, special=True) for example in examples])
    if policy is None:
        policy, budget = full_cache()
    budget = budget or CacheBudget()
    correct = torch.zeros(len(examples))
    with retain_cache(model, policy, budget) as cache:
        read_context(model, cache, contexts)
        for index in range(counts.pop()):
            copy = deepcopy(cache)
            try:
                questions = [example.questions[index] for example in examples]
                correct += _are_exact(model, tokenizer, copy, questions, contexts.attention_mask)
            finally:
                copy.detach()
    return [float(value) / len(examples[0].questions) for value in correct]


def _are_exact(
    model: Any, tokenizer: Any, cache: RetentionCache, questions: Sequence[Question], before: Tensor
) -> Tensor:
    """Return 1 for each question whose answer greedy decoding writes exactly, else 0; [B]."""
    prompts = [_encode(tokenizer, question.prompt) for question in questions]
    answers = TokenBatch.build([_encode(tokenizer, question.answer) for question in questions], side="right")
    written = greedy_tokens(model, cache, prompts, before, new_tokens=answers.input_ids.shape[1])
    same = written == answers.input_ids
    return (same | (answers.attention_mask == 0)).all(1).float()


def _encode(tokenizer: Any, text: str, special: bool = False) -> Tensor:
    ids: Tensor = tokenizer(text, return_tensors="pt", add_special_tokens=special)["input_ids"][0]
    return ids
