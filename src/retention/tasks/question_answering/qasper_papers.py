"""Read papers of QASPER (in the structure of ``qasper-*-v0.3.json``) and convert them to passages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from retention.data.answer_text import SpanMatcher, closest_text
from retention.data.json_files import require_valid_unicode, required_field
from retention.errors import DataError
from retention.records.columns import as_rows
from retention.tasks.question_answering.passages import NO, NONE, SPAN, YES, Passage, PassageQuestion, Range
from retention.tasks.question_answering.qasper_metrics import gold_text, most_frequent

_NO_EVIDENCE = "no-evidence"  # annotation_id of answers whose evidence was not recorded
_TYPES = {"extractive": SPAN, "abstractive": SPAN, "unanswerable": NONE}


@dataclass(frozen=True)
class Paper:
    """Text blocks of a paper, and its questions as objects of the file.

    Attributes:
        id: id of the paper.
        blocks: title, abstract, section names and paragraphs, in order, none of them blank.
        is_paragraph: for each block, True if it is a paragraph (not a title or a section name).
        questions: question objects of the file.
    """

    id: str
    blocks: Sequence[str]
    is_paragraph: Sequence[bool]
    questions: Sequence[Any]


def read_paper(paper_id: str, record: Any, location: str) -> Paper:
    """Check one paper and divide it into blocks.

    Args:
        paper_id: id of the paper.
        record: object with ``title``, ``abstract``, ``full_text``, ``qas``; lists of objects may also be objects of
            lists, as ``datasets`` stores them.
        location: file and paper, for messages.

    Raises:
        DataError: a field is missing or of the wrong type.
    """
    require_valid_unicode(record, location)
    blocks = [
        (required_field(record, "title", str, location), False),
        (required_field(record, "abstract", str, location), True),
    ]
    for section in objects(record, "full_text", location):
        # section names may be missing: the original has null for sections without one
        blocks.append((section.get("section_name") or "", False))
        blocks += [(text, True) for text in required_field(section, "paragraphs", list, location)]
    for text, _ in blocks:
        if not isinstance(text, str):
            message = f"every paragraph and section name must be a text, got {text!r:.80}; fix the file"
            raise DataError(f"{location}: {message}")
    filled = [(text, paragraph) for text, paragraph in blocks if text.strip()]
    texts, kinds = [text for text, _ in filled], [paragraph for _, paragraph in filled]
    return Paper(paper_id, texts, kinds, list(objects(record, "qas", location)))


def paper_passage(paper: Paper, *, silver_f1: float, location: str) -> Passage | None:
    """Join the blocks of a paper into one text with its questions; return None if there is no question.

    Args:
        paper: the paper.
        silver_f1: lowest token F1 at which the closest span of the text is the target of a free-form answer.
        location: file and paper, for messages.

    Raises:
        DataError: a question or an answer cannot be used.
    """
    text = "\n".join(paper.blocks)
    starts = [0]
    for block in paper.blocks:
        starts.append(starts[-1] + len(block) + 1)
    blocks = zip(paper.blocks, starts, paper.is_paragraph, strict=False)
    paragraphs = [(start, start + len(block)) for block, start, is_paragraph in blocks if is_paragraph]
    if not paper.questions:
        return None
    finder = _AnswerFinder(text, paragraphs, silver_f1)
    questions = [
        finder.question(record, f"{location}, question {number}")
        for number, record in enumerate(paper.questions, start=1)
    ]
    return Passage(id=paper.id, text=text, paragraphs=paragraphs, questions=questions)


def objects(record: Any, key: str, location: str) -> Iterator[Mapping[str, Any]]:
    """Yield the objects of a list, also where ``datasets`` stored them as one object of equally long lists."""
    value = record.get(key) if isinstance(record, Mapping) else None
    if isinstance(value, Mapping):
        try:
            yield from as_rows(value)
        except (TypeError, ValueError):
            raise DataError(f"{location}: {key!r} must be an object of equally long lists; fix the file") from None
        return
    for entry in required_field(record, key, list, location):
        if not isinstance(entry, Mapping):
            raise DataError(f"{location}: {key!r} must list objects, got {entry!r:.80}; fix the file")
        yield entry


class _AnswerFinder:
    """Locate the answers to questions in the text of one paper."""

    def __init__(self, text: str, paragraphs: Sequence[Range], silver_f1: float) -> None:
        self._text = text
        self._paragraphs = paragraphs
        self._silver_f1 = silver_f1
        self._matcher = SpanMatcher(text)

    def question(self, record: Mapping[str, Any], location: str) -> PassageQuestion:
        """Build the question with its training target and its references."""
        entries = list(objects(record, "answers", location))
        answers = [required_field(entry, "answer", dict, location) for entry in entries]
        if not answers:
            raise DataError(f"{location}: has no reference answer; remove the question")
        has_evidence = [entry.get("annotation_id") != _NO_EVIDENCE for entry in entries]
        references = [_reference(*pair, location) for pair in zip(answers, has_evidence, strict=True)]
        kind = most_frequent([reference["kind"] for reference in references])
        chosen = [index for index, reference in enumerate(references) if reference["kind"] == kind]
        if kind == "boolean":
            answer_type = YES if most_frequent([references[index]["text"] for index in chosen]) == "Yes" else NO
        else:
            answer_type = _TYPES[kind]
        evidence = [span for index in chosen for span in self._paragraphs_of(references[index]["evidence"])]
        spans = self._spans([answers[index] for index in chosen], [references[index] for index in chosen], evidence)
        return PassageQuestion(
            id=required_field(record, "question_id", str, location),
            text=required_field(record, "question", str, location),
            answer_type=answer_type,
            spans=spans if answer_type == SPAN else [],
            evidence_spans=list(dict.fromkeys(evidence)),
            references=references,
        )

    def _paragraphs_of(self, evidence: Sequence[str]) -> list[Range]:
        texts = set(evidence)
        return [(start, end) for start, end in self._paragraphs if self._text[start:end] in texts]

    def _spans(
        self, answers: Sequence[Mapping[str, Any]], references: Sequence[Mapping[str, Any]], evidence: Sequence[Range]
    ) -> list[Range]:
        """Return the span that is closest to a gold string, at most one."""
        gold = [reference["text"] for reference in references]
        spans = [span for answer in answers for span in answer["extractive_spans"]]
        located = [position for span in spans if (position := self._locate(span, evidence)) is not None]
        if located:
            return [located[closest_text([self._text[start:end] for start, end in located], gold)]]
        matches = [match for text in gold if (match := self._matcher.best(text)) is not None]
        best = max(matches, key=lambda match: match.f1, default=None)
        return [(best.start, best.end)] if best is not None and best.f1 >= self._silver_f1 else []

    def _locate(self, span: str, evidence: Sequence[Range]) -> Range | None:
        """Return the first occurrence of ``span``, in the evidence if it occurs there."""
        if not span.strip():
            return None
        for first, end in (*evidence, (0, len(self._text))):
            start = self._text.find(span, first, end)
            if start >= 0:
                return start, start + len(span)
        return None


def _reference(answer: Mapping[str, Any], has_evidence: bool, location: str) -> dict[str, Any]:
    for key, kind in (
        ("unanswerable", bool),
        ("extractive_spans", list),
        ("free_form_answer", str),
        ("evidence", list),
    ):
        required_field(answer, key, kind, location)
    yes_no = answer.get("yes_no", "missing")
    if yes_no is not None and not isinstance(yes_no, bool):
        raise DataError(
            f"{location}: 'yes_no' of an answer must be true, false or null, got {yes_no!r:.80}; fix the file"
        )
    for key in ("extractive_spans", "evidence"):
        if not all(isinstance(text, str) for text in answer[key]):
            raise DataError(f"{location}: {key!r} must list texts; fix the file")
    try:
        kind_name, text = gold_text(answer)
    except ValueError as error:
        raise DataError(f"{location}: an answer cannot be used, {error}; remove it") from None
    return {"text": text, "kind": kind_name, "evidence": list(answer["evidence"]), "evidence_known": has_evidence}
