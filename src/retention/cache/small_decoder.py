"""Train a small decoder from scratch until it answers associative recall with the full cache."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retention.cache.phase import PhaseStep, TrainingPhase
from retention.cache.symbol_recall import PAD, SymbolRecall
from retention.errors import TrainingError, require_number

# share of the way from the shortest context to the whole one, and whether all keys, and keys with two values, occur
_LEVELS = (
    (0.0, False, False),
    (0.0, True, False),
    (0.0, True, True),
    (0.3, True, True),
    (0.6, True, True),
    (1.0, True, True),
)
_LAST_LEVEL = len(_LEVELS) - 1
_LEVEL_ACCURACY = 0.9
_WINDOW = 20
_BIAS = 2.0


@dataclass(frozen=True, kw_only=True)
class DecoderSettings:
    """Shape and training of the decoder.

    Attributes:
        layers: number of layers, >= 2: one looks up the key before a value, a later one finds the value of a key.
        width: hidden size, a multiple of ``heads``.
        heads: attention heads per layer.
        lr: learning rate of AdamW, reached after ``warmup`` steps.
        warmup: steps in which the learning rate grows from 0.
        batch: contexts per step.
        questions: questions per context.
        steps: steps at most.
        accuracy: training ends when the mean accuracy of the last 20 steps reaches this.

    Raises:
        ConfigError: a number is out of range.
    """

    layers: int = 2
    width: int = 64
    heads: int = 2
    lr: float = 3e-3
    warmup: int = 50
    batch: int = 32
    questions: int = 8
    steps: int = 3000
    accuracy: float = 0.995

    def __post_init__(self) -> None:
        require_number("layers", self.layers, low=2)
        require_number("heads", self.heads, low=1)
        require_number("width", self.width, low=2 * self.heads)
        require_number("lr", self.lr, above=0)
        require_number("warmup", self.warmup, low=0)
        require_number("batch", self.batch, low=1)
        require_number("questions", self.questions, low=1)
        require_number("steps", self.steps, low=1)
        require_number("accuracy", self.accuracy, above=0, high=1)

    @property
    def name(self) -> str:
        """Return a name for records."""
        return f"llama_{self.layers}x{self.width}_from_scratch"


def build_decoder(task: SymbolRecall, settings: DecoderSettings) -> Any:
    """Build a Llama with random weights from the global generator, and with biases in the attention."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=task.vocabulary,
        hidden_size=settings.width,
        intermediate_size=2 * settings.width,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        max_position_embeddings=task.context + 3 * settings.questions,
        pad_token_id=PAD,
        bos_token_id=None,
        eos_token_id=None,
        attention_bias=True,
        initializer_range=settings.width**-0.5,
    )
    model = LlamaForCausalLM(config)
    # Embeddings as large as what the layers add to them; with small ones, training did not learn to match keys.
    nn.init.normal_(model.model.embed_tokens.weight)
    # The first layer starts with attention that falls with distance, the same for all tokens: a value then holds a
    # trace of the key before it from the start, and training does not have to find that by chance.
    first = model.model.layers[0].self_attn
    shared = _BIAS * torch.sign(torch.randn_like(first.q_proj.bias))
    for projection in (first.q_proj, first.k_proj):
        projection.bias.data.copy_(shared)
    return model


@dataclass(frozen=True)
class DecoderStep(PhaseStep):
    """Result of one step of the decoder's training.

    Attributes:
        step: number of the step, from 1.
        steps: number of steps at most.
        loss: cross-entropy of the answers.
        context: tokens of the contexts of this step.
        accuracy: share of right answers in the batch, in [0, 1].
    """

    context: int
    accuracy: float


class DecoderPhase(TrainingPhase):
    """Training of a decoder on answers alone; contexts become longer and harder until they are those of the task.

    The next level begins whenever the mean accuracy of 20 steps reaches 90 %. The phase ends when the accuracy of the
    settings is reached on contexts of the task.

    Args:
        model: of ``build_decoder``, changed in place.
        task: settings of the contexts.
        settings: shape and training.
        generator: draws the contexts.
    """

    name = "decoder"

    def __init__(self, model: Any, task: SymbolRecall, settings: DecoderSettings, generator: torch.Generator) -> None:
        optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=0.01, betas=(0.9, 0.98))
        super().__init__(optimizer, settings.steps, generator, max_norm=1.0)
        self.model, self.task, self.settings = model, task, settings
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min(1.0, (step + 1) / (settings.warmup + 1))
        )
        self._level, self._recent = 0, deque[float](maxlen=_WINDOW)
        self._context, self._reached = 0, False

    @property
    def is_finished(self) -> bool:
        """Return True if the accuracy was reached."""
        return self._reached

    def advance(self, step: Callable[[], Any] | None = None) -> PhaseStep:
        """Do one step.

        Raises:
            TrainingError: the loss is not finite, or this was the last step and the accuracy was not reached.
        """
        result = super().advance(step)
        self._schedule.step()
        self._update_level()
        if self.done >= self.steps and not self._reached:
            reached = fmean(self._recent) if self._recent else 0.0
            raise TrainingError(
                f"the decoder reached {reached:.3f} of {self.settings.accuracy} on contexts of "
                f"{_at_level(self.task, self._level).context} tokens after {self.steps} steps (seed "
                f"{self.generator.initial_seed()}); raise its steps (--decoder-steps, or task.decoder.steps)"
            )
        return result

    def state_dict(self) -> dict[str, Any]:
        """Return the state with that of the levels and of the learning-rate schedule."""
        own = {"level": self._level, "recent": list(self._recent), "reached": self._reached}
        return {**super().state_dict(), **own, "schedule": self._schedule.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of ``state_dict``."""
        super().load_state_dict(state)
        self._level, self._reached = state["level"], state["reached"]
        self._recent.clear()
        self._recent.extend(state["recent"])
        self._schedule.load_state_dict(state["schedule"])

    def _loss(self) -> Tensor:
        batch = _at_level(self.task, self._level).batch(self.settings.batch, self.settings.questions, self.generator)
        logits = self.model(batch.chained(), use_cache=False, logits_to_keep=batch.answering()).logits
        self._context = batch.contexts.shape[1]
        self._recent.append(float((logits.argmax(-1) == batch.answers).float().mean()))
        return F.cross_entropy(logits.flatten(0, 1), batch.answers.flatten())

    def _result(self, loss: float) -> DecoderStep:
        return DecoderStep(self.done, self.steps, loss, self._context, self._recent[-1])

    def _update_level(self) -> None:
        if len(self._recent) < _WINDOW:
            return
        if self._level < _LAST_LEVEL and fmean(self._recent) >= _LEVEL_ACCURACY:
            self._level += 1
            self._recent.clear()
        elif self._level == _LAST_LEVEL:
            self._reached = fmean(self._recent) >= self.settings.accuracy


def train_decoder(
    task: SymbolRecall,
    settings: DecoderSettings,
    seed: int,
    on_step: Callable[[int, int, float], None] | None = None,
) -> Any:
    """Build and train a decoder, see ``DecoderPhase``.

    Args:
        task: settings of the contexts.
        settings: shape and training.
        seed: of weights and contexts.
        on_step: called with the step, the tokens of the context and the accuracy of the batch.

    Returns:
        The decoder, in evaluation mode.

    Raises:
        TrainingError: the accuracy was not reached.
    """
    torch.manual_seed(seed)
    phase = DecoderPhase(build_decoder(task, settings), task, settings, torch.Generator().manual_seed(seed))
    for result in phase.run():
        assert isinstance(result, DecoderStep)
        if on_step is not None:
            on_step(result.step, result.context, result.accuracy)
    return phase.model.eval()


def _at_level(task: SymbolRecall, level: int) -> SymbolRecall:
    """Return the task of a level: two keys first, then all, then keys with two values, then longer contexts."""
    stretch, has_all_keys, has_reassigned = _LEVELS[level]
    pairs = task.pairs if has_all_keys else min(2, task.pairs)
    reassigned = task.reassigned if has_reassigned else 0
    shortest = 1 + 2 * (pairs + reassigned)
    tail = int(stretch * task.tail)
    context = max(shortest + tail, shortest + int(stretch * (task.context - shortest)))
    return replace(task, pairs=pairs, reassigned=reassigned, tail=tail, context=context)
