"""What a trained model says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a model says about one text.

    Attributes:
        labels: the classes answered, most probable first: one, or of a multi-label task one or more.
        probabilities: class -> probability in [0, 1]; they add up to 1 but in a multi-label task.
        tokens: the text as the encoder read it, special tokens included, cut to the model's limit.
        depth: for each token the number of gates that let it pass, 0 .. ``gates``.
        gates: how many gated layers there are.
    """

    labels: tuple[str, ...]
    probabilities: dict[str, float]
    tokens: tuple[str, ...]
    depth: tuple[int, ...]
    gates: int

    @property
    def keep_ratio(self) -> float:
        """Kept tokens / tokens of the text, mean over the gated layers, in (0, 1]; 1 without gates."""
        return keep_ratio(self.depth, self.gates)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model says to one question about a text.

    Attributes:
        kind: ``span``, ``yes``, ``no``, or ``none``: the text does not say.
        text: the span as it stands in the text; empty for the other kinds.
        characters: where it stands, (first, behind the last); None for the other kinds.
        probability: in [0, 1]; of a span, of the kind and the place. Over windows, that of the most certain one, and
            for ``none`` that of the least certain one.
        truncated: whether the text goes on behind what was read.
        keep_ratio: kept tokens / tokens, mean over gated layers and windows, in (0, 1].
    """

    kind: str
    text: str
    characters: tuple[int, int] | None
    probability: float
    truncated: bool
    keep_ratio: float


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a model says in short.

    Attributes:
        sentences: of the summary, in order.
        chosen: the places of the sentences in the article, ascending; None where the summary was written anew.
        scores: one per sentence of the article that was read, the highest are chosen; None where it was written anew.
        truncated: whether the article goes on behind what was read.
        keep_ratio: kept tokens / tokens of the article, mean over the gated layers, in (0, 1].
    """

    sentences: tuple[str, ...]
    chosen: tuple[int, ...] | None
    scores: tuple[float, ...] | None
    truncated: bool
    keep_ratio: float


def keep_ratio(depth: tuple[int, ...], gates: int) -> float:
    """Kept tokens / tokens, mean over the gates, from the number of gates that each token passed; 1 without gates."""
    return sum(depth) / (gates * len(depth)) if gates else 1.0
