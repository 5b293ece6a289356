"""Retention policies: one file and one yaml each; a policy ranks tokens, it never gathers."""

from __future__ import annotations

from retention.policies.adaptive import Adaptive
from retention.policies.bases.retention_policy import RetentionPolicy
from retention.policies.dense import Dense
from retention.policies.random import Random
from retention.policies.retain import retain
from retention.policies.threshold import Threshold
from retention.policies.truncate import Truncate

__all__ = ["Adaptive", "Dense", "Random", "RetentionPolicy", "Threshold", "Truncate", "retain"]
