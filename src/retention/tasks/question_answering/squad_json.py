"""Documents with questions and answer spans, in the layout of SQuAD: a JSON file, or the rows of a hub data set."""

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
# CUAD's published training file asks once per answer and numbers the questions: "<title>__<category>_0".
_ANSWER_NUMBER = re.compile(r"_\d+$")
HUB_COLUMNS = ("id", "title", "context", "question", "answers")


@dataclass(frozen=True)
class Answer:
    """A span of the context.

    Attributes:
        text: the span.
        start: position of its first character in the context.
    """

    text: str
    start: int


@dataclass(frozen=True)
class Question:
    """A question about a context; without answers it has none there."""

    id: str
    text: str
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Paragraph:
    """A context and the questions about it."""

    context: str
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class SquadDocument:
    """A titled document; titles are unique within a split."""

    title: str
    paragraphs: tuple[Paragraph, ...]


def read_squad(source: Source, split: str) -> list[SquadDocument]:
    """The documents of one split: ``<split>.json`` or ``.json.gz`` of the local folder, or else the hub's rows.

    Raises:
        DataError: nothing readable is there; the message names file, document, question and remedy.
    """
    if source.dir is not None:
        return read_squad_json(find_split_file(source.dir, split, SUFFIXES))
    if source.hub is None:
        raise DataError("no data: pass data.dir=<folder>")
    place, rows = load_hub(source.hub, split, {name: name for name in HUB_COLUMNS}, SUFFIXES)
    return documents_of_rows(rows, place)


def read_squad_json(path: Path) -> list[SquadDocument]:
    """The documents of a SQuAD JSON file, as it is or compressed by gzip.

    Every answer must be found in its context, character by character.

    Raises:
        DataError: the file is no such JSON, or a document of it cannot be used.
    """
    content = read_json(path)
    data = content.get("data") if isinstance(content, dict) else None
    if not isinstance(data, list) or not data:
        raise DataError(f"{path}: must be a JSON object with a list of documents under 'data'; is it SQuAD's layout?")
    found: dict[str, SquadDocument] = {}
    for number, entry in enumerate(data, start=1):
        document = _document(entry, f"{path}, document {number}")
        if document.title in found:
            raise DataError(f"{path}, document {number}: the title {document.title!r} occurs twice; make them differ")
        found[document.title] = document
    return list(found.values())


def documents_of_rows(rows: Iterable[Mapping[str, Any]], place: str) -> list[SquadDocument]:
    """Documents from rows of one question each (``id``, ``title``, ``context``, ``question``, ``answers``).

    Args:
        rows: in any order; ``answers`` is ``{text: [...], answer_start: [...]}``.
        place: name of the data set, for messages.

    Raises:
        DataError: a row cannot be used.
    """
    contexts: dict[str, dict[str, list[Question]]] = {}
    for number, row in enumerate(rows, start=1):
        here = f"{place}, row {number}"
        title, context = _text(row, "title", here), _text(row, "context", here, blank=True)
        answers = row["answers"] or {"text": [], "answer_start": []}
        listed = [
            {"text": text, "answer_start": start}
            for text, start in zip(answers["text"], answers["answer_start"], strict=True)
        ]
        question = _question({**row, "answers": listed}, context, here)
        contexts.setdefault(title, {}).setdefault(context, []).append(question)
    return [
        SquadDocument(title, tuple(Paragraph(context, tuple(questions)) for context, questions in paragraphs.items()))
        for title, paragraphs in contexts.items()
    ]


def categories_of(question_id: str) -> tuple[str, str]:
    """What the id of a question of CUAD may call its category: its end, as it is and without the answer's number."""
    ending = question_id.rpartition("__")[2]
    return ending, _ANSWER_NUMBER.sub("", ending)


def _document(entry: Any, place: str) -> SquadDocument:
    title = _text(_object(entry, place), "title", place)
    place = f"{place} ({title})"
    paragraphs = _list(entry, "paragraphs", place)
    return SquadDocument(
        title, tuple(_paragraph(each, f"{place}, paragraph {n}") for n, each in enumerate(paragraphs, start=1))
    )


def _paragraph(entry: Any, place: str) -> Paragraph:
    context = _text(_object(entry, place), "context", place, blank=True)
    questions = _list(entry, "qas", place)
    return Paragraph(
        context, tuple(_question(each, context, f"{place}, question {n}") for n, each in enumerate(questions, start=1))
    )


def _question(entry: Any, context: str, place: str) -> Question:
    name = _text(_object(entry, place), "id", place)
    answers = _list(entry, "answers", place)
    return Question(
        name,
        _text(entry, "question", place),
        tuple(_answer(each, context, f"{place}, answer {n}") for n, each in enumerate(answers, start=1)),
    )


def _answer(entry: Any, context: str, place: str) -> Answer:
    text, start = _text(_object(entry, place), "text", place), entry.get("answer_start")
    if not isinstance(start, int) or isinstance(start, bool) or start < 0:
        raise DataError(f"{place}: 'answer_start' must be a whole number of at least 0, got {start!r}")
    if not context.startswith(text, start):
        there = context[start : start + len(text)][:40]
        raise DataError(
            f"{place}: {text[:40]!r} is not at character {start} of the context, {there!r} is; correct answer_start"
        )
    return Answer(text, start)


def _object(entry: Any, place: str) -> Mapping[str, Any]:
    if not isinstance(entry, Mapping):
        raise DataError(f"{place}: must be a JSON object, got {type(entry).__name__}")
    return entry


def _text(entry: Mapping[str, Any], key: str, place: str, *, blank: bool = False) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not (blank or value.strip()):
        raise DataError(f"{place}: {key!r} must be a text{'' if blank else ' with something in it'}, got {value!r}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"{place}: {key!r} has half a character (lone surrogate) at position {error.start}") from None
    return value


def _list(entry: Mapping[str, Any], key: str, place: str) -> list[Any]:
    value = entry.get(key)
    if not isinstance(value, list):
        raise DataError(f"{place}: {key!r} must be a list, got {type(value).__name__}")
    return value
