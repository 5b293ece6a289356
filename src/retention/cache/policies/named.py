"""Build policies of the bounded cache from the names that commands and records use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from retention.cache.policies.base import CachePolicy
from retention.cache.policies.expected_attention import ExpectedAttention
from retention.cache.policies.h2o import H2O
from retention.cache.policies.key_norm import KeyNorm
from retention.cache.policies.learned import LearnedScores
from retention.cache.policies.random import RandomBank
from retention.cache.policies.snapkv import SnapKV
from retention.cache.policies.streaming_llm import StreamingLLM
from retention.cache.policies.tova import TOVA
from retention.errors import require

FULL = "full"
LEARNED = "learned:"
_BUILDERS: dict[str, Callable[[int], CachePolicy]] = {
    "streaming_llm": lambda seed: StreamingLLM(),
    "random": RandomBank,
    "key_norm": lambda seed: KeyNorm(),
    "h2o": lambda seed: H2O(),
    "tova": lambda seed: TOVA(),
    "snapkv": lambda seed: SnapKV(),
    "expected_attention": lambda seed: ExpectedAttention(),
}
POLICIES = (FULL, *_BUILDERS)


def build_policies(names: list[str], scores: list[Path], seed: int) -> dict[str, CachePolicy | None]:
    """Build policies by name, and one of learned scores for each file.

    Args:
        names: of ``POLICIES``; ``full`` gives None, the full cache.
        scores: files of ``retention.cache.train``; their policies are called ``learned:<name of the file>``.
        seed: of the random policy.

    Raises:
        ConfigError: a name is unknown, or two files have the same name.
        CheckpointError: a file holds no scores.
    """
    for name in names:
        require(name in POLICIES, "policies", f"must be among {', '.join(POLICIES)}, got {name!r}")
    labels = [path.stem for path in scores]
    message = f"files of different names are told apart, got {', '.join(map(str, scores))}; rename one"
    require(len(set(labels)) == len(labels), "scores", message)
    built = {name: None if name == FULL else _BUILDERS[name](seed) for name in names}
    return built | {f"{LEARNED}{path.stem}": LearnedScores.load(path) for path in scores}
