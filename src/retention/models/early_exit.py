"""Provide the model with heads after inner layers, whose rows leave the batch once a head is confident."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from retention.core.flops import flops_by_layer
from retention.core.thread_override import ThreadOverride
from retention.engine import ForwardReport
from retention.engine.adapters.base import Arguments, argument, parameter_names, replace
from retention.engine.layer_output import states_of, with_states
from retention.errors import require
from retention.models.encoded import Batch, Encoded
from retention.models.exit_threshold import exit_threshold
from retention.models.head import Head
from retention.models.retention_model import RetentionModel
from retention.policies.early_exit import EarlyExit

_BY_ROW = ("attention_mask", "position_bias")  # arguments of a layer that have one entry per row


class _NoRowLeft(Exception):
    """Raised inside the encoder to skip the layers that no row needs."""


@dataclass(frozen=True)
class ExitEncoded(Encoded):
    """Output of the encoder, where each row has the states of its exit.

    Attributes:
        report: tokens of the rows that went on after each exit.
        logits: [B, C], of the head at which each row left; undefined for rows that went through all layers.
        left: [B] bool, True = the row left at an inner layer.
    """

    report: ForwardReport | None = None
    logits: Tensor | None = None
    left: Tensor | None = None

    def gates_passed(self, width: int) -> Tensor:
        """Return the number of exits after which each token went on, [B, width] long."""
        return cast(ForwardReport, self.report).depth(self.gated_layers, width)


class EarlyExitModel(RetentionModel):
    """Encoder with a head after each exit of an ``EarlyExit`` policy and the task's head after the last layer.

    In training every row goes through all layers and all heads are trained (``exit_logits``). In evaluation mode the
    rows of a batch that reach the threshold at an exit leave it there: later layers run on the others, and not at all
    once no row is left.

    Args:
        encoder: Hugging Face encoder.
        policy: built for the encoder; gets one copy of ``head`` for each exit.
        head: classification head, built for the encoder.
        **settings: see ``RetentionModel``.

    Raises:
        ConfigError: the encoder computes its attention over a band, whose masks do not follow the rows; or the head
            has no pooled state.
    """

    policy: EarlyExit

    def __init__(self, encoder: nn.Module, policy: EarlyExit, head: Head, **settings: Any) -> None:
        super().__init__(encoder, policy, head, **settings)
        message = "early_exit does not support Longformer and LED, whose attention the engine computes"
        require(not self.retainer.adapter.computes_attention, "backbone", message)
        require(head.pools and head.fixed_width, "retention", "early_exit needs a head with one answer per row")
        for layer in policy.exit_layers:
            policy.exit_heads[str(layer)] = copy.deepcopy(head)
        self._exit_logits: dict[int, Tensor] = {}
        self._hooks = _ThreadHooks()

    def __getstate__(self) -> dict[str, Any]:
        """Leave the logits of the last training pass out of copies."""
        return {**self.__dict__, "_exit_logits": {}}

    @property
    def gated_layers(self) -> tuple[int, ...]:
        """Return the layers after which rows may leave."""
        return self.policy.exit_layers

    def exit_logits(self) -> Mapping[int, Tensor]:
        """Return layer_idx -> logits [B, C] of the inner heads in the last training pass."""
        return self._exit_logits

    def encode(self, batch: Batch) -> Encoded:
        """Run the encoder: all layers in training mode, each row up to its exit otherwise."""
        if self.training:
            encoded, self._exit_logits = self._complete(batch)
            return encoded
        self.policy.check_calibrated()
        return self._until_exit(batch)

    def logits(self, encoded: Encoded, batch: Batch) -> Tensor:
        """Compute the logits, [B, C]: of the head at which each row left."""
        last = self.head.logits(encoded, batch)
        if not isinstance(encoded, ExitEncoded) or encoded.logits is None:
            return last
        return torch.where(cast(Tensor, encoded.left).unsqueeze(1), encoded.logits.to(last.dtype), last)

    def flops(self) -> tuple[float, float]:
        """Return the FLOPs of the last forward pass: those of the dense reference, and those of each row's layers."""
        report = cast(ForwardReport, self.last_report)
        dense, _ = report.flops(self.reference_shape, {}, before_feed_forward=False)
        _, spent = report.flops(self.shape, {}, before_feed_forward=False)
        return dense, spent

    @torch.no_grad()
    def calibrate(self, batches: Iterable[Batch]) -> None:
        """Set the threshold at which rows like these spend ``policy.rho`` of the dense FLOPs on average.

        Args:
            batches: rows that were not trained on.
        """
        confidences, costs, dense = [], [], 0.0
        ends = [*self.policy.exit_layers, self.shape.num_layers - 1]
        for batch in batches:
            _, logits = self._complete(batch)
            confidences.append(torch.stack([_confidence(each) for each in logits.values()]))
            lengths = batch["attention_mask"].sum(1)
            costs.append(flops_by_layer(self.shape, lengths, {}).cumsum(0)[ends])
            dense += float(flops_by_layer(self.reference_shape, lengths, {}).sum())
        if confidences:
            target = self.policy.rho * dense
            self.policy.set_threshold(exit_threshold(torch.cat(confidences, 1), torch.cat(costs, 1), target))

    def _complete(self, batch: Batch) -> tuple[Encoded, dict[int, Tensor]]:
        """Run all layers; return the output and the logits of the inner heads."""
        pass_, mask = _CompletePass(), batch["attention_mask"]
        with self._hooked(pass_):
            encoded = super().encode(batch)
        logits = {layer: self._read(layer, states, mask, batch) for layer, states in pass_.states.items()}
        return encoded, logits

    def _hooked(self, pass_: _RowPass | _CompletePass) -> AbstractContextManager[None]:
        return self._hooks.running(pass_, self.retainer.adapter.layers(self.encoder), self.policy.exit_layers)

    def _read(self, layer: int, hidden_states: Tensor, mask: Tensor, batch: Batch) -> Tensor:
        head = cast(Head, self.policy.exit_heads[str(layer)])
        logits = head.logits(_encoded(hidden_states, mask), batch)
        predicted = head.predictions(logits)
        one_class = logits.dim() == 2 and predicted is not None and predicted.dim() == 1
        require(one_class, "retention", "early_exit needs a task with one class per row; choose another policy")
        return logits

    def _until_exit(self, batch: Batch) -> ExitEncoded:
        mask: Tensor = batch["attention_mask"]
        pass_ = _RowPass(mask, float(self.policy.threshold), partial(self._read, batch=batch))
        last = None
        with suppress(_NoRowLeft), self._hooked(pass_):
            last = self.encoder(**self.retainer.adapter.inputs(batch)).last_hidden_state
        self.last_report = pass_.report
        left = torch.ones(len(mask), dtype=torch.bool, device=mask.device)
        left[pass_.rows] = False
        plain = _encoded(pass_.restored(last), mask)
        return ExitEncoded(
            plain.hidden_states,
            plain.weights,
            plain.positions,
            gated_layers=self.gated_layers,
            report=pass_.report,
            logits=pass_.logits,
            left=left,
        )


class _RowPass:
    """Rows of one forward pass: which are still in the batch, and the states and logits of those that left.

    Args:
        mask: [B, T], non-zero = real token.
        threshold: probability at which a row leaves.
        read: layer_idx, states [A, T, D] and mask [A, T] -> logits [A, C].

    Attributes:
        rows: [A] long, the rows that are still in the batch, ascending.
        report: tokens that went on after each exit.
        logits: [B, C] of the rows that left; None as long as no head has run.
    """

    def __init__(self, mask: Tensor, threshold: float, read: Any) -> None:
        self.mask = mask
        self.threshold = threshold
        self.read = read
        self.rows = torch.arange(len(mask), device=mask.device)
        self.report = ForwardReport(lengths=mask.sum(1))
        self.logits: Tensor | None = None
        self._left: list[tuple[Tensor, Tensor]] = []  # rows and their states
        self._selected: dict[str, tuple[Tensor, Tensor]] = {}  # argument -> as passed, and for the present rows

    def restored(self, last: Tensor | None) -> Tensor:
        """Return the states of all rows, [B, T, D], each from its exit.

        Args:
            last: [A, T, D], of the rows that went through all layers; None if there is none.
        """
        parts = [*self._left, *([] if last is None else [(self.rows, last)])]
        states = parts[0][1].new_empty(len(self.mask), *parts[0][1].shape[1:])
        for rows, each in parts:
            states[rows] = each.to(states.dtype)
        return states

    def after_exit(self, layer: int, output: Any) -> Any:
        """Let the rows leave whose head is confident; return the output of the layer for the others."""
        states = states_of(output)
        logits = self.read(layer, states, self.mask[self.rows])
        leaving = _confidence(logits) >= self.threshold
        if self.logits is None:
            self.logits = logits.new_zeros(len(self.mask), logits.shape[1])
        if bool(leaving.any()):
            self._left.append((self.rows[leaving], states[leaving]))
            self.logits[self.rows[leaving]] = logits[leaving]
            self.rows = self.rows[~leaving]
            self._selected.clear()
            output = with_states(output, states[~leaving])
        on = torch.zeros(len(self.mask), 1, dtype=torch.bool, device=self.mask.device)
        on[self.rows] = True
        positions = torch.arange(self.mask.shape[1], device=self.mask.device).expand_as(self.mask)
        self.report.record_kept(layer, self.mask.bool() & on, positions)
        if not len(self.rows):
            raise _NoRowLeft
        return output

    def before_layer(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
        """Select the present rows of the arguments that have one entry per row."""
        if len(self.rows) == len(self.mask):
            return None
        selected = {}
        for name in set(_BY_ROW) & set(parameter_names(cast(Any, type(layer)))):
            value = argument(layer, (args, kwargs), name)
            if isinstance(value, Tensor) and len(value) == len(self.mask):
                if name not in self._selected or self._selected[name][0] is not value:
                    self._selected[name] = (value, value[self.rows])
                selected[name] = self._selected[name][1]
        return replace(layer, (args, kwargs), **selected)


class _CompletePass:
    """Forward pass of all rows through all layers.

    Attributes:
        states: layer_idx -> states after the exit.
    """

    def __init__(self) -> None:
        self.states: dict[int, Tensor] = {}

    def after_exit(self, layer: int, output: Any) -> None:
        """Store the states."""
        self.states[layer] = states_of(output)

    def before_layer(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Leave the arguments as they are."""


class _ThreadHooks:
    """Hooks on the layers of an encoder, which act on the pass of the calling thread; without one they do nothing.

    They stay as long as any thread runs a pass: hooks cannot be changed while another thread calls the module. Copies
    and pickles start without passes and hooks.
    """

    def __init__(self) -> None:
        self._pass = ThreadOverride()
        self._lock = threading.Lock()
        self._running = 0  # passes of all threads
        self._handles: list[RemovableHandle] = []

    @contextmanager
    def running(
        self, pass_: _RowPass | _CompletePass, layers: Sequence[nn.Module], exits: Sequence[int]
    ) -> Iterator[None]:
        """Apply the hooks to a pass that this thread runs inside the block.

        Args:
            pass_: is called before each layer and after each exit.
            layers: of the encoder.
            exits: indices of the layers after which rows may leave.
        """
        with self._lock:
            if self._running == 0:
                self._register(layers, exits)
            self._running += 1
        try:
            with self._pass.using(pass_):
                yield
        finally:
            with self._lock:
                self._running -= 1
                if self._running == 0:
                    self._remove()

    def __reduce__(self) -> tuple[type[_ThreadHooks], tuple[()]]:
        return type(self), ()

    def _register(self, layers: Sequence[nn.Module], exits: Sequence[int]) -> None:
        self._handles += [layers[layer].register_forward_hook(partial(self._after_exit, layer)) for layer in exits]
        self._handles += [layer.register_forward_pre_hook(self._before_layer, with_kwargs=True) for layer in layers]

    def _remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _before_layer(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
        pass_ = self._pass.value
        return None if pass_ is None else pass_.before_layer(layer, args, kwargs)

    def _after_exit(self, layer: int, module: nn.Module, args: Any, output: Any) -> Any:
        pass_ = self._pass.value
        return None if pass_ is None else pass_.after_exit(layer, output)


def _encoded(hidden_states: Tensor, mask: Tensor) -> Encoded:
    positions = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
    return Encoded(hidden_states, mask.float(), positions)


def _confidence(logits: Tensor) -> Tensor:
    """Return the largest class probability of each row, [B] float32."""
    return logits.float().softmax(-1).amax(-1)
