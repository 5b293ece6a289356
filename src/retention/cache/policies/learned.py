"""Learned scores: the paper's gate, an MLP or a linear layer on the hidden states of each layer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from retention.cache.families import HeadCounts
from retention.cache.policies.base import Arrivals, CachePolicy, TokenScorer
from retention.core.scorer import GatedScorer, Scorer, ScorerConfig, build_scorer
from retention.core.summary import previous_summary
from retention.errors import CheckpointError, require
from retention.json_text import parse_json
from retention.records import write_atomic

_METADATA = "retention_cache"


class LearnedScores(CachePolicy):
    """Score tokens with one scorer per layer, from the hidden state and the running summary of the states before it.

    The summary (eq. 3) is causal and is continued from chunk to chunk, so scores do not depend on the chunks. ``mlp``
    and ``linear`` read the token's state alone, as KVzap does (arXiv 2601.07891).

    Args:
        hidden_size: D of the decoder.
        num_layers: number of its layers.
        config: kind and width of the scorers; ``bidirectional`` is refused, as later tokens are not known.
        heads: scores per token and layer: 1, or one for each key-value head of the decoder, which needs a cache with
            ``CacheBudget.per_head``.

    Attributes:
        origin: how the scorers were trained, plain values for records; empty if unknown.

    Raises:
        ConfigError: the scorer looks ahead, or ``heads`` is out of range.
    """

    def __init__(
        self, hidden_size: int, num_layers: int, config: ScorerConfig | None = None, *, heads: int = 1
    ) -> None:
        super().__init__()
        self.config = config or ScorerConfig()
        message = "a token is scored when it arrives, before later tokens are known; set it to False"
        require(not self.config.bidirectional, "bidirectional", message)
        require(heads >= 1, "heads", f"must be >= 1, got {heads}")
        self.hidden_size = hidden_size
        self.heads = heads
        self.origin: dict[str, Any] = {}
        self.scorers = nn.ModuleList([_build(self.config, hidden_size, heads) for _ in range(num_layers)])

    @classmethod
    def for_model(
        cls, model: nn.Module, config: ScorerConfig | None = None, *, per_head: bool = False
    ) -> LearnedScores:
        """Build untrained scorers for the layers of ``model``, with one score per key-value head if ``per_head``."""
        settings: Any = model.config
        heads = HeadCounts.of(settings).key_value if per_head else 1
        return cls(int(settings.hidden_size), int(settings.num_hidden_layers), config, heads=heads)

    def check(self, config: Any) -> None:
        """Check width, number of layers, and number of heads if each has a score."""
        expected, ours = (config.hidden_size, config.num_hidden_layers), (self.hidden_size, len(self.scorers))
        message = f"built for (hidden_size, layers) = {ours}, but the model has {expected}"
        require(ours == expected, "policy", message)
        heads = HeadCounts.of(config).key_value
        message = f"gives scores for {self.heads} key-value heads, but the model has {heads}"
        require(self.heads in (1, heads), "policy", message)

    def score(self, arrivals: Arrivals) -> Tensor:
        """Return the scores of the layer's scorer, [B, Q] or [B, heads, Q], and continue its running summary."""
        scorer = self.scorers[arrivals.layer_idx]
        hidden_states = arrivals.hidden_states.to(next(scorer.parameters()).dtype)
        if isinstance(scorer, StreamingGatedScorer):
            scores, arrivals.state = scorer.continue_from(arrivals.state, hidden_states, arrivals.valid)
        else:
            scores = scorer(hidden_states)
        return scores if self.heads == 1 else scores.transpose(1, 2)

    def token_scorer(self) -> TokenScorer:
        """Return a function that computes the gates of all layers together, from a copy of their weights."""
        gates = [scorer for scorer in self.scorers if isinstance(scorer, StreamingGatedScorer)]
        changed = type(self).score is not LearnedScores.score  # by a subclass
        return super().token_scorer() if changed or not gates else StackedGates(gates).score

    def save(self, path: str | Path) -> None:
        """Write settings and weights to one safetensors file; the settings are JSON in its metadata.

        The file is written under a temporary name and renamed: readers see the old file or the new one.
        """
        settings = {
            "hidden_size": self.hidden_size,
            "num_layers": len(self.scorers),
            "heads": self.heads,
            "scorer": asdict(self.config),
        }
        weights = {name: weight.detach().cpu().contiguous() for name, weight in self.state_dict().items()}
        metadata = {_METADATA: json.dumps({"settings": settings, "origin": self.origin})}
        write_atomic(Path(path), save(weights, metadata))

    @classmethod
    def load(cls, path: str | Path) -> LearnedScores:
        """Load a safetensors file that ``save`` wrote; it is read as data, without executing code.

        Raises:
            CheckpointError: the file cannot be read or is no such file.
        """
        try:
            with safe_open(path, framework="pt", device="cpu") as stored:
                described = parse_json(stored.metadata()[_METADATA])
                weights = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (no mapping)
            settings = described["settings"]
            heads = settings.get("heads", 1)  # files of earlier versions have one score for all heads
            config = ScorerConfig(**settings["scorer"])
            policy = cls(settings["hidden_size"], settings["num_layers"], config, heads=heads)
            policy.load_state_dict(weights)
            policy.origin = dict(described["origin"])
        except Exception as error:
            message = f"{path}: no scorers of a bounded cache; make the file with `python -m retention.cache.train`"
            raise CheckpointError(f"{message} ({error})") from error
        return policy.eval()


class StreamingGatedScorer(GatedScorer):
    """Gated scorer of eq. 3 that continues its running summary from one chunk to the next."""

    def continue_from(self, state: Tensor | None, hidden_states: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the scores of a chunk and the summary after it.

        Args:
            state: summary m after the chunks before, [B, R]; None = zeros.
            hidden_states: [B, Q, D].
            valid: [B, Q] bool; padding leaves the summary as it is.

        Returns:
            Scores [B, Q], or [B, Q, outputs] for several outputs, and the new summary [B, R].
        """
        normed = self._normalize(hidden_states)
        if hidden_states.shape[1] == 1:
            return self._next(state, normed, valid)
        projected = self.summary(normed).masked_fill(~valid.unsqueeze(2), 0.0)
        weights = valid.to(projected.dtype)
        # one more column of weight 0 gives the summary after the last token
        means = previous_summary(
            nn.functional.pad(projected, (0, 0, 0, 1)), self.decay, nn.functional.pad(weights, (0, 1))
        )
        if state is not None:
            before = nn.functional.pad(weights.cumsum(1), (1, 0)).unsqueeze(2)
            means = means + self.decay**before * state.unsqueeze(1)
        scores: Tensor = self.out(torch.tanh(self.state(normed) + means[:, :-1]))
        return scores.squeeze(-1), means[:, -1]

    def _next(self, state: Tensor | None, normed: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Compute score and summary of a single token with few operations, as decoding does this in every layer."""
        projected, context = self.summary(normed).squeeze(1), self.state(normed)
        before = torch.zeros_like(projected) if state is None else state
        scores: Tensor = self.out(torch.tanh(context + before.unsqueeze(1)))
        return scores.squeeze(-1), torch.where(valid, torch.lerp(before, projected, 1.0 - self.decay), before)


class StackedGates:
    """Gated scorers of all layers with their weights side by side, for one token at a time.

    Args:
        scorers: of the L layers; their weights are copied.
    """

    def __init__(self, scorers: Sequence[StreamingGatedScorer]) -> None:
        with torch.no_grad():
            inner = [torch.cat([scorer.state.weight, scorer.summary.weight]).T for scorer in scorers]
            self._inner = torch.stack(inner)  # [L, D, 2 R]
            self._out = torch.stack([scorer.out.weight.T for scorer in scorers])  # [L, R, outputs]
            self._bias = torch.stack([scorer.out.bias for scorer in scorers]).unsqueeze(1)
        self._decay = scorers[0].decay

    def score(self, arrivals: Sequence[Arrivals], states: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the scores [L, B, outputs, 1] of one token and the summaries after it, see ``TokenScorer``."""
        hidden_states = torch.stack([each.hidden_states[:, 0] for each in arrivals]).to(self._inner.dtype)
        normed = nn.functional.layer_norm(hidden_states, hidden_states.shape[-1:])
        context, projected = torch.bmm(normed, self._inner).chunk(2, dim=2)
        before = torch.zeros_like(projected) if states is None else states
        scores = torch.baddbmm(self._bias, torch.tanh(context + before), self._out)
        return scores.unsqueeze(3), torch.lerp(before, projected, 1.0 - self._decay)


def _build(config: ScorerConfig, hidden_size: int, outputs: int) -> Scorer:
    if config.scorer_kind == "gated":
        return StreamingGatedScorer(hidden_size, config, outputs=outputs)
    return build_scorer(config, hidden_size, outputs=outputs)
