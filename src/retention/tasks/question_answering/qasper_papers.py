"""Papers of QASPER (the structure of ``qasper-*-v0.3.json``) as passages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from retention.data.json_files import item, require_whole_characters
from retention.errors import DataError
from retention.records.columns import as_rows
from retention.tasks.question_answering.best_span import TextWords, closest
from retention.tasks.question_answering.passages import NO, NONE, SPAN, YES, Passage, Question, Range
from retention.tasks.question_answering.qasper_metrics import gold_text, leading_kind

_NO_EVIDENCE = "no-evidence"  # annotation_id of answers whose evidence was not recorded
_TYPES = {"extractive": SPAN, "abstractive": SPAN, "unanswerable": NONE}


@dataclass(frozen=True)
class Paper:
    """The text of a paper and the questions as they stand in the file.

    Attributes:
        id: of the paper.
        blocks: title, abstract, section names and paragraphs, in order, none of them blank.
        is_paragraph: for each block, whether it is a paragraph (not a title or a section name).
        questions: objects of the file.
    """

    id: str
    blocks: Sequence[str]
    is_paragraph: Sequence[bool]
    questions: Sequence[Any]


def read_paper(identity: str, record: Any, place: str) -> Paper:
    """Check and take apart one paper.

    Args:
        identity: of the paper.
        record: ``title``, ``abstract``, ``full_text``, ``qas``; lists of objects may also be objects of lists, as
            ``datasets`` stores them.
        place: where the paper stands, for messages.

    Raises:
        DataError: something is missing or of the wrong kind.
    """
    require_whole_characters(record, place)
    head = [("title", False), ("abstract", True)]
    blocks = [(item(record, key, str, place), paragraph) for key, paragraph in head]
    for section in objects(record, "full_text", place):
        # section names may be missing: the original has null for sections without one
        blocks.append((section.get("section_name") or "", False))
        blocks += [(text, True) for text in item(section, "paragraphs", list, place)]
    for text, _ in blocks:
        if not isinstance(text, str):
            raise DataError(
                f"{place}: every paragraph and section name must be a text, got {text!r:.80}; mend the file"
            )
    filled = [(text, paragraph) for text, paragraph in blocks if text.strip()]
    texts, kinds = [text for text, _ in filled], [paragraph for _, paragraph in filled]
    return Paper(identity, texts, kinds, list(objects(record, "qas", place)))


def paper_passage(paper: Paper, *, silver_f1: float, place: str) -> Passage | None:
    """The paper as one text with its questions; None without any question.

    Args:
        paper: to be put together.
        silver_f1: the closest piece of the text stands for a free-form answer from this token F1 on.
        place: where the paper stands, for messages.

    Raises:
        DataError: a question or an answer cannot be used.
    """
    text = "\n".join(paper.blocks)
    starts = [0]
    for block in paper.blocks:
        starts.append(starts[-1] + len(block) + 1)
    named = list(zip(paper.blocks, starts, paper.is_paragraph, strict=False))
    paragraphs = [(start, start + len(block)) for block, start, is_paragraph in named if is_paragraph]
    if not paper.questions:
        return None
    finder = _AnswerFinder(text, paragraphs, silver_f1)
    questions = [finder.question(record, f"{place}, question {n}") for n, record in enumerate(paper.questions, start=1)]
    return Passage(id=paper.id, text=text, paragraphs=paragraphs, questions=questions)


def objects(record: Any, key: str, place: str) -> Iterator[Mapping[str, Any]]:
    """The objects of a list, also where ``datasets`` stored them as one object of equally long lists."""
    value = record.get(key) if isinstance(record, Mapping) else None
    if isinstance(value, Mapping):
        yield from as_rows(value)
        return
    for entry in item(record, key, list, place):
        if not isinstance(entry, Mapping):
            raise DataError(f"{place}: {key!r} must list objects, got {entry!r:.80}; mend the file")
        yield entry


class _AnswerFinder:
    """Finds the answers to questions in the text of one paper."""

    def __init__(self, text: str, paragraphs: Sequence[Range], silver_f1: float) -> None:
        self._text = text
        self._paragraphs = paragraphs
        self._silver_f1 = silver_f1
        self._words = TextWords(text)

    def question(self, record: Mapping[str, Any], place: str) -> Question:
        """The question with its target and its references."""
        answers = [item(entry, "answer", dict, place) for entry in objects(record, "answers", place)]
        if not answers:
            raise DataError(f"{place}: has no answer to compare with; leave the question out")
        known = [entry.get("annotation_id") != _NO_EVIDENCE for entry in objects(record, "answers", place)]
        references = [_reference(answer, known[n], place) for n, answer in enumerate(answers)]
        kind = leading_kind([reference["kind"] for reference in references])
        chosen = [n for n, reference in enumerate(references) if reference["kind"] == kind]
        if kind == "boolean":
            answer_type = YES if leading_kind([references[n]["text"] for n in chosen]) == "Yes" else NO
        else:
            answer_type = _TYPES[kind]
        places = [found for n in chosen for found in self._paragraphs_of(references[n]["evidence"])]
        spans = self._spans([answers[n] for n in chosen], [references[n] for n in chosen], places)
        return Question(
            id=item(record, "question_id", str, place),
            text=item(record, "question", str, place),
            answer_type=answer_type,
            spans=spans if answer_type == SPAN else [],
            places=list(dict.fromkeys(places)),
            references=references,
        )

    def _paragraphs_of(self, evidence: Sequence[str]) -> list[Range]:
        wanted = set(evidence)
        return [(first, behind) for first, behind in self._paragraphs if self._text[first:behind] in wanted]

    def _spans(
        self, answers: Sequence[Mapping[str, Any]], references: Sequence[Mapping[str, Any]], places: Sequence[Range]
    ) -> list[Range]:
        """The span that comes closest to a gold string, at most one."""
        gold = [reference["text"] for reference in references]
        spans = [span for answer in answers for span in answer["extractive_spans"]]
        located = [found for span in spans if (found := self._locate(span, places)) is not None]
        if located:
            return [located[closest([self._text[a:b] for a, b in located], gold)]]
        matches = [match for text in gold if (match := self._words.best(text)) is not None]
        best = max(matches, key=lambda found: found.f1, default=None)
        return [(best.start, best.end)] if best is not None and best.f1 >= self._silver_f1 else []

    def _locate(self, span: str, places: Sequence[Range]) -> Range | None:
        """The first occurrence, in the evidence if it is there."""
        if not span.strip():
            return None
        for first, behind in (*places, (0, len(self._text))):
            start = self._text.find(span, first, behind)
            if start >= 0:
                return start, start + len(span)
        return None


def _reference(answer: Mapping[str, Any], known: bool, place: str) -> dict[str, Any]:
    for key, kind in (
        ("unanswerable", bool),
        ("extractive_spans", list),
        ("free_form_answer", str),
        ("evidence", list),
    ):
        item(answer, key, kind, place)
    if "yes_no" not in answer:
        raise DataError(f"{place}: an answer has no 'yes_no'; it must be true, false or null; mend the file")
    for key in ("extractive_spans", "evidence"):
        if not all(isinstance(text, str) for text in answer[key]):
            raise DataError(f"{place}: {key!r} must list texts; mend the file")
    try:
        kind_name, text = gold_text(answer)
    except ValueError as error:
        raise DataError(f"{place}: an answer cannot be used, {error}; leave it out") from None
    return {"text": text, "kind": kind_name, "evidence": list(answer["evidence"]), "evidence_known": known}
