"""Define the task: scorers learn which tokens a cache has to hold so that the next tokens of texts are predicted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from retention.cache import CacheBudget, CachePolicy, LearnedScores
from retention.cache.comparison import Measurement
from retention.cache.distillation import (
    BankGates,
    DistillationExample,
    DistillationPhase,
    DistillationSettings,
    divergence,
)
from retention.cache.evaluation import measure_losses, text_loss
from retention.cache.lora import LoraAdapters
from retention.cache.phase import TrainingPhase
from retention.cache.targets import TargetExamples, TargetSettings
from retention.cache.texts import encode_texts
from retention.cache.training import RankingPhase, TrainingSettings, pairwise_accuracy
from retention.core.hard_concrete import HardConcrete
from retention.core.scorer import ScorerConfig
from retention.data.settings import require_count
from retention.errors import Checks, ConfigError, Problem, require
from retention.tasks.decoding.pretrained import PretrainedDecoder
from retention.tasks.decoding.task import DecoderRun, DecoderTask, scores_file


class LanguageModeling(DecoderTask):
    """Settings of the task.

    Args:
        name: of the task.
        texts: file of training texts: ``.txt`` (one text per line) or ``.jsonl``.
        text_column: field of a ``.jsonl`` file that holds the text.
        train_size: number of training texts.
        val_size: further texts of the file, for validation.
        test_size: number of test texts.
        test_texts: file of test texts; None = further texts of ``texts``.
        max_length: tokens of a text at most; longer texts are cut, texts that are not longer than the cache left out.
        future_attention: first phase, the ranking of tokens by the attention that they receive later; None = off.
        distillation: second phase, through the decoder's loss; None = off.
        lora: rank of adapters that distillation trains as well; None = scorers alone.
        sizes: tokens per layer of the comparison; None = that of the training.
        baseline: policy of ``compare`` that others are compared with; None = no comparison.
        monitor: main metric of the validation.
        compare: policies beside the learned one; checked with the configuration.
        scorer: kind and width of new scorers.

    Raises:
        ConfigError: a setting is out of range.
    """

    metric: ClassVar[str] = "loss"
    record_task: ClassVar[str] = "text"
    metric_names: ClassVar[tuple[str, ...]] = ("loss", "kl", "pair_accuracy")

    def __init__(
        self,
        *,
        name: str,
        texts: str | None,
        text_column: str = "text",
        train_size: int = 24,
        val_size: int = 2,
        test_size: int = 4,
        test_texts: str | None = None,
        max_length: int = 512,
        future_attention: TrainingSettings | None,
        distillation: DistillationSettings | None,
        lora: int | None = None,
        sizes: list[int] | None = None,
        baseline: str | None = "random",
        monitor: str = "loss",
        compare: list[str] | None = None,
        scorer: ScorerConfig | None = None,
    ) -> None:
        message = "is required: the file of texts to train on (.txt or .jsonl); pass texts=<file>"
        require(isinstance(texts, str) and bool(texts.strip()), "texts", message)
        for key, value in {"train_size": train_size, "test_size": test_size, "max_length": max_length}.items():
            require_count(key, value)
        require_count("val_size", val_size)
        message = "needs distillation, which trains the adapters; set lora=null"
        require(lora is None or distillation is not None, "lora", message)
        require_count("lora", lora, optional=True)
        message = f"a token is scored when it arrives, later ones are not known; set it to false, got {scorer}"
        require(scorer is None or not scorer.bidirectional, "bidirectional", message)
        self.name, self.monitor, self.baseline, self.sizes = name, monitor, baseline, sizes
        self.texts, self.test_texts, self.text_column = str(texts), test_texts, text_column
        self.train_size, self.val_size, self.test_size, self.max_length = train_size, val_size, test_size, max_length
        self.future_attention, self.distillation, self.lora = future_attention, distillation, lora
        self.scorer = scorer or ScorerConfig(keep_bias=0.0)

    def data_files(self) -> list[Path]:
        """Return the existing files of texts."""
        files = [Path(path).expanduser() for path in (self.texts, self.test_texts) if path is not None]
        return [file for file in files if file.is_file()]

    def check(self, budget: CacheBudget, compare: Sequence[str]) -> None:
        """Check the settings against the cache and the compared policies."""
        checks = Checks()
        checks.gather(lambda: super(LanguageModeling, self).check(budget, compare))
        longest = self.largest_size(budget)
        message = f"must be > the largest cache, {longest} tokens, or nothing is evicted; got {self.max_length}"
        checks.require(self.max_length > longest, "task.max_length", message)
        checks.finish()

    def epochs(self) -> int:
        """Return the number of epochs of both phases."""
        return sum(phase.epochs for phase in (self.future_attention, self.distillation) if phase is not None)

    def check_inputs(self, decoder: PretrainedDecoder | None, init: str | None) -> None:
        """Check the files, and the family and positions of the decoder."""
        checks = Checks()
        for key, path in (("texts", self.texts), ("task.test_texts", self.test_texts)):
            valid = path is None or Path(path).expanduser().suffix in (".txt", ".jsonl")
            checks.require(valid, key, f"must be a .txt (one text per line) or .jsonl file, got {path!r}")
            exists = not valid or path is None or Path(path).expanduser().is_file()
            checks.require(exists, key, f"{path}: no such file; pass the path of a file of texts")
        checks.gather(lambda: scores_file(init))
        config = None if decoder is None else checks.gather(decoder.config, "backbone")
        positions = getattr(config, "max_position_embeddings", None)
        message = f"the decoder has {positions} positions, got {self.max_length}; choose shorter texts"
        checks.require(positions is None or self.max_length <= positions, "task.max_length", message)
        checks.finish()

    def prepare(
        self, decoder: PretrainedDecoder | None, budget: CacheBudget, *, seed: int, init: str | None
    ) -> DecoderRun:
        """Read the texts, load the decoder, and build the scorers and the phases."""
        assert decoder is not None
        tokenizer = decoder.tokenizer()
        targets = TargetSettings(sinks=budget.sinks, window=budget.window)
        longest = max(each.size for each in self.budgets(budget))
        train, validation, test = self._read(tokenizer, max(longest + 1, targets.shortest_text))
        model = decoder.load()
        torch.manual_seed(seed)
        start = scores_file(init)
        if start is None:
            scores = LearnedScores.for_model(model, self.scorer, per_head=budget.per_head)
        else:
            scores = LearnedScores.load(start)
        scores.check(model.config)
        message = f"must be {str(scores.heads > 1).lower()}, as for the scorers of init={init}"
        require(budget.per_head is (scores.heads > 1), "cache.per_head", message)
        lora = None if self.lora is None else LoraAdapters.attach(model, self.lora)
        phases: list[TrainingPhase] = []
        if self.future_attention is not None:
            phases.append(
                RankingPhase(
                    scores, TargetExamples(model, train, targets, per_head=budget.per_head), self.future_attention
                )
            )
        if self.distillation is not None:
            phases.append(
                DistillationPhase(
                    model,
                    scores,
                    [DistillationExample.of_text(text, budget) for text in train],
                    budget,
                    self.distillation,
                    adapters=[] if lora is None else lora.parameters,
                    teacher=nullcontext if lora is None else lora.disabled,
                )
            )
        origin = {"model": decoder.label, "texts": Path(self.texts).name, **self._origin(scores, budget, train, seed)}
        return LanguageModelingRun(
            model,
            scores,
            phases,
            origin=origin if start is None else {**origin, "init": scores.origin},
            adapters=lora,
            tokenizer=tokenizer,
            budget=budget,
            texts=(train, validation, test),
            targets=targets,
            names=(decoder.label, Path(self.test_texts or self.texts).name),
        )

    def _read(self, tokenizer: Any, shortest: int) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Return training, validation and test texts; no text is in two of them, a repeated text counts once."""
        counts = [self.train_size, self.val_size, *([self.test_size] if self.test_texts is None else [])]

        def read(path: str, limit: int) -> list[Tensor]:
            file = Path(path).expanduser()
            options: dict[str, Any] = {"field": self.text_column, "shortest": shortest, "longest": self.max_length}
            return encode_texts(file, tokenizer, limit=limit, distinct=True, **options)

        texts = read(self.texts, sum(counts))
        message = (
            f"{self.texts}: has {len(texts)} different texts of {shortest} tokens or more, {sum(counts)} are needed "
            f"(train_size + val_size{' + test_size' if self.test_texts is None else ''}); "
            "add texts, or lower these numbers or the sizes of the cache"
        )
        require(len(texts) == sum(counts), "texts", message)
        first, second = self.train_size, self.train_size + self.val_size
        test = texts[second:] if self.test_texts is None else read(self.test_texts, self.test_size)
        if len(test) < self.test_size:
            message = (
                f"{self.test_texts}: has {len(test)} different texts of {shortest} tokens or more, lower task.test_size"
            )
            raise ConfigError([Problem("task.test_texts", message)])
        seen = {tuple(text[0].tolist()) for text in texts[:second]}
        repeated = sum(tuple(text[0].tolist()) in seen for text in test)
        message = (
            f"{self.test_texts}: {repeated} of {len(test)} texts have the first {self.max_length} tokens of a training "
            f"or validation text; give other texts, or set task.test_texts=null to hold test texts out of {self.texts}"
        )
        require(repeated == 0, "task.test_texts", message)
        return texts[:first], texts[first:second], test

    def _origin(self, scores: LearnedScores, budget: CacheBudget, train: Sequence[Tensor], seed: int) -> dict[str, Any]:
        first, second = self.future_attention, self.distillation
        return {
            "loss": ", then ".join([*([first.loss] if first else []), *(["distillation"] if second else [])]) or "none",
            "epochs": [phase.epochs for phase in (first, second) if phase is not None],
            "lr": [phase.lr for phase in (first, second) if phase is not None],
            "hard_share": second.hard_share if second else None,
            "lora": self.lora,
            "length": self.max_length,
            "tokens": sum(text.shape[1] for text in train),
            "size": budget.size,
            "sinks": budget.sinks,
            "window": budget.window,
            "seed": seed,
            "scorer": scores.config.scorer_kind,
            "scorer_dim": scores.config.scorer_dim,
            "decay": scores.config.decay,
        }


class LanguageModelingRun(DecoderRun):
    """Decoder, scorers and texts of a run; see ``DecoderRun``.

    Args:
        model: the decoder.
        scores: the scorers.
        phases: of the training.
        budget: of the training and the validation.
        texts: training, validation and test texts, token ids [1, T] each.
        targets: what the ranking of validation texts counts.
        names: of the decoder and of the file of the test texts.
        options: see ``DecoderRun``.
    """

    def __init__(
        self,
        model: Any,
        scores: LearnedScores,
        phases: Sequence[TrainingPhase],
        *,
        budget: CacheBudget,
        texts: tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]],
        targets: TargetSettings,
        names: tuple[str, str],
        **options: Any,
    ) -> None:
        super().__init__(model, scores, phases, **options)
        self._train, self._validation, self._test = texts
        self._budget, self._names = budget, names
        self._examples = [DistillationExample.of_text(text, budget) for text in self._validation]
        self._targets = TargetExamples(model, self._validation, targets, per_head=budget.per_head)

    @property
    def steps_per_epoch(self) -> int:
        """Return the number of training texts."""
        return len(self._train)

    @property
    def sample(self) -> Tensor:
        """Return the first validation text."""
        return self._validation[0]

    @property
    def validation_rows(self) -> int:
        """Return the number of validation texts."""
        return len(self._validation)

    def validate(self, row: int) -> dict[str, float]:
        """Compute ``kl`` and ``loss`` after the cache is full, and ``pair_accuracy``, of a validation text.

        ``kl`` is KL(full cache || bounded cache) in nats, ``pair_accuracy`` see ``pairwise_accuracy``.
        """
        teacher: Callable[[], AbstractContextManager[Any]]
        teacher = nullcontext if self.adapters is None else self.adapters.disabled
        gates = BankGates(self._budget, HardConcrete(), hard=True)
        with torch.no_grad():
            kl = divergence(self.model, self.scores, self._examples[row], gates, teacher)
        loss = text_loss(self.model, self._validation[row], self._budget.size, self.scores, self._budget)
        pairs = pairwise_accuracy(self.scores, [self._targets[row]])
        return {"kl": float(kl), "loss": loss.mean, "pair_accuracy": pairs}

    def measure(self, policy: CachePolicy | None, budget: CacheBudget) -> Measurement:
        """Measure the loss of the tokens that are predicted after ``budget.size`` tokens have been read."""
        return measure_losses(self.model, self._test, policy, budget)

    def describe(self) -> dict[str, Any]:
        """Return the names of the decoder and of the file of the test texts."""
        return {"model": self._names[0], "texts": self._names[1]}
