"""Provide policies of the bounded cache: training-free baselines and learned scores."""

from retention.cache.policies.base import Arrivals, CachePolicy, Observation, RescoringPolicy
from retention.cache.policies.expected_attention import ExpectedAttention
from retention.cache.policies.h2o import H2O
from retention.cache.policies.key_norm import KeyNorm
from retention.cache.policies.learned import LearnedScores
from retention.cache.policies.random import RandomBank
from retention.cache.policies.snapkv import SnapKV
from retention.cache.policies.streaming_llm import StreamingLLM
from retention.cache.policies.tova import TOVA

__all__ = [
    "H2O",
    "TOVA",
    "Arrivals",
    "CachePolicy",
    "ExpectedAttention",
    "KeyNorm",
    "LearnedScores",
    "Observation",
    "RandomBank",
    "RescoringPolicy",
    "SnapKV",
    "StreamingLLM",
]
