"""Metrics of QASPER, questions on scientific papers (Dasigi et al. 2021)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import datasets
import evaluate

from retention.data.answer_text import same_answer, token_f1
from retention.tasks.metric import TaskMetric

KINDS = ("extractive", "abstractive", "boolean", "unanswerable")
_FLOAT = "FLOAT SELECTED"  # marks evidence that is a figure or a table, which has no paragraph

Reference = Mapping[str, Any]  # answer of one annotator
Pair = tuple[Mapping[str, Any], Sequence[Reference]]  # prediction, references


class QasperScore(TaskMetric):
    """Answer-F1 and Evidence-F1 as the official evaluator defines them, also by kind of answer.

    A prediction is ``{"answered": bool, "answer": text, "evidence": paragraphs}``; a question that was not answered
    scores 0. A reference is ``{"answers": [{"text", "kind", "evidence", "evidence_known"}, ...]}``, one entry per
    annotator; ``text`` is the gold string (``gold_text``), ``kind`` one of ``KINDS``.

    Scores are in [0, 1]; each is given only where at least one question counts for it:

    - ``answer_f1``: token F1, the best over the annotators, mean over the questions.
    - ``evidence_f1``: F1 of paragraphs compared as strings, the best over the annotators; 1 where both name none.
      Questions whose evidence was not recorded are left out. ``text_evidence_f1``: the same without figures and tables.
    - ``extractive_f1``, ``extractive_em``: questions with an extractive reference, against those references alone.
      The official evaluator has no exact match.
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
        pairs: list[Pair] = [
            (prediction, truth["answers"]) for prediction, truth in zip(predictions, references, strict=True)
        ]
        scores = {"answer_f1": _mean(answer_f1(prediction, answers) for prediction, answers in pairs)}
        scores |= _by_kind(pairs)
        extractive = [(prediction, [a for a in answers if a["kind"] == "extractive"]) for prediction, answers in pairs]
        extractive = [(prediction, answers) for prediction, answers in extractive if answers]
        if extractive:
            scores["extractive_f1"] = _mean(answer_f1(prediction, answers) for prediction, answers in extractive)
            scores["extractive_em"] = _mean(_exact(prediction, answers) for prediction, answers in extractive)
        with_evidence = [(prediction, [a for a in answers if a["evidence_known"]]) for prediction, answers in pairs]
        with_evidence = [(prediction, answers) for prediction, answers in with_evidence if answers]
        scores["count_evidence"] = float(len(with_evidence))
        if with_evidence:
            scores["evidence_f1"] = _mean(
                _evidence_f1(prediction, answers, lambda _: True) for prediction, answers in with_evidence
            )
            scores["text_evidence_f1"] = _mean(_evidence_f1(*pair, _is_text) for pair in with_evidence)
        return scores


def gold_text(answer: Mapping[str, Any]) -> tuple[str, str]:
    """Return kind and gold string of one annotator's answer, by the official rules.

    Args:
        answer: object with ``unanswerable``, ``extractive_spans``, ``free_form_answer``, ``yes_no``.

    Raises:
        ValueError: the answer is empty.
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


def paragraph_f1(prediction: Sequence[str], truth: Sequence[str]) -> float:
    """Compute the F1 of paragraphs compared as strings, in [0, 1]; 1 where both lists are empty."""
    if not prediction and not truth:
        return 1.0
    shared = len(set(prediction) & set(truth))
    return 2.0 * shared / (len(prediction) + len(truth)) if shared else 0.0


def most_frequent(kinds: Sequence[str]) -> str:
    """Return the most frequent kind; of equally frequent ones the first."""
    return Counter(kinds).most_common(1)[0][0]


def answer_f1(prediction: Mapping[str, Any], answers: Sequence[Reference]) -> float:
    """Compute the token F1 of a prediction, the best over the annotators; 0 where nothing was answered."""
    return max(token_f1(prediction["answer"], a["text"]) for a in answers) if prediction["answered"] else 0.0


def _exact(prediction: Mapping[str, Any], answers: Sequence[Reference]) -> float:
    return float(prediction["answered"] and any(same_answer(prediction["answer"], a["text"]) for a in answers))


def _evidence_f1(prediction: Mapping[str, Any], answers: Sequence[Reference], counts: Callable[[str], bool]) -> float:
    if not prediction["answered"]:
        return 0.0
    return max(paragraph_f1(prediction["evidence"], [p for p in a["evidence"] if counts(p)]) for a in answers)


def _is_text(paragraph: str) -> bool:
    return _FLOAT not in paragraph


def _by_kind(pairs: Sequence[Pair]) -> dict[str, float]:
    scores: dict[str, list[float]] = defaultdict(list)
    for prediction, answers in pairs:
        scores[most_frequent([a["kind"] for a in answers])].append(answer_f1(prediction, answers))
    counts = {f"count_{kind}": float(len(scores[kind])) for kind in KINDS}
    return counts | {f"f1_{kind}": _mean(scores[kind]) for kind in KINDS if scores[kind]}


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)
