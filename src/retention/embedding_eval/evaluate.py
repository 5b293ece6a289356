"""Evaluate embedding models at several keep ratios beside a reference model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from retention.embedding_eval.costs import Costs, embed
from retention.embedding_eval.scores import Benchmark, Row, Scores
from retention.pretrained import Embedder
from retention.report.intervals import Estimate


@dataclass(frozen=True)
class Variant:
    """Model at a keep ratio.

    Attributes:
        name: name of the model.
        model: a ``retention.Embedder``.
        rho: target keep ratio in (0, 1]; None for a model that removes nothing.
        precision: number format that the model computes in, one of ``retention.models.precision.PRECISIONS``.
    """

    name: str
    model: Embedder
    rho: float | None
    precision: str = "float32"

    @property
    def label(self) -> str:
        """Return name, keep ratio and number format, for messages and file names."""
        parts = [self.name]
        parts += [] if self.rho is None else [f"{self.rho:g}"]
        parts += [] if self.precision == "float32" else [self.precision]
        return "-".join(parts)


@dataclass
class Outcome:
    """Results of a variant on all benchmarks.

    Attributes:
        variant: model and keep ratio.
        scores: benchmark -> metrics and rows.
        costs: benchmark -> tokens kept and FLOPs.
        cosines: benchmark -> cosine of each embedding to that of the reference.
    """

    variant: Variant
    scores: dict[str, Scores]
    costs: dict[str, Costs]
    cosines: dict[str, list[float]]

    def metrics(self) -> dict[str, float]:
        """Return all metrics, with the mean cosine to the reference on each benchmark."""
        metrics = {name: value for scores in self.scores.values() for name, value in scores.metrics.items()}
        return metrics | {f"{name}_cosine": sum(values) / len(values) for name, values in self.cosines.items()}

    def differences(self, reference: Outcome, benchmarks: Sequence[Benchmark]) -> dict[str, Estimate]:
        """Compute the paired difference of each metric to the reference; empty for the reference itself."""
        if self is reference:
            return {}
        differences: dict[str, Estimate] = {}
        for benchmark in benchmarks:
            rows = (outcome.scores[benchmark.name].rows for outcome in (self, reference))
            differences |= benchmark.differences(*rows)
        return differences

    def flops_ratio(self, reference: Outcome) -> dict[str, float]:
        """Return benchmark -> FLOPs divided by those of the reference."""
        return {name: costs.flops / reference.costs[name].flops for name, costs in self.costs.items()}

    def rows(self) -> Iterator[Row]:
        """Yield the rows of all benchmarks, each with the name of its ``benchmark``."""
        for name, scores in self.scores.items():
            yield from ({"benchmark": name, **row} for row in scores.rows)


def evaluate_variants(
    variants: Sequence[Variant],
    benchmarks: Sequence[Benchmark],
    *,
    batch_size: int = 32,
    on_progress: Callable[[str], None] = lambda message: None,
) -> list[Outcome]:
    """Embed the texts of every benchmark with every variant and compute all scores.

    Args:
        variants: the reference first.
        benchmarks: texts and their measures.
        batch_size: texts per forward pass.
        on_progress: called with a line of text before each piece of work.

    Returns:
        One outcome per variant, in their order.
    """
    outcomes = [Outcome(variant, {}, {}, {}) for variant in variants]
    for benchmark in benchmarks:
        reference: Tensor | None = None
        for outcome in outcomes:
            variant = outcome.variant
            on_progress(f"{benchmark.name}: {variant.label}, {len(benchmark.texts)} texts")
            embeddings, outcome.costs[benchmark.name] = embed(variant.model, benchmark.texts, variant.rho, batch_size)
            reference = embeddings if reference is None else reference
            outcome.scores[benchmark.name] = benchmark.evaluate(embeddings)
            if embeddings.shape == reference.shape:
                outcome.cosines[benchmark.name] = F.cosine_similarity(embeddings, reference, dim=-1).tolist()
    return outcomes


class HeldOutTexts:
    """Texts without labels, on which only the cosine to the reference is measured.

    Args:
        texts: at least one text.
        source: description of the texts, for records.
    """

    name = "texts"

    def __init__(self, texts: Sequence[str], source: str) -> None:
        self._texts = list(texts)
        self._source = source

    @property
    def texts(self) -> Sequence[str]:
        """Return the texts."""
        return self._texts

    def describe(self) -> dict[str, Any]:
        """Return source and number of texts."""
        return {"source": self._source, "texts": len(self._texts)}

    def evaluate(self, embeddings: Tensor) -> Scores:
        """Return no scores."""
        return Scores({}, ())

    def differences(self, ours: Sequence[Row], reference: Sequence[Row]) -> dict[str, Estimate]:
        """Return no differences."""
        return {}
