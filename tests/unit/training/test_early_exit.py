"""Test the training of an early-exit model: joint losses, rates of its heads, and a threshold from validation rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from retention.engine import encoder_of
from retention.errors import ConfigError
from retention.models.early_exit import EarlyExitModel
from retention.models.head import encoder_shape
from retention.policies import EarlyExit
from retention.tasks.classification.head import ClassificationHead
from retention.training.distillation import Distillation
from retention.training.module import RetentionModule
from retention.training.optimization import AdamWSettings
from retention.training.phases import TrainingPhases
from retention.training.settings import TrainingSettings


@pytest.fixture
def module(tiny_bert: Callable[..., Any]) -> RetentionModule:
    """Return the LightningModule of a three-layer model with exits after layers 0 and 1."""
    torch.manual_seed(5)
    loaded = tiny_bert()
    policy = EarlyExit(rho=0.7)
    policy.build(encoder_shape(loaded))
    head = ClassificationHead(encoder=loaded, num_labels=2, dropout=0.0, pooling="mean")
    model = EarlyExitModel(encoder_of(loaded), policy, head)
    settings = TrainingSettings(AdamWSettings(lr=1e-3, policy_lr=0.5), TrainingPhases(), Distillation())
    return RetentionModule(model, settings, config={})


def test_fit_trains_every_head_and_sets_the_threshold(
    module: RetentionModule, make_batch: Callable[..., Any], trainer_with: Callable[..., Any]
) -> None:
    model: Any = module.model
    before = {name: value.clone() for name, value in model.policy.exit_heads.state_dict().items()}
    training = [make_batch(9, 7, 5, 8, seed=seed) for seed in range(4)]
    validation = [make_batch(9, 9, 9, 9, 9, 9, 9, 9, seed=seed, first_index=8 * seed) for seed in range(4)]
    trainer = trainer_with()
    trainer.fit(module, DataLoader(training, batch_size=None), DataLoader(validation, batch_size=None))
    assert all(not torch.equal(value, before[name]) for name, value in model.policy.exit_heads.state_dict().items())
    assert float(model.policy.calibrated_rho) == pytest.approx(0.7)
    assert 0.5 <= float(model.policy.threshold) <= 2.0
    ratio = float(trainer.callback_metrics["val/flops_ratio"])
    assert 0.55 < ratio <= 0.7001  # of rows that differ in nothing but their confidence
    [optimizer] = trainer.optimizers
    ours = {id(parameter) for parameter in model.policy.exit_heads.parameters()}
    rates = {group["initial_lr"] for group in optimizer.param_groups if ours & {id(each) for each in group["params"]}}
    assert rates == {1e-3}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))


def test_loss_is_the_mean_over_heads_weighted_by_depth(module: RetentionModule, make_batch: Callable[..., Any]) -> None:
    model: Any = module.model.train()
    batch = make_batch(9, 7, 5, 8)
    loss = module.objective.losses(batch, 0).task
    logits = [*model.exit_logits().values(), model(batch)]
    each = [model.head.task_loss(one, batch) for one in logits]
    expected = sum((depth + 1) * one for depth, one in enumerate(each)) / 6
    torch.testing.assert_close(loss, expected)
    assert abs(float(loss - each[-1])) > 1e-4


def test_the_threshold_stays_valid_in_half_precision(tiny_bert: Callable[..., Any]) -> None:
    policy = EarlyExit(rho=0.3)
    policy.build(encoder_shape(tiny_bert()))
    policy.set_threshold(0.9)
    policy.to(torch.bfloat16).check_calibrated()
    policy.rho = 0.4
    with pytest.raises(ConfigError, match="train it for each budget"):
        policy.check_calibrated()
