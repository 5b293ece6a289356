"""Answer questions about a document that a bounded cache has read before the questions are known.

The document is read into the cache first; each question follows and continues from a copy, so several questions share
one reading, and no policy can choose the tokens of a document by its questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from retention.cache.budget import CacheBudget
from retention.cache.cache import RetentionCache, retain_cache
from retention.cache.generation import greedy_tokens
from retention.cache.policies.base import CachePolicy
from retention.cache.reading import TokenBatch, full_cache, read_context
from retention.data.answer_text import answer_scores
from retention.errors import ConfigError, DataError, Problem, require

INSTRUCTION = "Read the text and answer the question with a few words of the text.\n\nText: "
QUESTION = "\n\nQuestion: {question}"
COMPLETION = "\nAnswer:"
_QUESTIONS_AT_ONCE = 8


@dataclass(frozen=True)
class DocumentQuestion:
    """A question on a document, and the answers of all annotators."""

    text: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class QuestionedDocument:
    """A document and the questions about it."""

    text: str
    questions: tuple[DocumentQuestion, ...]


@dataclass(frozen=True)
class EncodedDocument:
    """Token ids of a document and its questions.

    Attributes:
        context: [T] long, what is read before the questions are known: instruction and document.
        prompts: token ids [Q_i] of each question, up to where the answer starts.
        questions: the questions.
    """

    context: Tensor
    prompts: tuple[Tensor, ...]
    questions: tuple[DocumentQuestion, ...]


@dataclass(frozen=True)
class AnswerScore:
    """Scores of the answers to one document's questions, means over the questions, in [0, 1].

    Attributes:
        exact_match: SQuAD's exact match.
        f1: SQuAD's token F1.
        answers: the answers, one per question.
    """

    exact_match: float
    f1: float
    answers: tuple[str, ...]


def read_documents(path: Path, *, limit: int, pairs: int, skip: int = 0) -> list[QuestionedDocument]:
    """Read documents with their answerable questions from a file in SQuAD's layout.

    Each paragraph is a document; paragraphs without an answerable question are left out.

    Args:
        path: ``.json`` or ``.json.gz``.
        limit: number of documents at most, >= 1.
        pairs: pairs of a question and its answers per document at most, the first ones, >= 1.
        skip: documents to leave out first, >= 0.

    Raises:
        ConfigError: a number is out of range.
        DataError: the file cannot be used, or has too few documents.
    """
    from retention.data.squad_json import read_squad_json

    require(limit >= 1, "limit", f"must be >= 1, got {limit}")
    require(pairs >= 1, "pairs", f"must be >= 1, got {pairs}")
    require(skip >= 0, "skip", f"must be >= 0, got {skip}")
    documents = []
    for paragraph in (paragraph for article in read_squad_json(path) for paragraph in article.paragraphs):
        questions = [
            DocumentQuestion(question.text, tuple(answer.text for answer in question.answers))
            for question in paragraph.questions
            if question.answers
        ]
        if questions and paragraph.context.strip():
            documents.append(QuestionedDocument(paragraph.context.strip(), tuple(questions[:pairs])))
    if len(documents) <= skip:
        raise DataError(
            f"{path}: only {len(documents)} documents have a question with an answer; needs more than skip = {skip}"
        )
    return documents[skip : skip + limit]


def encode_document(tokenizer: Any, document: QuestionedDocument, *, positions: int | None = None) -> EncodedDocument:
    """Tokenize a document and its questions apart from each other, in the tokenizer's chat template if it has one.

    Args:
        tokenizer: a Hugging Face tokenizer.
        document: document and questions.
        positions: tokens that document, question and answer may have together; None = any number.

    Raises:
        ConfigError: the chat template changes the text of the document.
        DataError: the document is too long for the model.
    """
    prompts: list[Tensor] = []
    for question in document.questions:
        before, after = _split_prompt(tokenizer, document.text, question.text)
        if not prompts:
            context = _token_ids(tokenizer, before, special=tokenizer.chat_template is None)
        prompts.append(_token_ids(tokenizer, after, special=False))
    longest = len(context) + max(map(len, prompts))
    if positions is not None and longest > positions:
        raise DataError(
            f"document {document.text[:40]!r}: {longest} tokens with its longest question, but the model has room for "
            f"{positions}; leave it out or choose a model with more positions"
        )
    return EncodedDocument(context, tuple(prompts), document.questions)


@torch.no_grad()
def answer_documents(
    model: Any,
    tokenizer: Any,
    documents: Sequence[EncodedDocument],
    policy: CachePolicy | None = None,
    budgets: Sequence[CacheBudget] | None = None,
    *,
    new_tokens: int = 24,
) -> list[AnswerScore]:
    """Answer all questions greedily and score the answers, document by document.

    Args:
        model: a supported decoder with a language-model head, in evaluation mode.
        tokenizer: its tokenizer.
        documents: from ``encode_document``.
        policy: of the bounded cache; None = the full cache.
        budgets: of the bounded cache, one per document; the default budget if None.
        new_tokens: tokens of an answer at most, >= 1.

    Raises:
        ConfigError: ``new_tokens`` is out of range.
    """
    require(new_tokens >= 1, "new_tokens", f"must be >= 1, got {new_tokens}")
    if policy is None:
        policy, budget = full_cache()
        budgets = [budget] * len(documents)
    scores = []
    for document, budget in zip(documents, budgets or [CacheBudget()] * len(documents), strict=True):
        answers = _answers(model, tokenizer, document, policy, budget, new_tokens)
        pairs = [
            answer_scores(text, question.answers) for text, question in zip(answers, document.questions, strict=True)
        ]
        scores.append(AnswerScore(fmean(exact for exact, _ in pairs), fmean(f1 for _, f1 in pairs), tuple(answers)))
    return scores


def _answers(
    model: Any, tokenizer: Any, document: EncodedDocument, policy: CachePolicy, budget: CacheBudget, new_tokens: int
) -> list[str]:
    """Read a document once and answer its questions from copies of the cache."""
    device = model.device
    context = TokenBatch.build([document.context.to(device)])
    answers: list[str] = []
    stop = _stop_tokens(model, tokenizer)
    with retain_cache(model, policy, budget) as cache:
        read_context(model, cache, context)
        for first in range(0, len(document.prompts), _QUESTIONS_AT_ONCE):
            prompts = [prompt.to(device) for prompt in document.prompts[first : first + _QUESTIONS_AT_ONCE]]
            copy: RetentionCache = deepcopy(cache)
            try:
                copy.batch_repeat_interleave(len(prompts))
                before = context.attention_mask.expand(len(prompts), -1)
                written = greedy_tokens(model, copy, prompts, before, new_tokens=new_tokens, stop=stop)
            finally:
                copy.detach()
            answers += [_answer_text(tokenizer, row, stop) for row in written.tolist()]
    return answers


def _answer_text(tokenizer: Any, written: list[int], stop: frozenset[int]) -> str:
    """Return the first line that is not empty of what was written before a stop token."""
    end = next((index for index, token in enumerate(written) if token in stop), len(written))
    lines = tokenizer.decode(written[:end], skip_special_tokens=True).strip().splitlines()
    return str(lines[0].strip()) if lines else ""


def _stop_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """Return the tokens that end an answer: those of the model's generation settings and of the tokenizer."""
    named = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    listed = named if isinstance(named, list) else [named]
    return frozenset(int(token) for token in (*listed, tokenizer.eos_token_id) if token is not None)


def _split_prompt(tokenizer: Any, text: str, question: str) -> tuple[str, str]:
    """Return what comes before the question, up to the end of the document, and the rest up to the answer."""
    following = QUESTION.format(question=question.strip())
    if tokenizer.chat_template is None:
        return INSTRUCTION + text, following + COMPLETION
    messages = [{"role": "user", "content": INSTRUCTION + text + following}]
    rendered: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    start = rendered.find(text + following)
    if start < 0:
        message = (
            "the tokenizer's chat template changes the text of a message, so document and question cannot be parted"
        )
        raise ConfigError([Problem("model", f"{message}; choose another model or remove its chat_template")])
    end = start + len(text)
    return rendered[:end], rendered[end:]


def _token_ids(tokenizer: Any, text: str, *, special: bool) -> Tensor:
    ids: Tensor = tokenizer(text, return_tensors="pt", add_special_tokens=special)["input_ids"][0]
    return ids
