"""Adaptive token retention for Transformer encoders: remember less, lose nothing."""

from __future__ import annotations

__version__ = "0.1.0"
