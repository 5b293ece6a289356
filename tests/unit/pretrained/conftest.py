"""Fixtures of model folders: a tokenizer of 40 words, a tiny BERT, and embedders around it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from retention import Adaptive, Embedder
from retention.pretrained.sentence_files import EmbeddingSettings

WORDS = [f"w{index}" for index in range(40)]


def word_tokenizer() -> PreTrainedTokenizerFast:
    """Return a word tokenizer that puts [CLS] and [SEP] around a text; at most 32 tokens."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))  # type: ignore[assignment]
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend, model_max_length=32, **names
    )


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of 40 words."""
    return word_tokenizer()


@pytest.fixture
def bert() -> BertModel:
    """A random BERT encoder of four layers, far from uniform attention."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=44,
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        initializer_range=0.3,
    )
    return BertModel(config, add_pooling_layer=False).eval()


@pytest.fixture
def make_embedder(tokenizer: PreTrainedTokenizerFast, bert: BertModel) -> Callable[..., Embedder]:
    """``make_embedder(policy, settings, **options)``: an embedder; by default adaptive with a trained look."""

    def build(policy: Any = None, settings: Any = None, **options: Any) -> Embedder:
        torch.manual_seed(1)
        policy = Adaptive(rho=0.4).eval() if policy is None else policy
        settings = EmbeddingSettings(normalize=True) if settings is None else settings
        return Embedder.build(bert, tokenizer, policy, settings, **options).eval()

    return build


@pytest.fixture
def saved(make_embedder: Callable[..., Embedder], tmp_path: Path) -> Path:
    """A folder with an adaptive embedder."""
    folder = tmp_path / "model"
    make_embedder().save_pretrained(folder)
    return folder
