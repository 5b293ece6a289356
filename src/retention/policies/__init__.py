"""Provide retention policies, one per file; a policy ranks tokens and the engine removes them.

Policy classes are imported on first access. This package needs torch and transformers only.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from retention.policies.bases.retention_policy import RetentionPolicy
from retention.policies.retain import retain

if TYPE_CHECKING:
    from retention.core.hard_concrete import GateConfig
    from retention.core.scorer import ScorerConfig
    from retention.policies.adaptive import Adaptive
    from retention.policies.adaptive_attention import AdaptiveAttention
    from retention.policies.adaptive_corpus import AdaptiveCorpus
    from retention.policies.attention_topk import AttentionTopK
    from retention.policies.dense import Dense
    from retention.policies.early_exit import EarlyExit
    from retention.policies.h2o import H2O
    from retention.policies.infor_coef import InforCoef
    from retention.policies.input_truncation import InputTruncation
    from retention.policies.key_norm import KeyNorm
    from retention.policies.length_adaptive import LengthAdaptive
    from retention.policies.ltc import LTC
    from retention.policies.ltp import LTP
    from retention.policies.mrt5 import MrT5
    from retention.policies.power_bert import PowerBert
    from retention.policies.random import Random
    from retention.policies.threshold import Threshold
    from retention.policies.tome import ToMe
    from retention.policies.top import ToP
    from retention.policies.tr_bert import TRBert
    from retention.policies.transkimmer import Transkimmer
    from retention.policies.truncate import Truncate

__all__ = [
    "H2O",
    "LTC",
    "LTP",
    "Adaptive",
    "AdaptiveAttention",
    "AdaptiveCorpus",
    "AttentionTopK",
    "Dense",
    "EarlyExit",
    "GateConfig",
    "InforCoef",
    "InputTruncation",
    "KeyNorm",
    "LengthAdaptive",
    "MrT5",
    "PowerBert",
    "Random",
    "RetentionPolicy",
    "ScorerConfig",
    "TRBert",
    "Threshold",
    "ToMe",
    "ToP",
    "Transkimmer",
    "Truncate",
    "retain",
]
_SETTINGS = {"GateConfig": "retention.core.hard_concrete", "ScorerConfig": "retention.core.scorer"}


def __getattr__(name: str) -> Any:
    """Import a policy class or its settings by name."""
    if name in _SETTINGS:
        return getattr(import_module(_SETTINGS[name]), name)
    if not name.startswith("_"):
        from retention.policies.registry import built_in_policies

        for policy in built_in_policies().values():
            if policy.__name__ == name:
                return policy
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the public names, including those that are not imported yet."""
    return sorted({*globals(), *__all__})
