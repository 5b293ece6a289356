"""Log what the bounded cache of a decoder costs, and which tokens it holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from retention.cache import CacheBudget, LearnedScores, retain_cache
from retention.cache.bench import decoding_cost
from retention.cache.reading import TokenBatch, read_context
from retention.callbacks.totals import log_epoch
from retention.errors import require
from retention.records import write_atomic

FILE_NAME = "kept_positions.json"
_QUARTERS = 4


class WatchedDecoder(Protocol):
    """LightningModule of a decoder as the callbacks see it."""

    @property
    def decoder(self) -> Any:
        """Decoder with a language-model head."""

    @property
    def scores(self) -> LearnedScores:
        """Scorers of the bounded cache."""

    @property
    def budget(self) -> CacheBudget:
        """Budget of the cache."""

    @property
    def sample(self) -> Tensor:
        """Text that the callbacks read, [1, T]."""


class DecodingCost(Callback):
    """Log memory and speed of the bounded cache beside the full one, after a test.

    The prompt is a validation text. ``perf/cache_bytes`` are the keys and values of all layers after the last token,
    ``perf/prefill_tokens_per_s`` covers the prompt, ``perf/decode_tokens_per_s`` the new tokens (one at a time, the
    median). The same with ``full_`` is the full cache.

    Args:
        new_tokens: tokens to write after the prompt, >= 2.

    Raises:
        ConfigError: ``new_tokens`` is out of range.
    """

    def __init__(self, *, new_tokens: int = 16) -> None:
        require(new_tokens >= 2, "new_tokens", f"must be >= 2, got {new_tokens}")
        self.new_tokens = new_tokens
        self._summary: dict[str, float] = {}

    def summary(self) -> dict[str, float]:
        """Return the values of the last test; {} before any."""
        return dict(self._summary)

    @override
    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        watched = cast(WatchedDecoder, pl_module)
        positions = getattr(watched.decoder.config, "max_position_embeddings", None)
        prompt = watched.sample if positions is None else watched.sample[:, : positions - self.new_tokens - 2]
        self._summary = {}
        for prefix, policy in (("", watched.scores), ("full_", None)):
            cost = decoding_cost(watched.decoder, prompt, policy, watched.budget, new_tokens=self.new_tokens)
            self._summary |= {
                f"{prefix}cache_bytes": float(cost.cache_bytes),
                f"{prefix}prefill_tokens_per_s": cost.length / cost.prefill_s,
                f"{prefix}decode_tokens_per_s": 1000.0 / cost.ms_per_token["median"],
            }
        log_epoch(pl_module, {f"perf/{name}": value for name, value in self._summary.items()})


class KeptPositions(Callback):
    """Log which tokens the cache holds after a validation text, in validation and testing.

    Only tokens between sinks and window count. ``retention/mean_position/layer_k`` is the mean of their positions as a
    share of the text, in [0, 1] (0 = its start); ``retention/kept_quarter_i`` is the share of them, of all layers
    together, that lies in the i-th quarter of the text, oldest first. After a test ``kept_positions.json`` holds the
    positions of each layer.

    Args:
        dirpath: the run folder.

    Raises:
        ConfigError: ``dirpath`` is empty.
    """

    def __init__(self, *, dirpath: str) -> None:
        require(bool(dirpath), "dirpath", "is empty; give the run folder")
        self.dirpath = Path(dirpath)
        self._summary: dict[str, Any] = {}

    def summary(self) -> dict[str, Any]:
        """Return ``mean_position`` (layer_idx -> value) and ``quarters`` of the last run; {} before any."""
        return dict(self._summary)

    @override
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._log(pl_module)

    @override
    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        kept = self._log(pl_module)
        length = cast(WatchedDecoder, pl_module).sample.shape[1]
        content = {"tokens": length, "kept": {str(layer): positions.tolist() for layer, positions in enumerate(kept)}}
        write_atomic(self.dirpath / FILE_NAME, json.dumps(content) + "\n")

    def _log(self, module: LightningModule) -> list[Tensor]:
        watched = cast(WatchedDecoder, module)
        length = watched.sample.shape[1]
        kept = bank_positions(watched.decoder, watched.scores, watched.budget, watched.sample)
        shares = [positions.float() / max(1, length - 1) for positions in kept]
        quarters = torch.cat(shares).mul(_QUARTERS).long().clamp_max(_QUARTERS - 1).bincount(minlength=_QUARTERS)
        counted = max(1, int(quarters.sum()))
        self._summary = {
            "mean_position": {layer: float(share.mean()) for layer, share in enumerate(shares) if len(share)},
            "quarters": [float(count) / counted for count in quarters],
        }
        means = self._summary["mean_position"]
        values = {f"retention/mean_position/layer_{layer}": value for layer, value in means.items()}
        values |= {f"retention/kept_quarter_{i}": share for i, share in enumerate(self._summary["quarters"], start=1)}
        log_epoch(module, values)
        return kept


@torch.no_grad()
def bank_positions(model: Any, policy: LearnedScores, budget: CacheBudget, text: Tensor) -> list[Tensor]:
    """Read a text [1, T] and return the positions that each layer holds between sinks and window, [N] long each."""
    with retain_cache(model, policy, budget) as cache:
        read_context(model, cache, TokenBatch.build([text[0]]))
        kept = [positions.flatten() for positions in cache.kept]
    first, end = budget.sinks, text.shape[1] - budget.window
    return [positions[(positions >= first) & (positions < end)] for positions in kept]
