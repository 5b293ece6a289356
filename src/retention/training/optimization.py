"""Build AdamW with the paper's settings and a linear warmup and decay of the learning rate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from retention.errors import require_number


@dataclass(frozen=True, kw_only=True)
class AdamWSettings:
    """Optimizer settings.

    Attributes:
        lr: learning rate of encoder and head, > 0 (3e-5 in the paper).
        policy_lr: learning rate of the retention policy's parameters, > 0. Differs from the paper, which has one rate:
            scorers start untrained and have few steps, and at 3e-5 their ranking hardly changes.
        weight_decay: on matrices, >= 0; biases and norms are not decayed.
        warmup: share of the steps over which the learning rate rises from 0, in [0, 1); then it falls linearly to 0.

    Raises:
        ConfigError: a value is out of range.
    """

    lr: float = 3e-5
    policy_lr: float = 1e-2
    weight_decay: float = 0.01
    warmup: float = 0.06

    def __post_init__(self) -> None:
        require_number("lr", self.lr, above=0)
        require_number("policy_lr", self.policy_lr, above=0)
        require_number("weight_decay", self.weight_decay, low=0)
        require_number("warmup", self.warmup, low=0, below=1, name="share of the steps,")

    def build(
        self,
        model: Iterable[tuple[str, nn.Parameter]],
        policy: nn.Module,
        steps: int,
        position: Callable[[int], float] = float,
    ) -> dict[str, Any]:
        """Build optimizer and learning-rate schedule in Lightning's format.

        The rate of the first step is one warmup step above 0, unlike that of
        ``transformers.get_linear_schedule_with_warmup``, whose first step is spent at a rate of 0.

        Args:
            model: named parameters of encoder and heads.
            policy: the retention policy; those of its parameters that are not among ``model`` have their own rate.
            steps: optimizer steps of the whole training.
            position: optimizer steps done -> position between 0 and ``steps``, for trainings that time may end.
        """
        model = list(model)
        listed = {id(parameter) for _, parameter in model}
        rest = [(name, each) for name, each in policy.named_parameters() if id(each) not in listed]
        groups = [*self._groups(model, self.lr), *self._groups(rest, self.policy_lr)]
        optimizer = AdamW([group for group in groups if group["params"]])
        warmup_steps = max(1, round(self.warmup * steps))

        def factor(step: int) -> float:
            done = position(step)
            return min((done + 1) / warmup_steps, max(0.0, (steps - done) / max(1, steps - warmup_steps)))

        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}

    def _groups(self, named: Iterable[tuple[str, nn.Parameter]], lr: float) -> Iterator[dict[str, Any]]:
        trained = [parameter for _, parameter in named if parameter.requires_grad]
        yield {"params": [p for p in trained if p.dim() > 1], "lr": lr, "weight_decay": self.weight_decay}
        yield {"params": [p for p in trained if p.dim() <= 1], "lr": lr, "weight_decay": 0.0}
