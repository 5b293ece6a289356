"""Provide policies of the bounded cache: training-free baselines and learned scores."""

from retention.cache.policies.base import Arrivals, CachePolicy
from retention.cache.policies.key_norm import KeyNorm
from retention.cache.policies.learned import LearnedScores
from retention.cache.policies.random import RandomBank
from retention.cache.policies.streaming_llm import StreamingLLM

__all__ = ["Arrivals", "CachePolicy", "KeyNorm", "LearnedScores", "RandomBank", "StreamingLLM"]
