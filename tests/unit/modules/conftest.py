"""A tiny classifier, batches for it, and a trainer that runs it in an instant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader
from transformers import BertConfig, BertModel

from retention.core.duals import ExactDual
from retention.engine.adapters import adapter_for
from retention.policies import Adaptive, Dense
from retention.policies.bases.retention_policy import RetentionPolicy
from retention.tasks.classification.head import ClassificationModule
from retention.training.budget_sampling import BudgetSampling
from retention.training.distillation import Distillation
from retention.training.optimization import AdamWSettings
from retention.training.phases import Phases
from retention.training.settings import TrainingSettings

Batch = dict[str, torch.Tensor]


def tiny_encoder(**changes: Any) -> BertModel:
    fields = {
        "vocab_size": 50,
        "hidden_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 32,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    return BertModel(BertConfig(**{**fields, **changes}), add_pooling_layer=False)


@pytest.fixture
def encoder() -> Callable[..., BertModel]:
    """``encoder(**changes)``: a random three-layer BERT without dropout."""
    return tiny_encoder


@pytest.fixture
def batch_of() -> Callable[..., Batch]:
    """``batch_of(lengths)``: right-padded random tokens, the first and the last of each text protected."""

    def make(*lengths: int, seed: int = 1, first_index: int = 0) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        size, width = len(lengths), max(lengths)
        ends = torch.tensor(lengths).unsqueeze(1)
        places = torch.arange(width).unsqueeze(0)
        mask = places < ends
        return {
            "input_ids": torch.randint(1, 50, (size, width), generator=generator) * mask,
            "attention_mask": mask.long(),
            "protected_mask": (places == 0) | (places == ends - 1),
            "labels": torch.randint(0, 2, (size,), generator=generator),
            "index": torch.arange(first_index, first_index + size),
        }

    return make


@pytest.fixture
def module_of() -> Callable[..., ClassificationModule]:
    """``module_of(policy, ...)``: a two-class module around the tiny encoder, drawn from a fixed seed.

    Its default policy keeps 3/4 of the tokens after layer 0 and 1/4 after layer 1.
    """

    def make(
        policy: RetentionPolicy | None = None,
        *,
        phases: Phases | None = None,
        distill: Distillation | None = None,
        budgets: BudgetSampling | None = None,
        freeze: str | None = None,
        dropped: str = "cut",
        **head: Any,
    ) -> ClassificationModule:
        torch.manual_seed(5)
        model = tiny_encoder()
        chosen = Adaptive(dual=ExactDual(), rho=0.5, slope=0.5) if policy is None else policy
        budgets = budgets or BudgetSampling()
        if budgets.active:
            chosen.support_budgets(budgets.low, budgets.high)
        chosen.build(adapter_for("bert").shape(model.config))
        torch.manual_seed(6)
        return ClassificationModule(
            num_labels=2,
            encoder=model,
            policy=chosen,
            training=TrainingSettings(
                AdamWSettings(lr=1e-3), phases or Phases(), distill or Distillation(), budgets, freeze
            ),
            dropped=dropped,
            config={},
            **{"dropout": 0.0, **head},
        )

    return make


@pytest.fixture
def dense_module(module_of: Callable[..., ClassificationModule]) -> ClassificationModule:
    """The same encoder and head (same seed) without any gate."""
    return module_of(Dense())


@pytest.fixture
def trained(trainer_with: Callable[..., pl.Trainer]) -> Callable[..., pl.Trainer]:
    """``trained(module, batches, *callbacks, **options)``: fits the module and returns the trainer."""

    def run(module: pl.LightningModule, batches: list[Batch], *callbacks: pl.Callback, **options: Any) -> pl.Trainer:
        trainer = trainer_with(*callbacks, **options)
        trainer.fit(module, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
        return trainer

    return run
