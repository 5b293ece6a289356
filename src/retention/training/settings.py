"""Collect all settings of training."""

from __future__ import annotations

from dataclasses import dataclass, field

from retention.training.budget_sampling import BudgetSampling
from retention.training.distillation import Distillation
from retention.training.optimization import AdamWSettings
from retention.training.phases import TrainingPhases


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of training.

    Attributes:
        optimizer: learning rates, weight decay, warmup of the learning rate.
        phases: warmup, soft gating, hard pruning.
        distill: weights of the distillation losses.
        budgets: budgets that are sampled in each step.
        freeze: parts that are not trained, see ``frozen_parts``.
    """

    optimizer: AdamWSettings
    phases: TrainingPhases
    distill: Distillation
    budgets: BudgetSampling = field(default_factory=BudgetSampling)
    freeze: str | None = None
