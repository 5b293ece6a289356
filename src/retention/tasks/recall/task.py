"""Define the task: a small decoder learns associative recall from scratch, then its scorers what to hold for it."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any, ClassVar

import torch
from torch import Tensor

from retention.cache import CacheBudget, CachePolicy, LearnedScores
from retention.cache.comparison import Measurement
from retention.cache.distillation import DistillationExample, DistillationPhase, DistillationSettings
from retention.cache.phase import TrainingPhase
from retention.cache.small_decoder import DecoderPhase, DecoderSettings, build_decoder
from retention.cache.symbol_recall import TEST_SEED, VALIDATION_SEED, SymbolRecall, measure_recall, recall_accuracy
from retention.cache.targets import TargetExamples, TargetSettings
from retention.cache.training import RankingPhase, TrainingSettings
from retention.core.scorer import ScorerConfig
from retention.data.settings import require_count
from retention.errors import Checks, require
from retention.tasks.decoding.pretrained import PretrainedDecoder
from retention.tasks.decoding.task import DecoderRun, DecoderTask


class Recall(DecoderTask):
    """Settings of the task.

    Args:
        name: of the task.
        contexts: settings of the generated contexts.
        decoder: shape and training of the decoder, the first phase.
        future_attention: second phase, the ranking of tokens by the attention that they receive later; None = off.
        distillation: third phase, through the decoder's loss; None = off.
        train_size: contexts for future attention.
        batches: batches for distillation.
        batch_size: contexts per batch of distillation.
        min_queries: see ``TargetSettings``.
        val_size: contexts that are scored during training.
        test_size: contexts of the comparison.
        validate_every: steps between two validations.
        sizes: tokens per layer of the comparison; None = that of the training.
        baseline: policy of ``compare`` that others are compared with; None = no comparison.
        monitor: main metric of the validation.
        compare: policies beside the learned one; checked with the configuration.
        scorer: kind and width of the scorers.

    Raises:
        ConfigError: a setting is out of range.
    """

    metric: ClassVar[str] = "accuracy"
    record_task: ClassVar[str] = "symbol_recall"
    metric_names: ClassVar[tuple[str, ...]] = ("accuracy", "accuracy_full")

    def __init__(
        self,
        *,
        name: str,
        contexts: SymbolRecall,
        decoder: DecoderSettings,
        future_attention: TrainingSettings | None,
        distillation: DistillationSettings | None,
        train_size: int = 64,
        batches: int = 60,
        batch_size: int = 16,
        min_queries: int = 8,
        val_size: int = 50,
        test_size: int = 200,
        validate_every: int = 100,
        sizes: list[int] | None = None,
        baseline: str | None = "full",
        monitor: str = "accuracy",
        compare: list[str] | None = None,
        scorer: ScorerConfig | None = None,
    ) -> None:
        checks = Checks()
        counts = {"train_size": train_size, "batches": batches, "batch_size": batch_size, "min_queries": min_queries}
        counts |= {"val_size": val_size, "test_size": test_size, "validate_every": validate_every}
        for key, value in counts.items():
            checks.gather(lambda key=key, value=value: require_count(key, value))  # type: ignore[misc]
        checks.finish()
        message = f"a token is scored when it arrives, later ones are not known; set it to false, got {scorer}"
        require(scorer is None or not scorer.bidirectional, "bidirectional", message)
        self.name, self.monitor, self.baseline, self.sizes = name, monitor, baseline, sizes
        self.contexts, self.decoder = contexts, decoder
        self.future_attention, self.distillation = future_attention, distillation
        self.train_size, self.batches, self.batch_size, self.min_queries = train_size, batches, batch_size, min_queries
        self.val_size, self.test_size, self.validate_every = val_size, test_size, validate_every
        self.scorer = scorer or ScorerConfig(scorer_dim=32, keep_bias=0.0)

    def check(self, budget: CacheBudget, compare: Sequence[str]) -> None:
        """Check the settings against the cache and the compared policies."""
        checks = Checks()
        checks.gather(lambda: super(Recall, self).check(budget, compare))
        longest = self.largest_size(budget)
        message = f"must be < the tokens of a context, {self.contexts.context}, or nothing is evicted; got {longest}"
        checks.require(longest < self.contexts.context, "cache.size", message)
        if self.future_attention is not None and budget.window >= 1:
            shortest = self._targets(budget).shortest_text
            length = self.contexts.context + 3 * self.contexts.pairs
            message = f"a context with its questions has {length} tokens, {shortest} are needed; make contexts longer"
            checks.require(length >= shortest, "task.contexts.context", message)
        positions, used = self.contexts.context + 3 * self.decoder.questions, self.contexts.pairs
        message = f"must be >= the keys of a context, {used}, got {self.decoder.questions}"
        checks.require(positions >= self.contexts.context + 3 * used, "task.decoder.questions", message)
        checks.finish()

    def epochs(self) -> int:
        """Return the number of epochs that the longest training needs."""
        ranking, distillation = self.future_attention, self.distillation
        steps = self.decoder.steps + (0 if ranking is None else ranking.epochs * self.train_size)
        steps += 0 if distillation is None else distillation.epochs * self.batches
        return -(-steps // self.validate_every)

    def check_inputs(self, decoder: PretrainedDecoder | None, init: str | None) -> None:
        """Do nothing: contexts are generated, and the decoder is trained here."""

    def prepare(
        self, decoder: PretrainedDecoder | None, budget: CacheBudget, *, seed: int, init: str | None
    ) -> DecoderRun:
        """Build the decoder and its scorers, and draw the contexts."""
        torch.manual_seed(seed)
        model = build_decoder(self.contexts, self.decoder)
        generator = torch.Generator().manual_seed(seed)
        phases: list[TrainingPhase] = [DecoderPhase(model, self.contexts, self.decoder, generator)]
        torch.manual_seed(seed)
        scores = LearnedScores.for_model(model, self.scorer, per_head=budget.per_head)
        generator = torch.Generator().manual_seed(seed)
        texts = self.contexts.batch(self.train_size, self.contexts.pairs, generator).chained()
        if self.future_attention is not None:
            rows = [text.unsqueeze(0) for text in texts]
            examples = TargetExamples(model, rows, self._targets(budget), per_head=budget.per_head)
            phases.append(RankingPhase(scores, examples, self.future_attention))
        if self.distillation is not None:
            batches = [
                self.contexts.batch(self.batch_size, self.contexts.pairs, generator) for _ in range(self.batches)
            ]
            distilled = [DistillationExample.of_columns(batch.chained(), batch.answering()) for batch in batches]
            phases.append(DistillationPhase(model, scores, distilled, budget, self.distillation))
        losses = [] if self.future_attention is None else [str(self.future_attention.loss)]
        losses += [] if self.distillation is None else ["distillation"]
        origin = {"loss": ", then ".join(losses) or "none", "seed": seed, "size": budget.size}
        origin |= {"sinks": budget.sinks, "window": budget.window, "texts": self.train_size}
        return RecallRun(model, scores, phases, origin=origin, task=self, budget=budget, seed=seed)

    def _targets(self, budget: CacheBudget) -> TargetSettings:
        return TargetSettings(sinks=budget.sinks, window=budget.window, min_queries=self.min_queries)


class RecallRun(DecoderRun):
    """Decoder, scorers and contexts of a run; see ``DecoderRun``.

    Args:
        model: the decoder.
        scores: its scorers.
        phases: of the training, that of the decoder first.
        origin: see ``DecoderRun``.
        task: settings.
        budget: of the training and the validation.
        seed: of the contexts.
    """

    def __init__(
        self,
        model: Any,
        scores: LearnedScores,
        phases: Sequence[TrainingPhase],
        *,
        origin: dict[str, Any],
        task: Recall,
        budget: CacheBudget,
        seed: int,
    ) -> None:
        super().__init__(model, scores, phases, origin=origin, trains_model=True)
        self._task, self._budget = task, budget
        self._validation = task.contexts.held_out(task.val_size, seed + VALIDATION_SEED)
        self._test = task.contexts.held_out(task.test_size, seed + TEST_SEED)

    @property
    def steps_per_epoch(self) -> int:
        """Return the number of steps between two validations."""
        return self._task.validate_every

    @property
    def sample(self) -> Tensor:
        """Return the first validation context."""
        return self._validation.contexts[:1]

    @property
    def validation_rows(self) -> int:
        """Return 1: all validation contexts are read as one batch."""
        return 1

    def validate(self, row: int) -> dict[str, float]:
        """Compute ``accuracy`` of the bounded cache and ``accuracy_full`` of the full one, on the validation contexts.

        While the decoder itself is trained, only the latter says something; the scorers are still untrained.
        """
        bounded = fmean(recall_accuracy(self.model, self._validation, self.scores, self._budget))
        return {"accuracy": bounded, "accuracy_full": fmean(recall_accuracy(self.model, self._validation))}

    def measure(self, policy: CachePolicy | None, budget: CacheBudget) -> Measurement:
        """Measure the share of exact answers."""
        return measure_recall(self.model, self._test, policy, budget)

    def describe(self) -> dict[str, Any]:
        """Return the name of the decoder."""
        return {"model": self._task.decoder.name, "texts": None}
