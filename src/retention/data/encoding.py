"""Tokenize texts into token rows, and check the tokenizer first."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

from datasets.fingerprint import Hasher
from transformers import BatchEncoding, PreTrainedTokenizerFast

from retention.errors import DataError

_CHARACTERS_PER_TOKEN = 16  # first guess; ordinary text has 3 to 6
_MARGIN = 16  # tokens near a cut, which may differ from those of the whole text
_SPACES = (" ", "\n", "\t")
_locks: WeakKeyDictionary[PreTrainedTokenizerFast, threading.Lock] = WeakKeyDictionary()


def check_tokenizer(tokenizer: PreTrainedTokenizerFast, max_length: int) -> None:
    """Check that a tokenizer fits token removal.

    Raises:
        DataError: it is no fast tokenizer, cannot pad, adds no special tokens (nothing would be protected from
            removal), or ``max_length`` leaves no room beside them.
    """
    name = tokenizer.name_or_path or type(tokenizer).__name__
    if not tokenizer.is_fast:
        raise DataError(f"tokenizer {name}: must be a fast tokenizer (with a tokenizer.json file), this one is slow")
    if tokenizer.pad_token_id is None:
        raise DataError(f"tokenizer {name}: has no padding token, so texts cannot be batched; set its pad_token")
    special = (tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id)
    added = tokenizer.num_special_tokens_to_add(pair=False)
    if added == 0 or all(token is None for token in special):
        raise DataError(
            f"tokenizer {name}: puts no special token such as [CLS] or </s> around a text, so no token would be "
            "protected from removal; choose a backbone with an encoder's tokenizer"
        )
    if max_length <= added:
        raise DataError(f"max_length={max_length} leaves no room beside {added} special tokens; raise max_length")


def encode_texts(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], max_length: int, text_pairs: Sequence[str] | None = None
) -> dict[str, list[Any]]:
    """Tokenize texts with their special tokens, truncated to at most ``max_length`` tokens.

    Args:
        tokenizer: a fast tokenizer.
        texts: first (or only) text of each row.
        max_length: tokens per row, special tokens included.
        text_pairs: second text of each row; of two long texts the longer one is truncated.

    Returns:
        One entry per row: ``input_ids``; ``protected_mask`` (True on special tokens, which are never removed);
        ``length`` in tokens; ``truncated`` (True if tokens were cut off).
    """
    pairs = None if text_pairs is None else list(text_pairs)
    singles = [leading_part(tokenizer, text, max_length) for text in texts] if pairs is None else list(texts)
    return _token_rows(_encodings(tokenizer, singles, pairs, max_length))


def encode_pairs(
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[str],
    text_pairs: Sequence[str],
    max_length: int,
    *,
    protect_first: bool = False,
) -> dict[str, list[Any]]:
    """Tokenize pairs of texts for a model that tells them apart by token types; see ``encode_texts``.

    Args:
        tokenizer: a fast tokenizer.
        texts: first text of each row.
        text_pairs: second text of each row.
        max_length: tokens per row, special tokens included; of two long texts the longer one is truncated.
        protect_first: True to protect the tokens of the first text as well.

    Returns:
        The columns of ``encode_texts``, and ``token_type_ids``.
    """
    encodings = _encodings(tokenizer, list(texts), list(text_pairs), max_length)
    rows = _token_rows(encodings)
    if protect_first:
        rows["protected_mask"] = [
            [special or sequence == 0 for special, sequence in zip(protected, encoding.sequence_ids, strict=True)]
            for protected, encoding in zip(rows["protected_mask"], encodings, strict=True)
        ]
    return {**rows, "token_type_ids": [encoding.type_ids for encoding in encodings]}


def _encodings(
    tokenizer: PreTrainedTokenizerFast, texts: list[str], pairs: list[str] | None, max_length: int
) -> Sequence[Any]:
    encoded = _tokenize(tokenizer, texts, pairs, truncation=True, max_length=max_length, padding=False)
    return encoded.encodings or []


def _token_rows(encodings: Sequence[Any]) -> dict[str, list[Any]]:
    return {
        "input_ids": [encoding.ids for encoding in encodings],
        # special_tokens_mask is 1 on padding too; attention_mask is not.
        "protected_mask": [
            [bool(special and real) for special, real in zip(e.special_tokens_mask, e.attention_mask, strict=True)]
            for e in encodings
        ],
        "length": [len(encoding.ids) for encoding in encodings],
        "truncated": [bool(encoding.overflowing) for encoding in encodings],
    }


def leading_part(tokenizer: PreTrainedTokenizerFast, text: str, max_length: int) -> str:
    """Return the beginning of a long text, with the same first ``max_length`` tokens as the whole text and some more.

    Tokenizing a million characters takes seconds, most of them for tokens that are cut off. The text is cut in front of
    whitespace, and only where more than ``max_length`` tokens are in front of the cut.

    Args:
        tokenizer: a fast tokenizer.
        text: text of any length; short ones are returned unchanged.
        max_length: tokens that are needed.
    """
    size = _CHARACTERS_PER_TOKEN * max_length
    while size < len(text) and tokenizer.truncation_side == "right":
        end = max((text.rfind(space, 0, size) for space in _SPACES), default=-1)
        part = text[:end].rstrip() if end > 0 else ""
        tokens = _tokenize(tokenizer, part, add_special_tokens=False, truncation=False, verbose=False).input_ids
        if len(tokens) > max_length + _MARGIN:
            return part
        size *= 2
    return text


def encode_sentences(
    tokenizer: PreTrainedTokenizerFast, documents: Sequence[Sequence[str]], max_length: int
) -> dict[str, list[Any]]:
    """Tokenize documents of sentences as ``[CLS] sentence [CLS] sentence ... [SEP]``, truncated to ``max_length``.

    A sentence is included if its marker and at least one of its tokens fit.

    Returns:
        The columns of ``encode_texts``, and ``markers``: positions of the [CLS] tokens, one per included sentence.
        The markers and the last token are protected.
    """
    rows = [_mark_sentences(tokenizer, sentences, max_length) for sentences in documents]
    columns = ("input_ids", "protected_mask", "length", "truncated", "markers")
    return {column: [row[column] for row in rows] for column in columns}


def _mark_sentences(tokenizer: PreTrainedTokenizerFast, sentences: Sequence[str], max_length: int) -> dict[str, Any]:
    input_ids: list[int] = []
    markers: list[int] = []
    room = max_length - 1
    truncated = False
    for tokens in _tokenize(tokenizer, list(sentences), add_special_tokens=False, verbose=False).input_ids:
        if len(input_ids) + 2 > room:
            truncated = True
            break
        markers.append(len(input_ids))
        input_ids += [int(tokenizer.cls_token_id), *tokens]
    truncated, input_ids = truncated or len(input_ids) > room, [*input_ids[:room], int(tokenizer.sep_token_id)]
    special = {*markers, len(input_ids) - 1}
    return {
        "input_ids": input_ids,
        "protected_mask": [position in special for position in range(len(input_ids))],
        "length": len(input_ids),
        "truncated": truncated,
        "markers": markers,
    }


def _tokenize(tokenizer: PreTrainedTokenizerFast, *texts: Any, **settings: Any) -> BatchEncoding:
    """Call a tokenizer in one thread at a time: it stores truncation and padding of a call before it encodes."""
    with _locks.setdefault(tokenizer, threading.Lock()):
        encoded: BatchEncoding = tokenizer(*texts, **settings)
    return encoded


def tokenizer_digest(tokenizer: PreTrainedTokenizerFast) -> str:
    """Compute a hash of the tokenizer's vocabulary and rules, the same before and after it was used.

    Truncation and padding are settings of the last call, so they are left out.
    """
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["truncation"] = state["padding"] = None
    digest: str = Hasher.hash(json.dumps([state, tokenizer.truncation_side], sort_keys=True))
    return digest
