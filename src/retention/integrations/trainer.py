"""Train a retention policy together with a model by the Trainer of transformers."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.optim import AdamW
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from typing_extensions import override

from retention.engine import Retainer
from retention.errors import CheckpointError, require, require_number
from retention.policies.bases.retention_policy import RetentionPolicy
from retention.pretrained.retention_files import FOLDER, WEIGHTS, load_weights, write_retention
from retention.pretrained.with_head import retention_settings
from retention.training.phases import TrainingPhases


class RetentionCallback(TrainerCallback):
    """Set the phases of a policy, anneal its budget, add its loss to that of the model and step its dual.

    The policy follows the model between training and evaluation mode. ``max_grad_norm`` clips the gradients of the
    model alone. Every checkpoint gets the policy in its subfolder ``retention``, which ``load_retained`` and, for
    models without a head, ``RetentionEncoder.from_pretrained`` read; a resumed training takes the policy from there,
    and so does ``load_best_model_at_end``.

    With several processes, all of them start from the policy of rank 0 and average its gradients, as they do with those
    of the model.

    The model computes the loss that is trained, from the labels that it gets: a ``compute_loss_func`` and label
    smoothing are refused, since they would leave out the loss of the policy.

    Args:
        retainer: of ``retain(model, policy)``; training must run inside its context.
        phases: boundaries of warmup, soft gating and hard pruning, as shares of the steps.

    Raises:
        ConfigError: the gate of the retainer is not a policy.

    Examples:
        >>> policy = Adaptive(rho=0.3)                                            # doctest: +SKIP
        >>> with retain(model, policy, protected_ids=ids) as retainer:            # doctest: +SKIP
        ...     callback = RetentionCallback(retainer)
        ...     optimizers = (callback.optimizer(model, args), None)
        ...     trainer = Trainer(model, args, train_dataset=rows, callbacks=[callback], optimizers=optimizers)
        ...     trainer.train()
    """

    def __init__(self, retainer: Retainer, phases: TrainingPhases | None = None) -> None:
        policy = retainer.gate
        message = f"its gate must be a retention policy, got a {type(policy).__name__}"
        require(isinstance(policy, RetentionPolicy), "retainer", message)
        self.retainer = retainer
        self.policy: RetentionPolicy = policy  # type: ignore[assignment]
        self.phases = TrainingPhases() if phases is None else phases
        self._slacks: list[Tensor] = []
        self._handles: list[Any] = []

    def optimizer(self, model: nn.Module, args: TrainingArguments, *, policy_lr: float = 1e-2) -> AdamW:
        """Build AdamW for the model and the policy, for ``Trainer(optimizers=(optimizer, None))``.

        Args:
            model: of the trainer.
            args: learning rate, weight decay (of matrices) and the settings of Adam.
            policy_lr: learning rate of the policy, > 0.

        Raises:
            ConfigError: ``policy_lr`` is out of range.
        """
        require_number("policy_lr", policy_lr, above=0, name="the learning rate of the policy")
        rates = [(model.parameters(), args.learning_rate), (self.policy.parameters(), policy_lr)]
        groups = [
            {"params": chosen, "lr": rate, "weight_decay": decay}
            for parameters, rate in rates
            for chosen, decay in _by_decay(parameters, args.weight_decay)
        ]
        betas = (args.adam_beta1, args.adam_beta2)
        return AdamW(
            [group for group in groups if group["params"]], lr=args.learning_rate, betas=betas, eps=args.adam_epsilon
        )

    @override
    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Check the optimizer, restore the policy of a resumed training, share it and attach the hooks."""
        model, optimizer = kwargs["model"], kwargs["optimizer"]
        optimized = {id(each) for group in optimizer.param_groups for each in group["params"]}
        missing = [each for each in self.policy.parameters() if each.requires_grad and id(each) not in optimized]
        message = "does not train the policy; pass optimizers=(callback.optimizer(model, args), None) to the Trainer"
        require(not missing, "optimizers", message)
        message = f"must be 0: the smoothed loss leaves out that of the policy, got {args.label_smoothing_factor}"
        require(args.label_smoothing_factor == 0, "label_smoothing_factor", message)
        if state.global_step > 0:
            self._restore(Path(str(args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}")
        if _num_processes() > 1:
            for value in chain(self.policy.parameters(), self.policy.buffers()):
                distributed.broadcast(value.detach(), src=0)
        self.policy.zero_grad()
        self._slacks.clear()
        self._detach()
        self._handles = [
            model.register_forward_pre_hook(self._before_forward),
            model.register_forward_hook(self._after_forward, with_kwargs=True),
        ]

    @override
    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set the phase and the annealed budget of the step."""
        self.policy.phase, self.policy.anneal = self.phases.at(state.global_step / max(1, state.max_steps))

    @override
    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Average the gradients of the policy, which is not part of the wrapped model, over the processes."""
        if _num_processes() > 1:
            _average_gradients([each for each in self.policy.parameters() if each.requires_grad])

    @override
    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Clear the gradients of the policy, and step the dual variables.

        The slack is the mean over all micro-batches and processes.
        """
        self.policy.zero_grad()  # the Trainer clears those of the model alone
        if not self._slacks:
            return
        slack = torch.stack(self._slacks).mean(0)
        self._slacks.clear()
        if _num_processes() > 1:
            distributed.all_reduce(slack)
            slack = slack / _num_processes()
        self.policy.step_dual(slack)

    @override
    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write the policy into the checkpoint."""
        folder = Path(str(args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        if state.is_world_process_zero:
            folder.mkdir(parents=True, exist_ok=True)
            write_retention(folder, self.policy, retention_settings(self.retainer))

    @override
    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Detach the hooks, and put the policy into evaluation mode; take that of the best model if it was loaded."""
        self._detach()
        self.policy.eval()
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            self._restore(Path(state.best_model_checkpoint))

    def _before_forward(self, model: nn.Module, _: Any) -> None:
        self.policy.train(model.training)

    def _after_forward(self, model: nn.Module, _: Any, kwargs: dict[str, Any], output: Any) -> Any:
        """Add the loss of the policy, and record its slack."""
        if not model.training or not self.policy.constrained or self.policy.current_phase == "warmup":
            return None
        computed = output[0] if isinstance(output, tuple) else output.get("loss")
        message = "the model must compute its loss, to which that of the policy is added; pass the labels to the model"
        require(computed is not None and computed.dim() == 0, "compute_loss", message)
        self._slacks.append(self.policy.budget_slack().detach())
        loss = self.policy.budget_loss()
        num_items = kwargs.get("num_items_in_batch")
        if num_items is not None:
            # The Trainer adds up the losses of the micro-batches of a step, on all processes if it counts their items,
            # so each gets its share of the labelled items; without the number it averages the losses by itself.
            loss = loss * (kwargs["labels"] != -100).sum() / num_items
        if isinstance(output, tuple):
            return (computed + loss, *output[1:])
        output["loss"] = computed + loss
        return output

    def _restore(self, folder: Path) -> None:
        if not (folder / FOLDER / WEIGHTS).is_file():
            message = "holds no policy; resume from the output_dir of the training, or start it again"
            raise CheckpointError(f"{folder}: {message}")
        load_weights(self.policy, folder)

    def _detach(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


def _num_processes() -> int:
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def _average_gradients(parameters: list[nn.Parameter]) -> None:
    """Average gradients over all processes; one that is missing counts as 0, unless no process has it."""
    if not parameters:
        return
    counts = torch.tensor([float(each.grad is not None) for each in parameters], device=parameters[0].device)
    distributed.all_reduce(counts)
    for parameter, count in zip(parameters, counts.tolist(), strict=True):
        if count == 0:
            continue
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        distributed.all_reduce(parameter.grad)
        parameter.grad /= _num_processes()


def _by_decay(parameters: Iterable[nn.Parameter], decay: float) -> list[tuple[list[nn.Parameter], float]]:
    """Divide trainable parameters into matrices, which are decayed, and the others."""
    trained = [each for each in parameters if each.requires_grad]
    return [([each for each in trained if each.dim() > 1], decay), ([each for each in trained if each.dim() <= 1], 0.0)]
