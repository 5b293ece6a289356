"""The scores of QASPER: questions on scientific papers (Dasigi et al. 2021)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import datasets
import evaluate

from retention.tasks.question_answering.answer_text import same_answer, token_f1

KINDS = ("extractive", "abstractive", "boolean", "unanswerable")
_FLOAT = "FLOAT SELECTED"  # marks evidence that is a figure or a table, which has no paragraph

Answer = Mapping[str, Any]
Pair = tuple[Mapping[str, Any], Sequence[Answer]]


class QasperScore(evaluate.Metric):
    """Answer-F1 and Evidence-F1 as the official evaluator defines them, and what they are made of.

    A prediction is ``{"answered": bool, "answer": text, "evidence": paragraphs}``; a question that was not answered
    scores 0. A reference is ``{"answers": [{"text", "kind", "evidence", "evidence_known"}, ...]}``, one entry per
    annotator; ``text`` is the gold string (``gold_text``), ``kind`` one of ``KINDS``.

    Returns, all in [0, 1], each only where a question counts for it:

    - ``answer_f1``: token F1, the best over the annotators, mean over the questions.
    - ``evidence_f1``: F1 of paragraphs compared as strings, the best over the annotators; 1 where both name none.
      Questions whose evidence nobody knows are left out. ``text_evidence_f1``: the same without figures and tables.
    - ``extractive_f1``, ``extractive_em``: questions with an extractive reference, against those references alone.
      The exact match is ours: the official evaluator has none.
    - ``f1_<kind>`` and ``count_<kind>``: by the kind that most annotators gave (the first, if several lead).
      Differs from the official evaluator, whose kind depends on the prediction.
    - ``count_evidence``: questions that ``evidence_f1`` is a mean of.
    """

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        answer = {
            "text": text,
            "kind": text,
            "evidence": datasets.List(text),
            "evidence_known": datasets.Value("bool"),
        }
        return evaluate.MetricInfo(
            description="Answer-F1 and Evidence-F1 of QASPER, each in [0, 1].",
            citation="",
            inputs_description="predictions: answer, evidence; references: answers of all annotators; equally many",
            features=datasets.Features(
                {
                    "predictions": {
                        "answered": datasets.Value("bool"),
                        "answer": text,
                        "evidence": datasets.List(text),
                    },
                    "references": {"answers": datasets.List(answer)},
                }
            ),
        )

    def _compute(
        self, predictions: Sequence[Mapping[str, Any]], references: Sequence[Mapping[str, Any]], **_: Any
    ) -> dict[str, float]:
        pairs: list[Pair] = [(guess, truth["answers"]) for guess, truth in zip(predictions, references, strict=True)]
        scores = {"answer_f1": _mean(answer_f1(guess, answers) for guess, answers in pairs)}
        scores |= _by_kind(pairs)
        extractive = [(guess, [a for a in answers if a["kind"] == "extractive"]) for guess, answers in pairs]
        extractive = [(guess, answers) for guess, answers in extractive if answers]
        if extractive:
            scores["extractive_f1"] = _mean(answer_f1(guess, answers) for guess, answers in extractive)
            scores["extractive_em"] = _mean(_exact(guess, answers) for guess, answers in extractive)
        known = [(guess, [a for a in answers if a["evidence_known"]]) for guess, answers in pairs]
        known = [(guess, answers) for guess, answers in known if answers]
        scores["count_evidence"] = float(len(known))
        if known:
            scores["evidence_f1"] = _mean(_evidence_f1(guess, answers, lambda text: True) for guess, answers in known)
            scores["text_evidence_f1"] = _mean(_evidence_f1(guess, answers, _is_text) for guess, answers in known)
        return scores


def gold_text(answer: Mapping[str, Any]) -> tuple[str, str]:
    """Kind and gold string of one annotator's answer, by the official rules.

    Args:
        answer: with ``unanswerable``, ``extractive_spans``, ``free_form_answer``, ``yes_no``.

    Raises:
        ValueError: it says nothing at all.
    """
    if answer["unanswerable"]:
        return "unanswerable", "Unanswerable"
    if answer["extractive_spans"]:
        return "extractive", ", ".join(answer["extractive_spans"])
    if answer["free_form_answer"]:
        return "abstractive", str(answer["free_form_answer"])
    if answer["yes_no"] is None:
        raise ValueError("it is neither a span, nor free text, nor yes or no, nor unanswerable")
    return "boolean", "Yes" if answer["yes_no"] else "No"


def paragraph_f1(guess: Sequence[str], truth: Sequence[str]) -> float:
    """F1 of paragraphs compared as strings, in [0, 1]; 1 where both name none."""
    if not guess and not truth:
        return 1.0
    shared = len(set(guess) & set(truth))
    return 2.0 * shared / (len(guess) + len(truth)) if shared else 0.0


def leading_kind(kinds: Sequence[str]) -> str:
    """The kind given most often; the first of those that lead."""
    return Counter(kinds).most_common(1)[0][0]


def answer_f1(guess: Mapping[str, Any], answers: Sequence[Answer]) -> float:
    """Token F1 of a prediction, the best over the annotators; 0 where nothing was answered."""
    return max(token_f1(guess["answer"], a["text"]) for a in answers) if guess["answered"] else 0.0


def _exact(guess: Mapping[str, Any], answers: Sequence[Answer]) -> float:
    return float(guess["answered"] and any(same_answer(guess["answer"], a["text"]) for a in answers))


def _evidence_f1(guess: Mapping[str, Any], answers: Sequence[Answer], counts: Callable[[str], bool]) -> float:
    if not guess["answered"]:
        return 0.0
    return max(paragraph_f1(guess["evidence"], [p for p in a["evidence"] if counts(p)]) for a in answers)


def _is_text(paragraph: str) -> bool:
    return _FLOAT not in paragraph


def _by_kind(pairs: Sequence[Pair]) -> dict[str, float]:
    found: dict[str, list[float]] = defaultdict(list)
    for guess, answers in pairs:
        found[leading_kind([a["kind"] for a in answers])].append(answer_f1(guess, answers))
    counts = {f"count_{kind}": float(len(found[kind])) for kind in KINDS}
    return counts | {f"f1_{kind}": _mean(found[kind]) for kind in KINDS if found[kind]}


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)
