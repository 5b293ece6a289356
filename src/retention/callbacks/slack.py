"""How far training is from the budget, what the budget costs, and the bound of Proposition 1."""

from __future__ import annotations

import math
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from retention.callbacks.contract import Watched, watched
from retention.callbacks.totals import Totals, log_epoch
from retention.engine.report import ForwardReport


class Slack(Callback):
    """Logs the slack sum_t p_t - M of every gated layer and the price of the budget, once per epoch.

    Slack exists where keep probabilities do: batches with real removal (``keep_mass`` empty) are not counted, since
    top-M meets the budget by construction. All figures are means over the epoch's training samples.

    - ``retention/slack`` and ``retention/slack/layer_k``: slack / T, T = the sample's real tokens; the first is the
      mean over the counted layers. Positive = over the budget.
    - ``retention/slack_tokens`` and ``retention/slack_tokens/layer_k``: the same in tokens.
    - ``retention/lambda/layer_k``: the dual variable at the end of the epoch.
    - ``retention/slack_bound``: the right side of Prop. 1 (appendix C), D <= (F* - E[loss]) / lambda. With several
      gates the proposition bounds the slack averaged over them with weights lambda_k: sum lambda_k D_k / sum lambda_k
      <= (F* - E[loss]) / sum lambda_k. Its unit is the dual's own unit of slack (share of T unless it counts raw
      tokens); it is logged only where sum lambda_k > 0 and F* is known.

    Differs from the paper: F*, the best feasible loss, is unknown, so the best feasible training loss seen so far
    stands in for it: the lowest epoch mean of the task loss among epochs whose mean slack was <= 0 at every counted
    layer. That is an upper estimate of F*, so the bound is not tight. While the budget is annealed only the batches at
    the present target count, and a lower target starts F* anew: a loss reached with more tokens is feasible no longer.

    ``training_step`` must return the task loss without the budget's penalty under ``task_loss`` (scalar, mean over the
    batch); without it no bound is logged.
    """

    def __init__(self) -> None:
        self._epoch: Totals | None = None
        self._present: Totals | None = None
        self._target: float | None = None
        self._best_loss: float | None = None
        self._last: dict[str, Any] = {}

    def summary(self) -> dict[str, Any]:
        """Figures of the last epoch that had soft gates; {} if none had.

        Keys: ``slack`` and ``abs_slack`` (mean over layers of slack / T and of |slack| / T), ``slack_tokens``,
        ``by_layer`` (layer_idx -> slack / T), ``price`` (layer_idx -> lambda), ``slack_bound`` and
        ``best_feasible_loss`` (None where unknown).
        """
        return dict(self._last)

    def state_dict(self) -> dict[str, Any]:
        return {"target": self._target, "best_loss": self._best_loss, "last": dict(self._last)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._target = state_dict["target"]
        self._best_loss = state_dict["best_loss"]
        self._last = dict(state_dict["last"])

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        gates = len(watched(pl_module).gated_layers)
        self._epoch = _totals(gates)
        self._present = _totals(gates)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        module = watched(pl_module)
        report = module.last_report
        if report is None or not report.keep_mass or self._epoch is None:
            return
        if module.target_keep_ratio != self._target:
            self._restart(module)
        sums = _slack_sums(report, module.gated_layers)
        for totals in (self._epoch, self._present):
            if totals is not None:
                totals.add(**sums)
                _add_loss(totals, outputs, len(report.lengths))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._epoch is None or self._present is None:
            return
        module = watched(pl_module)
        layers = module.gated_layers
        epoch, present = self._epoch.read(trainer), self._present.read(trainer)
        share = _means(epoch["share"], epoch["counted"], layers)
        if not share:
            return
        self._update_best(present, layers)
        price = {layer: float(value) for layer, value in module.policy.price().items()}
        tokens = _means(epoch["tokens"], epoch["counted"], layers)
        self._last = {
            "slack": _mean(share),
            "abs_slack": _mean(_means(epoch["magnitude"], epoch["counted"], layers)),
            "slack_tokens": _mean(tokens),
            "by_layer": share,
            "price": price,
            "slack_bound": self._bound(present, price),
            "best_feasible_loss": self._best_loss,
        }
        self._log(pl_module, tokens)

    def _restart(self, module: Watched) -> None:
        """The target moved: earlier batches say nothing about it, and F* holds for a looser target at most."""
        if self._target is None or module.target_keep_ratio < self._target:
            self._best_loss = None
        self._target = module.target_keep_ratio
        self._present = _totals(len(module.gated_layers))

    def _update_best(self, present: dict[str, list[float]], layers: tuple[int, ...]) -> None:
        loss = _loss(present)
        slack = _means(present["share"], present["counted"], layers)
        feasible = bool(slack) and max(slack.values()) <= 0.0
        if feasible and loss is not None and math.isfinite(loss):
            self._best_loss = loss if self._best_loss is None else min(loss, self._best_loss)

    def _bound(self, present: dict[str, list[float]], price: dict[int, float]) -> float | None:
        loss, weight = _loss(present), sum(price.values())
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


def _totals(gates: int) -> Totals:
    return Totals(tokens=gates, share=gates, magnitude=gates, counted=gates, loss=1, losses=1)


def _slack_sums(report: ForwardReport, layers: tuple[int, ...]) -> dict[str, Tensor | list[float]]:
    """Sums over the batch per gated layer, [G]; layers without soft gates add 0 and are not counted."""
    nothing = torch.zeros_like(report.lengths, dtype=torch.float32)
    rows = [
        report.keep_mass[layer] - report.targets[layer] if layer in report.keep_mass else nothing for layer in layers
    ]
    slack = torch.stack(rows).float()
    share = slack / report.lengths
    counted = [float(len(report.lengths)) if layer in report.keep_mass else 0.0 for layer in layers]
    return {"tokens": slack.sum(1), "share": share.sum(1), "magnitude": share.abs().sum(1), "counted": counted}


def _add_loss(totals: Totals, outputs: Any, samples: int) -> None:
    if isinstance(outputs, dict) and "task_loss" in outputs:
        totals.add(loss=outputs["task_loss"] * samples, losses=samples)


def _loss(sums: dict[str, list[float]]) -> float | None:
    return sums["loss"][0] / sums["losses"][0] if sums["losses"][0] else None


def _means(sums: list[float], counts: list[float], layers: tuple[int, ...]) -> dict[int, float]:
    return {layer: total / count for layer, total, count in zip(layers, sums, counts, strict=True) if count}


def _mean(values: dict[int, float]) -> float:
    return sum(values.values()) / len(values)
