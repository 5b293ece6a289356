"""Define what a task of a decoder provides: settings, and the objects of a run that are built from them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from retention.cache import CacheBudget, CachePolicy, LearnedScores
from retention.cache.comparison import Measurement
from retention.cache.lora import LoraAdapters
from retention.cache.phase import TrainingPhase
from retention.cache.policies.named import POLICIES
from retention.errors import Checks, require
from retention.tasks.decoding.pretrained import PretrainedDecoder

LEARNED = "learned"


class DecoderRun(ABC):
    """Objects of one run: the decoder, its scorers, the phases of their training, and the texts of the evaluation.

    Args:
        model: the decoder, in float32.
        scores: the scorers that are trained.
        phases: of the training, in order; empty = the scorers are only evaluated.
        adapters: low-rank adapters that are trained too; None = none.
        trains_model: True if a phase trains the decoder itself.
        tokenizer: of the decoder; None = it has none.
        origin: how the scorers are trained, plain values for records and for their file.
    """

    def __init__(
        self,
        model: Any,
        scores: LearnedScores,
        phases: Sequence[TrainingPhase],
        *,
        origin: Mapping[str, Any],
        adapters: LoraAdapters | None = None,
        trains_model: bool = False,
        tokenizer: Any = None,
    ) -> None:
        self.model, self.scores, self.phases = model, scores, tuple(phases)
        self.adapters, self.trains_model, self.tokenizer = adapters, trains_model, tokenizer
        scores.origin = dict(origin)

    @property
    @abstractmethod
    def steps_per_epoch(self) -> int:
        """Return the number of steps after which the scorers are validated."""

    @property
    @abstractmethod
    def sample(self) -> Tensor:
        """Return a validation text [1, T], for callbacks that look into the cache."""

    @property
    @abstractmethod
    def validation_rows(self) -> int:
        """Return the number of validation rows."""

    @abstractmethod
    def validate(self, row: int) -> dict[str, float]:
        """Compute the metrics of one validation row, with eviction."""

    @abstractmethod
    def measure(self, policy: CachePolicy | None, budget: CacheBudget) -> Measurement:
        """Measure a policy on the test texts; None = the full cache."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return ``model`` and ``texts`` of records: the names of the decoder and of the file of the test texts."""


class DecoderTask(ABC):
    """Settings of a task.

    Attributes:
        metric: field of the record that holds the main value: ``loss`` or ``accuracy``.
        record_task: name of the task in records.
        monitor: name of the main validation metric.
        baseline: policy that the others are compared with, one of ``compare``; None = no comparison.
        sizes: tokens per layer of the evaluation; None = the size of the training.
    """

    metric: ClassVar[str]
    record_task: ClassVar[str]
    metric_names: ClassVar[tuple[str, ...]]

    name: str
    monitor: str
    baseline: str | None
    sizes: Sequence[int] | None

    def budgets(self, budget: CacheBudget) -> list[CacheBudget]:
        """Return the budgets of the evaluation, that of the training last; windows are scaled with the size.

        Raises:
            ConfigError: a size is out of range.
        """
        message = f"must be null or a list of whole numbers >= 1, got {self.sizes!r}"
        require(self.sizes is None or _is_list(self.sizes), "task.sizes", message)
        budgets = []
        for size in self.sizes or ():
            is_size = isinstance(size, int) and not isinstance(size, bool) and size >= 1
            require(is_size, "task.sizes", f"must be null or a list of whole numbers >= 1, got {size!r}")
            if size != budget.size:
                window = max(1, size * budget.window // budget.size)
                needed = budget.sinks + window + budget.block  # leaves a bank of one token
                message = f"{size} leaves no room beside {budget.sinks} sinks and a window of {window}; choose larger"
                require(size >= needed, "task.sizes", message)
                budgets.append(replace(budget, size=size, window=window))
        return [*budgets, budget]

    def largest_size(self, budget: CacheBudget) -> int:
        """Return the largest number of tokens among the sizes that ``check`` accepts."""
        sizes = self.sizes if _is_list(self.sizes) else ()
        return max([budget.size, *(size for size in sizes or () if isinstance(size, int))])

    def check(self, budget: CacheBudget, compare: Sequence[str]) -> None:
        """Check the settings against the cache and the compared policies.

        Raises:
            ConfigError: all problems.
        """
        checks = Checks()
        message = f"must be > sinks + window + block - 1, or there is nothing to choose, got {budget.size}"
        checks.require(budget.bank >= 1, "cache.size", message)
        checks.gather(lambda: self.budgets(budget))
        for name in compare:
            message = f"must be a list of cache policies among {', '.join(POLICIES)}, got {name!r}"
            checks.require(name in POLICIES, "compare", message)
        valid = self.baseline is None or self.baseline in compare
        checks.require(valid, "task.baseline", f"must be null or one of compare, got {self.baseline!r}")
        message = f"must be one of {', '.join(self.metric_names)}, got {self.monitor!r}"
        checks.require(self.monitor in self.metric_names, "task.monitor", message)
        checks.finish()

    def data_files(self) -> list[Path]:
        """Return the existing files that texts are read from; by default none."""
        return []

    @abstractmethod
    def epochs(self) -> int:
        """Return the largest number of epochs of the training, 0 = the scorers are only evaluated."""

    @abstractmethod
    def check_inputs(self, decoder: PretrainedDecoder | None, init: str | None) -> None:
        """Check files and the decoder as far as this is possible without loading weights.

        Raises:
            ConfigError: something is missing, or the decoder is not supported.
        """

    @abstractmethod
    def prepare(
        self, decoder: PretrainedDecoder | None, budget: CacheBudget, *, seed: int, init: str | None
    ) -> DecoderRun:
        """Load what the run needs.

        Args:
            decoder: of the configuration; None for tasks that train their own.
            budget: of the cache.
            seed: of the initial weights.
            init: file of scorers to start from; None = new ones.

        Raises:
            DataError: texts cannot be used.
            CheckpointError: ``init`` holds no scorers.
        """


def scores_file(path: str | None) -> Path | None:
    """Return the path of an existing file of scorers.

    Raises:
        ConfigError: there is no such file.
    """
    if path is None:
        return None
    file = Path(path).expanduser()
    message = f"{path}: no such file; pass scorers that a run or retention.cache.train wrote (.safetensors)"
    require(file.is_file(), "init", message)
    return file


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)
