"""Figures of the paper: Rafiuddin and Khan, Findings of EMNLP 2025, arXiv 2510.08798, Tables 1-6 and Figure 2.

The prompted zero-shot references of Tables 1-2 are left out; see ``reproduction.claims.not_targets``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SOURCE = "Rafiuddin and Khan, Findings of EMNLP 2025, arXiv 2510.08798"
BUDGETS = (0.5, 0.3)
SEEDS = 3
HYPERPARAMETERS: Mapping[str, float] = {"beta": 0.66, "gamma": -0.1, "zeta": 1.1}  # defaults, starred in Figure 2


@dataclass(frozen=True)
class Benchmark:
    """A data set of Tables 1-3 with its metrics.

    Attributes:
        task: name of the task in records.
        title: as in the paper.
        metrics: the paper's name of each metric -> its name in records.
        backbone: the encoder the paper uses, as records name it.
        train: rows of the published training split; None where the split is not counted in rows.
        test: rows of the split that the task is tested on; None likewise.
        names: how descriptions of the benchmark's own rows begin.
    """

    task: str
    title: str
    metrics: Mapping[str, str]
    backbone: str
    train: int | None
    test: int | None
    names: tuple[str, ...]


BENCHMARKS = (
    Benchmark("sst2", "SST-2", {"accuracy": "accuracy"}, "distilbert", 67_349, 872, ("SST-2",)),
    Benchmark("imdb", "IMDb", {"accuracy": "accuracy"}, "distilbert", 25_000, 25_000, ("IMDb",)),
    Benchmark("arxiv", "ArXiv", {"accuracy": "accuracy"}, "longformer", 28_388, 2_500, ("arXiv, 11 classes",)),
    Benchmark(
        "qasper", "QASPER", {"EM": "extractive_em", "F1": "answer_f1"}, "longformer", 2_593, 1_005, ("QASPER v0.3",)
    ),
    Benchmark(
        "pubmed",
        "PubMed",
        {"ROUGE-1": "rouge1", "ROUGE-L": "rougeLsum"},
        "longformer",
        119_924,
        6_658,
        ("PubMed summarization",),
    ),
    Benchmark("cuad", "CUAD", {"micro-F1": "micro_f1", "macro-F1": "macro_f1"}, "distilbert", None, None, ("CUAD v1",)),
)


@dataclass(frozen=True)
class Method:
    """A row of a table: one of our policies, or the dense model on another encoder (``backbone``)."""

    title: str
    policy: str
    backbone: str | None = None


FULL = Method("Full Transformer", "dense")
ADAPTIVE = Method("Adaptive Retention", "adaptive")
METHODS = (
    FULL,
    Method("Random pruning", "random"),
    Method("H2O", "h2o"),
    Method("Constraint-aware pruning", "top"),
    Method("Infor-Coef", "infor_coef"),
    Method("Longformer", "dense", "longformer"),
    Method("BigBird", "dense", "bigbird"),
    ADAPTIVE,
)
ABLATIONS = (
    Method("no variational relaxation", "adaptive_no_relaxation"),
    Method("no alternating optimization", "adaptive_joint"),
    Method("fixed lambda", "adaptive_fixed_lambda"),
    Method("threshold pruning", "threshold"),
)
ABLATION_POLICIES = frozenset(method.policy for method in ABLATIONS)  # reported in Table 3 only

# Columns of the tables below: (task, name of the metric in the paper).
_COLUMNS = tuple((benchmark.task, metric) for benchmark in BENCHMARKS for metric in benchmark.metrics)
_TABLES_1_2: Mapping[float, Mapping[str, str]] = {
    0.5: {
        "Full Transformer": "92.1 94.8 81.3 44.0 65.0 44.0 22.0 86.0 88.0",
        "Random pruning": "88.4 90.2 75.5 27.0 30.0 38.0 18.0 78.0 80.0",
        "H2O": "89.0 91.5 78.5 38.5 60.5 40.0 19.5 82.0 84.0",
        "Constraint-aware pruning": "92.0 94.3 80.5 42.5 63.5 41.5 20.5 84.5 86.5",
        "Infor-Coef": "91.8 94.0 80.3 42.0 63.0 41.2 20.0 84.2 86.2",
        "Longformer": "91.8 93.9 80.1 42.0 63.0 41.0 20.0 84.0 86.0",
        "BigBird": "92.0 94.5 80.7 43.0 64.0 42.0 21.0 85.0 87.0",
        "Adaptive Retention": "91.5 94.1 80.9 43.8 65.0 42.0 22.0 85.8 87.8",
    },
    0.3: {
        "Full Transformer": "90.8 93.6 80.1 40.0 63.0 42.0 21.0 84.5 86.0",
        "Random pruning": "82.7 85.1 68.3 25.0 25.0 36.0 17.0 75.0 77.0",
        "H2O": "85.5 88.9 75.6 36.5 58.5 38.0 18.5 80.0 82.0",
        "Constraint-aware pruning": "88.9 91.4 78.2 40.0 61.5 39.5 19.5 82.5 84.5",
        "Infor-Coef": "89.0 91.2 77.9 39.0 61.0 39.3 19.3 82.2 84.2",
        "Longformer": "90.5 92.4 78.0 39.0 61.0 39.0 19.0 82.0 84.0",
        "BigBird": "90.8 93.0 79.1 41.0 62.0 40.0 20.0 83.0 85.0",
        "Adaptive Retention": "89.2 92.3 79.5 39.8 63.0 40.0 21.0 84.0 85.8",
    },
}
_TABLE_3: Mapping[str, str] = {  # 50 %/30 %
    "Adaptive Retention": "91.5/89.2 94.1/92.3 80.9/79.5 43.8/39.8 65.0/63.0 42.0/40.0 22.0/21.0 85.8/84.0 87.8/85.8",
    "no variational relaxation": (
        "90.2/87.8 92.7/90.5 79.0/76.8 42.0/40.0 63.0/61.0 40.0/38.0 20.5/18.5 83.8/81.8 85.0/83.0"
    ),
    "no alternating optimization": (
        "90.8/88.3 93.1/91.2 79.5/77.2 42.8/40.8 63.8/61.8 40.5/38.5 21.0/19.0 84.2/82.2 86.5/84.5"
    ),
    "fixed lambda": "91.0/88.7 93.6/91.8 79.8/77.9 43.0/41.0 64.0/62.0 41.0/39.0 21.5/19.5 84.5/82.5 87.0/85.0",
    "threshold pruning": "89.0/85.5 91.5/88.9 78.5/75.6 40.5/38.5 61.0/59.0 39.0/37.0 19.8/17.8 82.0/80.0 84.0/82.0",
}


@dataclass(frozen=True)
class Cost:
    """Cost at a keep ratio of 0.3: seconds per batch of 32 and throughput (Table 4), memory (Table 3)."""

    speedup: float
    seconds: float | None = None
    memory_gb: float | None = None


COSTS: Mapping[str, Cost] = {
    "Full Transformer": Cost(1.0, 0.48),
    "Adaptive Retention": Cost(1.8, 0.27, 7.5),
    "Longformer": Cost(1.55, 0.31),
    "BigBird": Cost(1.45, 0.33),
    "no variational relaxation": Cost(1.6, memory_gb=7.2),
    "no alternating optimization": Cost(1.7, memory_gb=7.3),
    "fixed lambda": Cost(1.75, memory_gb=7.4),
    "threshold pruning": Cost(1.4, memory_gb=7.1),
}

# Tables 5 and 6: task -> target keep ratio -> per cent of the tokens kept after each layer, from the first on.
PAPER_KEEP_RATIOS: Mapping[str, Mapping[float, tuple[float, ...]]] = {
    "sst2": {
        0.3: (45.2, 43.9, 42.5, 41.2, 39.9, 38.5),
        0.5: (52.3, 51.3, 50.2, 49.2, 48.1, 47.1),
    },
    "arxiv": {
        0.3: (50.0, 49.0, 47.5, 46.0, 44.5, 43.0, 41.5, 40.0, 38.5, 37.0, 35.5, 34.0),
        0.5: (60.0, 58.0, 56.0, 54.0, 52.0, 50.0, 48.0, 46.0, 44.0, 42.0, 40.0, 38.0),
    },
}


def benchmark_of(task: str) -> Benchmark | None:
    """Return the paper's benchmark of a task, None if the paper does not report the task."""
    return next((benchmark for benchmark in BENCHMARKS if benchmark.task == task), None)


def reported(method: str, rho: float, task: str, metric: str) -> float | None:
    """Return the points of a method in Tables 1-2 or, for ablations, Table 3.

    Args:
        method: title of the row, see ``METHODS`` and ``ABLATIONS``.
        rho: 0.5 or 0.3.
        task: name of the task in records.
        metric: name of the metric in the paper.

    Returns:
        Points, None if the paper reports none.
    """
    if rho not in BUDGETS or (task, metric) not in _COLUMNS:
        return None
    column = _COLUMNS.index((task, metric))
    if method in _TABLES_1_2[rho]:
        return float(_TABLES_1_2[rho][method].split()[column])
    if method in _TABLE_3:
        return float(_TABLE_3[method].split()[column].split("/")[BUDGETS.index(rho)])
    return None
