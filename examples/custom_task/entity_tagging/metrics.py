"""Compute the F1 of whole entities."""

from collections.abc import Sequence


def entities(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """Return the entities of a tagged sentence as (kind, start, end), end-exclusive.

    An entity starts at a B- tag, or at an I- tag that does not continue one of the same kind.
    """
    result = set()
    start, kind = 0, ""
    for index, tag in enumerate([*tags, "O"]):
        prefix, _, current = tag.partition("-")
        if kind and (prefix != "I" or current != kind):
            result.add((kind, start, index))
            kind = ""
        if not kind and current:
            start, kind = index, current
    return result


def entity_f1(predictions: Sequence[Sequence[str]], labels: Sequence[Sequence[str]]) -> float:
    """Compute the micro-averaged F1 of entities, in [0, 1]; an entity counts if kind and both ends are right."""
    correct = predicted = expected = 0
    for predicted_tags, label_tags in zip(predictions, labels, strict=True):
        ours, gold = entities(predicted_tags), entities(label_tags)
        correct, predicted, expected = correct + len(ours & gold), predicted + len(ours), expected + len(gold)
    return 2 * correct / (predicted + expected) if predicted + expected else 0.0
