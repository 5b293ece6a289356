"""Check slack, dual variables and the bound of Proposition 1 on numbers worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from retention.callbacks import Slack
from retention.engine.report import ForwardReport


def soft(lengths: list[int], mass: dict[int, list[float]], target: dict[int, list[float]]) -> ForwardReport:
    return ForwardReport(
        lengths=torch.tensor(lengths),
        keep_mass={layer: torch.tensor(values) for layer, values in mass.items()},
        targets={layer: torch.tensor(values) for layer, values in target.items()},
    )


def one_gate(slack_share: float) -> ForwardReport:
    """Report one sample of 10 tokens with budget 5 and one gate."""
    return soft([10], {0: [5.0 + 10 * slack_share]}, {0: [5.0]})


def test_means_by_layer_in_tokens_and_as_a_fraction(
    trainer_with: Callable[..., Any], replay_module: Any, batch_of: Any, loader_of: Any
) -> None:
    first = soft([10, 4], {0: [6.0, 1.0], 2: [3.0, 2.0]}, {0: [5.0, 2.0], 2: [3.0, 1.0]})
    second = soft([5], {0: [2.0], 2: [1.0]}, {0: [2.5], 2: [1.5]})
    slack, module = Slack(), replay_module((0, 2))
    trainer = trainer_with(slack)
    multipliers = {0: 0.25, 2: 0.5}
    batches = [batch_of([10, 4], report=first, multipliers=multipliers), batch_of([5], report=second)]
    trainer.fit(module, loader_of(batches))
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    # layer 0: tokens 1, -1, -0.5; shares 0.1, -0.25, -0.1    layer 2: tokens 0, 1, -0.5; shares 0, 0.25, -0.1
    assert logged["retention/slack/layer_0"] == pytest.approx(-0.25 / 3)
    assert logged["retention/slack/layer_2"] == pytest.approx(0.15 / 3)
    assert logged["retention/slack"] == pytest.approx(-0.05 / 3)
    assert logged["retention/slack_tokens/layer_0"] == pytest.approx(-0.5 / 3)
    assert logged["retention/slack_tokens/layer_2"] == pytest.approx(0.5 / 3)
    assert logged["retention/lambda/layer_0"] == pytest.approx(0.25)
    assert logged["retention/lambda/layer_2"] == pytest.approx(0.5)
    summary = slack.summary()
    assert summary["abs_slack"] == pytest.approx((0.45 / 3 + 0.35 / 3) / 2)
    assert summary["price"] == multipliers
    assert summary["slack_bound"] is None  # layer 2 is above its budget, so there is no feasible loss


def test_hard_pruning_has_no_slack(
    trainer_with: Callable[..., Any], replay_module: Any, batch_of: Any, loader_of: Any
) -> None:
    hard = ForwardReport(lengths=torch.tensor([10]), kept={0: torch.tensor([5])}, targets={0: torch.tensor([5.0])})
    slack, module = Slack(), replay_module((0,))
    trainer = trainer_with(slack)
    trainer.fit(module, loader_of([batch_of([10], report=hard), batch_of([10])]))
    assert not any(name.startswith("retention/") for name in trainer.callback_metrics)
    assert slack.summary() == {}


def test_a_gate_without_probabilities_is_left_out(
    trainer_with: Callable[..., Any], replay_module: Any, batch_of: Any, loader_of: Any
) -> None:
    slack, module = Slack(), replay_module((0, 1))
    trainer_with(slack).fit(module, loader_of([batch_of([10], report=one_gate(0.2))]))
    assert slack.summary()["by_layer"] == pytest.approx({0: 0.2})
    assert slack.summary()["slack"] == pytest.approx(0.2)


@pytest.fixture
def bounds_of(
    trainer_with: Callable[..., Any], replay_module: Any, batch_of: Any, loader_of: Any
) -> Callable[..., list[float | None]]:
    """Return ``run(*epochs)``, which trains on (slack, task loss, target keep ratio) and returns each epoch's bound."""

    def run(
        *epochs: list[tuple[float, float, float]], multipliers: dict[int, float] | None = None
    ) -> list[float | None]:
        slack, module, bounds = Slack(), replay_module((0,)), []
        trainer = trainer_with(slack, max_epochs=len(epochs), reload_dataloaders_every_n_epochs=1)
        values = {0: 0.5} if multipliers is None else multipliers
        module.train_dataloader = lambda: loader_of(
            [
                batch_of([10], report=one_gate(share), loss=loss, target_keep_ratio=target, multipliers=values)
                for share, loss, target in epochs[trainer.current_epoch]
            ]
        )
        slack_end = slack.on_train_epoch_end

        def record(*arguments: Any) -> None:
            slack_end(*arguments)
            bounds.append(slack.summary().get("slack_bound"))

        slack.on_train_epoch_end = record  # type: ignore[method-assign]
        trainer.fit(module)
        return bounds

    return run


def test_bound_of_proposition_1(bounds_of: Callable[..., list[float | None]]) -> None:
    bounds = bounds_of(
        [(0.1, 0.9, 0.5)],  # over budget, nothing feasible yet
        [(-0.1, 0.8, 0.5), (0.1, 0.6, 0.5)],  # feasible on the mean: F* = 0.7
        [(0.2, 0.5, 0.5)],  # (0.7 - 0.5) / 0.5
        [(-0.1, 0.9, 0.5)],  # feasible but worse: F* stays, (0.7 - 0.9) / 0.5
    )
    assert bounds[0] is None
    assert bounds[1:] == pytest.approx([0.0, 0.4, -0.4])


def test_lower_target_resets_the_best_loss(bounds_of: Callable[..., list[float | None]]) -> None:
    bounds = bounds_of(
        [(-0.1, 0.3, 0.9)],  # feasible with 90 % of the tokens
        [(-0.1, 0.4, 0.8), (0.1, 0.6, 0.5)],  # only the last batch is at the present target, and it is over budget
        [(-0.1, 0.7, 0.5)],
        [(0.1, 0.6, 0.5)],
    )
    assert bounds[:2] == [pytest.approx(0.0), None]
    assert bounds[2:] == pytest.approx([0.0, 0.2])


def test_no_bound_without_multipliers(bounds_of: Callable[..., list[float | None]]) -> None:
    assert bounds_of([(-0.1, 0.7, 0.5)], multipliers={0: 0.0}) == [None]
    assert bounds_of([(-0.1, 0.7, 0.5)], multipliers={}) == [None]


def test_no_bound_without_task_loss(
    trainer_with: Callable[..., Any], replay_module: Any, batch_of: Any, loader_of: Any
) -> None:
    class WithoutTaskLoss(replay_module):  # type: ignore[misc]
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch, batch_idx)["loss"]

    slack = Slack()
    batches = [batch_of([10], report=one_gate(-0.1), multipliers={0: 0.5})]
    trainer_with(slack).fit(WithoutTaskLoss((0,)), loader_of(batches))
    assert slack.summary()["best_feasible_loss"] is None and slack.summary()["slack_bound"] is None


def test_resumed_run_restores_the_best_feasible_loss(
    trainer_with: Callable[..., Any], replay_module: Any, batch_of: Any, loader_of: Any, tmp_path: Path
) -> None:
    def batches(share: float, loss: float) -> Any:
        return loader_of([batch_of([10], report=one_gate(share), loss=loss, multipliers={0: 0.5})])

    trainer = trainer_with(Slack())
    trainer.fit(replay_module((0,)), batches(-0.1, 0.7))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    resumed = Slack()
    again = trainer_with(resumed, max_epochs=2)
    again.fit(replay_module((0,)), batches(0.1, 0.5), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert resumed.summary()["slack_bound"] == pytest.approx(0.4)
    assert resumed.summary()["best_feasible_loss"] == pytest.approx(0.7)


def test_unmet_budget_of_the_soft_phase_is_recorded_and_saved(
    trainer_with: Callable[..., Any], replay_module: Any, batch_of: Any, loader_of: Any
) -> None:
    """The policy's last soft steps count, also if the last epoch has none, and after a resume in the hard phase."""
    hard = ForwardReport(lengths=torch.tensor([10]), kept={0: torch.tensor([5])}, targets={0: torch.tensor([5.0])})
    slack, module = Slack(), replay_module((0,))
    module.policy.soft_slack, module.policy.unmet_budget = 0.4, 0.4
    trainer_with(slack).fit(module, loader_of([batch_of([10], report=one_gate(0.4))]))
    assert slack.summary()["unmet_budget"] == 0.4
    resumed, module = Slack(), replay_module((0,))
    resumed.load_state_dict(slack.state_dict())
    module.policy.soft_slack, module.policy.unmet_budget = None, None  # not known after a resume
    trainer_with(resumed).fit(module, loader_of([batch_of([10], report=hard)]))
    assert resumed.summary()["unmet_budget"] == 0.4
    module.policy.soft_slack = 0.05
    trainer_with(resumed).fit(module, loader_of([batch_of([10], report=hard)]))
    assert resumed.summary()["unmet_budget"] is None


def test_policy_without_multiplier_has_no_unmet_budget(
    trainer_with: Callable[..., Any], replay_module: Any, batch_of: Any, loader_of: Any
) -> None:
    slack = Slack()
    trainer_with(slack).fit(replay_module((0,)), loader_of([batch_of([10], report=one_gate(0.2))]))
    assert slack.summary()["unmet_budget"] is None
    old = {key: value for key, value in slack.state_dict().items() if key != "unmet_budget"}
    slack.load_state_dict(old)  # of an earlier version
