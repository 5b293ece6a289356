"""Everything that says how a module is trained."""

from __future__ import annotations

from dataclasses import dataclass, field

from retention.training.budget_sampling import BudgetSampling
from retention.training.distillation import Distillation
from retention.training.optimization import AdamWSettings
from retention.training.phases import Phases


@dataclass(frozen=True)
class TrainingSettings:
    """How a module is trained; see the classes of its parts, and ``frozen_parts`` for ``freeze``."""

    optimizer: AdamWSettings
    phases: Phases
    distill: Distillation
    budgets: BudgetSampling = field(default_factory=BudgetSampling)
    freeze: str | None = None
