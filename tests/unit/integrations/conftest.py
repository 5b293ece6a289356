"""Fixtures of model folders, shared with the tests of ``retention.pretrained``."""

from __future__ import annotations

from tests.unit.pretrained.conftest import bert, make_embedder, saved, tokenizer

__all__ = ["bert", "make_embedder", "saved", "tokenizer"]
