"""Log the distance of training from its budget, the dual variables, and the bound of Proposition 1."""

from __future__ import annotations

import math
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from retention.callbacks.totals import RunningTotals, log_epoch
from retention.callbacks.watched_module import WatchedModule, as_watched
from retention.engine.report import ForwardReport


class Slack(Callback):
    """Log the slack sum_t p_t - M and the dual variable of every gated layer, once per epoch.

    Only batches with soft gating have keep probabilities. Batches with hard pruning (``keep_mass`` is empty) are not
    counted, because top-M meets the budget exactly. All values are means over the epoch's training samples.

    - ``retention/slack`` and ``retention/slack/layer_k``: slack / T, T = the sample's real tokens; the first is the
      mean over the counted layers. Positive = above the budget.
    - ``retention/slack_tokens`` and ``retention/slack_tokens/layer_k``: the same in tokens.
    - ``retention/lambda/layer_k``: the dual variable at the end of the epoch.
    - ``retention/slack_bound``: the right side of Prop. 1 (appendix C), D <= (F* - E[loss]) / lambda. With several
      gates the proposition bounds the slack averaged over them with weights lambda_k: sum lambda_k D_k / sum lambda_k
      <= (F* - E[loss]) / sum lambda_k. Its unit is that of the slack in the dual (fraction of T, or tokens); it is
      logged only if sum lambda_k > 0 and F* is available.

    Differs from the paper: F*, the best feasible loss, is replaced by the best feasible training loss so far, which is
    the lowest epoch mean of the task loss among epochs whose mean slack was <= 0 at every counted layer. This is an
    upper estimate of F*, so the bound is not tight. While the budget is annealed, only batches at the present target
    keep ratio count, and a lower target resets F*, because a loss that was reached with more tokens is no longer
    feasible.

    ``training_step`` must return the task loss without the budget penalty as ``task_loss`` (scalar, mean over the
    batch); without it no bound is logged.
    """

    def __init__(self) -> None:
        self._epoch: RunningTotals | None = None
        self._at_target: RunningTotals | None = None
        self._target: float | None = None
        self._best_loss: float | None = None
        self._last: dict[str, Any] = {}
        self._unmet_budget: float | None = None

    def summary(self) -> dict[str, Any]:
        """Return the values of the last epoch with soft gating; {} if there was none.

        Keys: ``slack`` and ``abs_slack`` (mean over layers of slack / T and of |slack| / T), ``slack_tokens``,
        ``by_layer`` (layer_idx -> slack / T), ``price`` (layer_idx -> lambda), ``slack_bound`` and
        ``best_feasible_loss`` (None where not available), ``unmet_budget`` (mean slack of a ``LagrangianPolicy`` over
        the last steps with soft gating if it is above 0.1, else None).
        """
        return {**self._last, "unmet_budget": self._unmet_budget} if self._last else {}

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {
            "target": self._target,
            "best_loss": self._best_loss,
            "last": dict(self._last),
            "unmet_budget": self._unmet_budget,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state of an earlier run."""
        self._target = state_dict["target"]
        self._best_loss = state_dict["best_loss"]
        self._last = dict(state_dict["last"])
        self._unmet_budget = state_dict.get("unmet_budget")  # missing in checkpoints of earlier versions

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        gates = len(as_watched(pl_module).gated_layers)
        self._epoch = _totals(gates)
        self._at_target = _totals(gates)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        module = as_watched(pl_module)
        report = module.last_report
        if report is None or not report.keep_mass or self._epoch is None:
            return
        if module.target_keep_ratio != self._target:
            self._restart(module)
        sums = _slack_sums(report, module.gated_layers)
        for totals in (self._epoch, self._at_target):
            if totals is not None:
                totals.add(**sums)
                _add_loss(totals, outputs, len(report.lengths))

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._epoch is None or self._at_target is None:
            return
        module = as_watched(pl_module)
        if getattr(module.policy, "soft_slack", None) is not None:  # None before the first soft step since a resume
            self._unmet_budget = getattr(module.policy, "unmet_budget", None)
        layers = module.gated_layers
        epoch, at_target = self._epoch.read(trainer), self._at_target.read(trainer)
        slack = _means(epoch["slack"], epoch["counted"], layers)
        if not slack:
            return
        self._update_best(at_target, layers)
        multipliers = {layer: float(value) for layer, value in module.policy.multipliers_by_layer().items()}
        tokens = _means(epoch["tokens"], epoch["counted"], layers)
        self._last = {
            "slack": _mean(slack),
            "abs_slack": _mean(_means(epoch["magnitude"], epoch["counted"], layers)),
            "slack_tokens": _mean(tokens),
            "by_layer": slack,
            "price": multipliers,
            "slack_bound": self._bound(at_target, multipliers),
            "best_feasible_loss": self._best_loss,
        }
        self._log(pl_module, tokens)

    def _restart(self, module: WatchedModule) -> None:
        """Forget earlier batches when the target keep ratio changes, and F* when it decreases."""
        if self._target is None or module.target_keep_ratio < self._target:
            self._best_loss = None
        self._target = module.target_keep_ratio
        self._at_target = _totals(len(module.gated_layers))

    def _update_best(self, sums: dict[str, list[float]], layers: tuple[int, ...]) -> None:
        loss = _loss(sums)
        slack = _means(sums["slack"], sums["counted"], layers)
        feasible = bool(slack) and max(slack.values()) <= 0.0
        if feasible and loss is not None and math.isfinite(loss):
            self._best_loss = loss if self._best_loss is None else min(loss, self._best_loss)

    def _bound(self, sums: dict[str, list[float]], multipliers: dict[int, float]) -> float | None:
        loss, weight = _loss(sums), sum(multipliers.values())
        if loss is None or self._best_loss is None or weight <= 0.0:
            return None
        return (self._best_loss - loss) / weight

    def _log(self, module: LightningModule, tokens: dict[int, float]) -> None:
        values = {"retention/slack": self._last["slack"], "retention/slack_tokens": self._last["slack_tokens"]}
        values |= {f"retention/slack/layer_{layer}": value for layer, value in self._last["by_layer"].items()}
        values |= {f"retention/slack_tokens/layer_{layer}": value for layer, value in tokens.items()}
        values |= {f"retention/lambda/layer_{layer}": value for layer, value in self._last["price"].items()}
        if self._last["slack_bound"] is not None:
            values["retention/slack_bound"] = self._last["slack_bound"]
        log_epoch(module, values)


def _totals(gates: int) -> RunningTotals:
    return RunningTotals(tokens=gates, slack=gates, magnitude=gates, counted=gates, loss=1, losses=1)


def _slack_sums(report: ForwardReport, layers: tuple[int, ...]) -> dict[str, Tensor | list[float]]:
    """Sum slack in tokens and as a fraction of T over the batch, [G]; layers without soft gates are not counted."""
    zeros = torch.zeros_like(report.lengths, dtype=torch.float32)
    rows = [report.keep_mass[layer] - report.targets[layer] if layer in report.keep_mass else zeros for layer in layers]
    tokens = torch.stack(rows).float()
    slack = tokens / report.lengths
    counted = [float(len(report.lengths)) if layer in report.keep_mass else 0.0 for layer in layers]
    return {"tokens": tokens.sum(1), "slack": slack.sum(1), "magnitude": slack.abs().sum(1), "counted": counted}


def _add_loss(totals: RunningTotals, outputs: Any, samples: int) -> None:
    if isinstance(outputs, dict) and "task_loss" in outputs:
        totals.add(loss=outputs["task_loss"] * samples, losses=samples)


def _loss(sums: dict[str, list[float]]) -> float | None:
    return sums["loss"][0] / sums["losses"][0] if sums["losses"][0] else None


def _means(sums: list[float], counts: list[float], layers: tuple[int, ...]) -> dict[int, float]:
    return {layer: total / count for layer, total, count in zip(layers, sums, counts, strict=True) if count}


def _mean(values: dict[int, float]) -> float:
    return sum(values.values()) / len(values)
