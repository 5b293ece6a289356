"""Read documents with questions and answer spans in SQuAD's layout: a JSON file, or rows of a hub data set."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retention.data.json_files import read_json
from retention.data.local_files import find_split_file
from retention.data.sources import Source, load_hub
from retention.errors import DataError

SUFFIXES = (".json", ".json.gz")
# CUAD's published training file repeats a question for each answer and numbers it: "<title>__<category>_0".
_ANSWER_NUMBER = re.compile(r"_\d+$")
HUB_COLUMNS = ("id", "title", "context", "question", "answers")


@dataclass(frozen=True)
class SquadAnswer:
    """A span of the context.

    Attributes:
        text: text of the span.
        start: position of its first character in the context.
    """

    text: str
    start: int


@dataclass(frozen=True)
class SquadQuestion:
    """A question about a context; without answers, the context does not answer it."""

    id: str
    text: str
    answers: tuple[SquadAnswer, ...]


@dataclass(frozen=True)
class SquadParagraph:
    """A context and the questions about it."""

    context: str
    questions: tuple[SquadQuestion, ...]


@dataclass(frozen=True)
class SquadDocument:
    """A titled document; titles are unique within a split."""

    title: str
    paragraphs: tuple[SquadParagraph, ...]


def read_squad(source: Source, split: str) -> list[SquadDocument]:
    """Read the documents of one split: ``<split>.json`` or ``.json.gz`` of the local folder, or the rows of the hub.

    Raises:
        DataError: the split cannot be read; the message names file, document, question and remedy.
    """
    if source.dir is not None:
        return read_squad_json(find_split_file(source.dir, split, SUFFIXES))
    if source.hub is None:
        raise DataError("no data: pass data.dir=<folder>")
    name, rows = load_hub(source.hub, split, {column: column for column in HUB_COLUMNS}, SUFFIXES)
    return documents_of_rows(rows, name)


def read_squad_json(path: Path) -> list[SquadDocument]:
    """Read the documents of a SQuAD JSON file, plain or gzip-compressed.

    Every answer must stand in its context at its start position, character by character.

    Raises:
        DataError: the file has another layout, or a document of it cannot be used.
    """
    content = read_json(path)
    data = content.get("data") if isinstance(content, dict) else None
    if not isinstance(data, list) or not data:
        raise DataError(f"{path}: must be a JSON object with a list of documents under 'data', as in SQuAD's layout")
    documents: dict[str, SquadDocument] = {}
    for number, entry in enumerate(data, start=1):
        document = _document(entry, f"{path}, document {number}", f"document {number}")
        if document.title in documents:
            raise DataError(f"{path}, document {number}: the title {document.title!r} occurs twice; make them differ")
        documents[document.title] = document
    return list(documents.values())


def documents_of_rows(rows: Iterable[Mapping[str, Any]], source: str) -> list[SquadDocument]:
    """Build documents from rows of one question each (``id``, ``title``, ``context``, ``question``, ``answers``).

    Args:
        rows: in any order; ``answers`` is ``{text: [...], answer_start: [...]}``.
        source: name of the data set, for messages.

    Raises:
        DataError: a row cannot be used.
    """
    contexts: dict[str, dict[str, list[SquadQuestion]]] = {}
    for number, row in enumerate(rows, start=1):
        row_location = f"{source}, row {number}"
        title, context = _text(row, "title", row_location), _text(row, "context", row_location, blank=True)
        answers = row["answers"] or {"text": [], "answer_start": []}
        listed = [
            {"text": text, "answer_start": start}
            for text, start in zip(answers["text"], answers["answer_start"], strict=True)
        ]
        question = _question({**row, "answers": listed}, context, row_location)
        contexts.setdefault(title, {}).setdefault(context, []).append(question)
    return [
        SquadDocument(
            title, tuple(SquadParagraph(context, tuple(questions)) for context, questions in paragraphs.items())
        )
        for title, paragraphs in contexts.items()
    ]


def categories_of(question_id: str) -> tuple[str, str]:
    """Return the two possible category names in a CUAD question id: its end, with and without the answer number."""
    ending = question_id.rpartition("__")[2]
    return ending, _ANSWER_NUMBER.sub("", ending)


def _document(entry: Any, location: str, default_title: str) -> SquadDocument:
    """Read a document; one without the key ``title``, as in COVID-QA, gets the default title."""
    title = _text({"title": default_title, **_object(entry, location)}, "title", location)
    location = f"{location} ({title})"
    paragraphs = _list(entry, "paragraphs", location)
    return SquadDocument(
        title, tuple(_paragraph(each, f"{location}, paragraph {n}") for n, each in enumerate(paragraphs, start=1))
    )


def _paragraph(entry: Any, location: str) -> SquadParagraph:
    context = _text(_object(entry, location), "context", location, blank=True)
    questions = _list(entry, "qas", location)
    return SquadParagraph(
        context,
        tuple(_question(each, context, f"{location}, question {n}") for n, each in enumerate(questions, start=1)),
    )


def _question(entry: Any, context: str, location: str) -> SquadQuestion:
    number = _object(entry, location).get("id")
    is_number = isinstance(number, int) and not isinstance(number, bool)  # as in the published COVID-QA
    name = str(number) if is_number else _text(entry, "id", location)
    answers = _list(entry, "answers", location)
    if entry.get("is_impossible") is True and answers:
        raise DataError(f"{location}: has answers, but 'is_impossible' is true; remove either")
    return SquadQuestion(
        name,
        _text(entry, "question", location),
        tuple(_answer(each, context, f"{location}, answer {n}") for n, each in enumerate(answers, start=1)),
    )


def _answer(entry: Any, context: str, location: str) -> SquadAnswer:
    text, start = _text(_object(entry, location), "text", location), entry.get("answer_start")
    if not isinstance(start, int) or isinstance(start, bool) or start < 0:
        raise DataError(f"{location}: 'answer_start' must be a whole number of at least 0, got {start!r:.80}")
    if not context.startswith(text, start):
        there = context[start : start + len(text)][:40]
        raise DataError(
            f"{location}: {text[:40]!r} is not at character {start} of the context, {there!r} is; correct answer_start"
        )
    return SquadAnswer(text, start)


def _object(entry: Any, location: str) -> Mapping[str, Any]:
    if not isinstance(entry, Mapping):
        raise DataError(f"{location}: must be a JSON object, got {type(entry).__name__}")
    return entry


def _text(entry: Mapping[str, Any], key: str, location: str, *, blank: bool = False) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not (blank or value.strip()):
        raise DataError(
            f"{location}: {key!r} must be a text{'' if blank else ' with something in it'}, got {value!r:.80}"
        )
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{location}: {key!r} has half a character (lone surrogate) at position {error.start}"
        ) from None
    return value


def _list(entry: Mapping[str, Any], key: str, location: str) -> list[Any]:
    value = entry.get(key)
    if not isinstance(value, list):
        raise DataError(f"{location}: {key!r} must be a list, got {type(value).__name__}")
    return value
