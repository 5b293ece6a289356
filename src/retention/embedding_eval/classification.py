"""Classification of texts by their embeddings: logistic regression and nearest neighbors."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import normalize
from torch import Tensor

from retention.data.sources import Source
from retention.data.splits import draw_rows, hold_out
from retention.data.table import whole_number
from retention.embedding_eval.scores import Row, Scores, mean_difference, paired
from retention.errors import DataError
from retention.report.intervals import Estimate
from retention.tasks.classification.labelled_text import read_label_names

_FIXED_SEED = 20250  # test rows do not change with the seeds of the training rows
_MAX_ITER = 1000
_NEIGHBORS = 5


class TextClassification:
    """Texts with one class each; measures: accuracy of two classifiers on frozen embeddings, mean over seeds.

    A logistic regression (scikit-learn's defaults, up to 1,000 iterations) and 5 nearest neighbors are fitted to the
    normalized embeddings of ``train_size`` training texts, which each seed draws anew. Validation rows are held out of
    the training file and belong to no draw, whichever split is evaluated.

    Args:
        name: short name of the data set, first part of the names of its metrics.
        source: folder with ``train`` and ``test`` (columns ``text``, ``label``), or a hub data set.
        split: ``validation`` or ``test``.
        train_size: training texts of each seed, >= 1.
        eval_size: texts to classify; for ``test`` None = all.
        seeds: seeds of the training texts, at least one.

    Raises:
        DataError: a split cannot be read, has too few rows, or a label is not a whole number.
    """

    def __init__(
        self,
        name: str,
        source: Source,
        split: str,
        *,
        train_size: int = 1000,
        eval_size: int | None = 1000,
        seeds: Sequence[int] = (0, 1, 2),
    ) -> None:
        self.name = name
        self._source = source.describe(name)
        train, held_out = hold_out(_read(source, "train"), eval_size or 1000)
        evaluated = held_out if split == "validation" else _read(source, "test")
        if split == "test":
            evaluated = draw_rows(evaluated, eval_size, _FIXED_SEED, "--eval-texts")
        draws = [draw_rows(train, train_size, seed, "--train-texts")["row"][:] for seed in seeds]
        rows = sorted({row for draw in draws for row in draw})
        column = {row: number for number, row in enumerate(rows)}
        texts = dict(zip(train["row"][:], train["text"][:], strict=True))
        labels = dict(zip(train["row"][:], train["label"][:], strict=True))
        self._train_texts = [texts[row] for row in rows]
        self._train_labels = np.array([labels[row] for row in rows])
        self._draws = [np.array([column[row] for row in draw]) for draw in draws]
        self._eval_texts: list[str] = evaluated["text"][:]
        self._eval_labels = np.array(evaluated["label"][:])
        self._eval_rows: list[int] = evaluated["row"][:]
        self._seeds = tuple(seeds)

    @property
    def documents(self) -> Sequence[str]:
        """Return the texts to classify."""
        return self._eval_texts

    @property
    def texts(self) -> Sequence[str]:
        """Return the texts to classify, then the training texts of all seeds, each once."""
        return [*self._eval_texts, *self._train_texts]

    def describe(self) -> dict[str, Any]:
        """Return source and numbers of texts."""
        sizes = {"train": len(self._draws[0]), "texts": len(self._eval_texts), "seeds": list(self._seeds)}
        return {"source": self._source, **sizes}

    def evaluate(self, embeddings: Tensor) -> Scores:
        """Compute the accuracy of both classifiers, mean over the seeds."""
        unit: NDArray[np.float32] = normalize(embeddings.float().numpy())
        evaluated, train = unit[: len(self._eval_texts)], unit[len(self._eval_texts) :]
        predictions: dict[str, list[NDArray[np.int64]]] = {"accuracy": [], "knn_accuracy": []}
        for draw in self._draws:
            for key, classifier in (
                ("accuracy", LogisticRegression(max_iter=_MAX_ITER)),
                ("knn_accuracy", KNeighborsClassifier(min(_NEIGHBORS, len(draw)), metric="cosine")),
            ):
                classifier.fit(train[draw], self._train_labels[draw])
                predictions[key].append(classifier.predict(evaluated))
        right = {key: np.stack(values) == self._eval_labels for key, values in predictions.items()}
        rows = [
            {
                "id": row,
                "label": int(label),
                **{key: right[key][:, number].astype(int).tolist() for key in right},
            }
            for number, (row, label) in enumerate(zip(self._eval_rows, self._eval_labels, strict=True))
        ]
        return Scores({f"{self.name}_{key}": float(values.mean()) for key, values in right.items()}, rows)

    def differences(self, ours: Sequence[Row], reference: Sequence[Row]) -> dict[str, Estimate]:
        """Compute the mean differences of both accuracies; the bootstrap resamples seeds and texts."""
        differences = {}
        for key in ("accuracy", "knn_accuracy"):
            first, second = (np.array(values).T for values in paired(ours, reference, itemgetter(key)))
            differences[f"{self.name}_{key}"] = mean_difference(first, second)
        return differences


def _read(source: Source, split: str) -> Dataset:
    """Read ``text``, ``label`` and ``row``, the number in the file (0-based)."""
    table = source.read(split, {"text_column": "text", "label_column": "label"})
    names = read_label_names(source.dir)
    if names is None:
        whole = [number for label in table.columns["label"] if (number := whole_number(label)) is not None]
        if not whole:
            raise DataError(f"{table.source}: no label is a whole number; use 0, 1, ... or add labels.json")
        names = tuple(map(str, range(max(whole) + 1)))
    labels = table.labels("label", names)
    return Dataset.from_dict({"text": table.texts("text"), "label": labels, "row": list(range(len(labels)))})
