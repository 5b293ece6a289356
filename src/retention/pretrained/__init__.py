"""Provide retained models as folders: save, load and share an encoder together with its retention policy."""

from retention.pretrained.embedder import Embedder
from retention.pretrained.encoder import RetentionEncoder, RetentionOutput
from retention.pretrained.kept_tokens import KeptTokens
from retention.pretrained.with_head import load_retained, save_retained

__all__ = ["Embedder", "KeptTokens", "RetentionEncoder", "RetentionOutput", "load_retained", "save_retained"]
