"""Bound the key-value cache of Hugging Face decoders to M tokens per layer."""

from retention.cache.budget import CacheBudget
from retention.cache.cache import RetentionCache, retain_cache
from retention.cache.policies import (
    H2O,
    TOVA,
    Arrivals,
    CachePolicy,
    ExpectedAttention,
    KeyNorm,
    LearnedScores,
    Observation,
    RandomBank,
    RescoringPolicy,
    SnapKV,
    StreamingLLM,
)

__all__ = [
    "H2O",
    "TOVA",
    "Arrivals",
    "CacheBudget",
    "CachePolicy",
    "ExpectedAttention",
    "KeyNorm",
    "LearnedScores",
    "Observation",
    "RandomBank",
    "RescoringPolicy",
    "RetentionCache",
    "SnapKV",
    "StreamingLLM",
    "retain_cache",
]
