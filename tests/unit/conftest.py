"""Fixtures of the unit tests: repeatable property tests, a quiet trainer, a tiny BERT, models and batches for it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
from hypothesis import HealthCheck, settings

settings.register_profile(
    "repeatable",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("repeatable")


@pytest.fixture
def trainer_with(tmp_path: Path) -> Callable[..., pl.Trainer]:
    """``trainer_with(*callbacks, **options)``: a CPU trainer without logs and checkpoints."""

    def build(*callbacks: pl.Callback, **options: Any) -> pl.Trainer:
        quiet: dict[str, Any] = {
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": 1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "default_root_dir": tmp_path,
        }
        return pl.Trainer(callbacks=list(callbacks), **(quiet | options))

    return build


@pytest.fixture
def tiny_bert() -> Callable[..., Any]:
    """``tiny_bert(**changes)``: a random BERT encoder of three layers without dropout."""
    from transformers import BertConfig, BertModel

    def build(**changes: Any) -> BertModel:
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

    return build


@pytest.fixture
def make_batch() -> Callable[..., dict[str, Any]]:
    """``make_batch(*lengths)``: right-padded random tokens; the first and last token of each sequence are protected."""
    import torch

    def build(*lengths: int, seed: int = 1, first_index: int = 0) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(seed)
        size, width = len(lengths), max(lengths)
        ends = torch.tensor(lengths).unsqueeze(1)
        positions = torch.arange(width).unsqueeze(0)
        mask = positions < ends
        return {
            "input_ids": torch.randint(1, 50, (size, width), generator=generator) * mask,
            "attention_mask": mask.long(),
            "protected_mask": (positions == 0) | (positions == ends - 1),
            "labels": torch.randint(0, 2, (size,), generator=generator),
            "index": torch.arange(first_index, first_index + size),
        }

    return build


@pytest.fixture
def make_model(tiny_bert: Callable[..., Any]) -> Callable[..., Any]:
    """``make_model(policy, head_type, **head_settings)``: a model around the tiny BERT, drawn from fixed seeds.

    The default policy keeps 3/4 of the tokens after layer 0 and 1/4 after layer 1; the default head has two classes.
    """
    import torch

    from retention.core.duals import ExactDual
    from retention.engine import encoder_of
    from retention.models.head import encoder_shape
    from retention.models.retention_model import RetentionModel
    from retention.policies import Adaptive
    from retention.tasks.classification.head import ClassificationHead

    def build(
        policy: Any = None,
        head_type: Any = ClassificationHead,
        *,
        loaded: Any = None,
        dropped: str = "cut",
        budgets: Any = None,
        **head_settings: Any,
    ) -> RetentionModel:
        torch.manual_seed(5)
        loaded = tiny_bert() if loaded is None else loaded
        policy = Adaptive(dual=ExactDual(), rho=0.5, slope=0.5) if policy is None else policy
        if budgets is not None and budgets.active:
            policy.support_budgets(budgets.low, budgets.high)
        policy.build(encoder_shape(loaded))
        torch.manual_seed(6)
        if head_type is ClassificationHead:
            head_settings = {"num_labels": 2, "dropout": 0.0, **head_settings}
        encoder = encoder_of(loaded)
        return RetentionModel(encoder, policy, head_type(encoder=loaded, **head_settings), dropped=dropped)

    return build


@pytest.fixture
def make_module(make_model: Callable[..., Any]) -> Callable[..., Any]:
    """``make_module(policy, phases=..., distill=..., **model_settings)``: the LightningModule around ``make_model``."""
    from retention.training.budget_sampling import BudgetSampling
    from retention.training.distillation import Distillation
    from retention.training.module import RetentionModule
    from retention.training.optimization import AdamWSettings
    from retention.training.phases import TrainingPhases
    from retention.training.settings import TrainingSettings

    def build(
        policy: Any = None,
        *,
        phases: TrainingPhases | None = None,
        distill: Distillation | None = None,
        budgets: BudgetSampling | None = None,
        freeze: str | None = None,
        **model_settings: Any,
    ) -> RetentionModule:
        model = make_model(policy, budgets=budgets, **model_settings)
        phases, distill = phases or TrainingPhases(), distill or Distillation()
        training = TrainingSettings(AdamWSettings(lr=1e-3), phases, distill, budgets or BudgetSampling(), freeze)
        return RetentionModule(model, training, config={})

    return build


@pytest.fixture
def dense_model(make_model: Callable[..., Any]) -> Any:
    """The model of ``make_model`` (same seeds) without any gate."""
    from retention.policies import Dense

    return make_model(Dense())


@pytest.fixture
def fit(trainer_with: Callable[..., pl.Trainer]) -> Callable[..., pl.Trainer]:
    """``fit(module, batches, *callbacks, **options)``: trains the module and returns the trainer."""
    from torch.utils.data import DataLoader

    def run(module: pl.LightningModule, batches: list[Any], *callbacks: pl.Callback, **options: Any) -> pl.Trainer:
        trainer = trainer_with(*callbacks, **options)
        trainer.fit(module, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
        return trainer

    return run
