"""Bound the key-value cache of Hugging Face decoders to M tokens per layer, chosen when they arrive."""

from retention.cache.budget import CacheBudget
from retention.cache.cache import RetentionCache, retain_cache
from retention.cache.policies import Arrivals, CachePolicy, KeyNorm, LearnedScores, RandomBank, StreamingLLM

__all__ = [
    "Arrivals",
    "CacheBudget",
    "CachePolicy",
    "KeyNorm",
    "LearnedScores",
    "RandomBank",
    "RetentionCache",
    "StreamingLLM",
    "retain_cache",
]
