"""The adapter has the interface that mteb expects, and gives the embeddings of the model."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor

from retention.embedding_eval.mteb_encoder import MtebEncoder
from retention.errors import ConfigError


class Recorder:
    """Stand-in for an ``Embedder``: embeds a text as its length and remembers the arguments."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def encode(self, texts: list[str], **arguments: Any) -> Tensor:
        self.calls.append(arguments)
        return torch.tensor([[float(len(text)), 1.0] for text in texts])


def test_batches_are_embedded_in_order_at_the_keep_ratio() -> None:
    recorder = Recorder()
    encoder = MtebEncoder(recorder, rho=0.3, prompts={"query": "question"})  # type: ignore[arg-type]
    arguments: dict[str, Any] = {"task_metadata": None, "hf_split": "test", "hf_subset": "en"}
    embeddings = encoder.encode([{"text": ["a", "bbb"]}, {"text": ["cc"]}], **arguments, prompt_type="query")
    assert embeddings[:, 0].tolist() == [1.0, 3.0, 2.0]
    encoder.encode([{"text": ["a"]}], **arguments, prompt_type="document", batch_size=4)
    assert recorder.calls == [
        {"rho": 0.3, "batch_size": 32, "prompt_name": "question"},
        {"rho": 0.3, "batch_size": 4, "prompt_name": None},
    ]


def test_similarities_are_cosines() -> None:
    encoder = MtebEncoder(Recorder())  # type: ignore[arg-type]
    first, second = torch.tensor([[3.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    root = 0.5**0.5
    assert torch.allclose(encoder.similarity(first, second), torch.tensor([[root, 0.0], [root, 1.0]]))
    assert torch.allclose(encoder.similarity_pairwise(first.numpy(), second.numpy()), torch.tensor([root, 1.0]))
    assert encoder.similarity(first[0], second).shape == (1, 2)


def test_name_needs_an_owner() -> None:
    with pytest.raises(ConfigError, match="owner/model"):
        MtebEncoder(Recorder(), name="model")  # type: ignore[arg-type]


@pytest.mark.skipif(find_spec("mteb") is None, reason="mteb is not installed")
def test_adapter_satisfies_the_protocol_of_mteb() -> None:
    from mteb.models import EncoderProtocol

    assert {name for name in vars(EncoderProtocol) if not name.startswith("_")} <= set(dir(MtebEncoder))
