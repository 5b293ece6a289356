"""Remove tokens inside Hugging Face encoders, by hooks and gathers."""

from __future__ import annotations

from retention.engine.adapters import adapter_for, adapters, encoder_of
from retention.engine.attention import engine_attention
from retention.engine.gate import Decision, Gate, LayerView
from retention.engine.report import ForwardReport
from retention.engine.retainer import Retainer
from retention.engine.state import ForwardState

__all__ = [
    "Decision",
    "ForwardReport",
    "ForwardState",
    "Gate",
    "LayerView",
    "Retainer",
    "adapter_for",
    "adapters",
    "encoder_of",
    "engine_attention",
]
