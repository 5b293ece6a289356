"""Let the package mteb evaluate an embedding model at a keep ratio.

    model = MtebEncoder(retention.Embedder.from_pretrained("<folder>"), rho=0.3, name="<owner>/<model>")
    mteb.evaluate(model, mteb.get_tasks(["STSBenchmark"]))

Written for mteb 2 (its ``EncoderProtocol``). mteb is installed separately: ``pip install mteb``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from retention.errors import require
from retention.pretrained import Embedder


class MtebEncoder:
    """Embedding model with the interface that mteb expects of an encoder.

    Args:
        model: embedding model.
        rho: target keep ratio in (0, 1]; None = the model's own.
        name: ``owner/model``, under which mteb stores results; the keep ratio is part of the revision.
        prompts: type of a prompt (``query`` or ``document``) -> name of one of the model's prompts.

    Raises:
        ConfigError: ``name`` has no owner.
    """

    def __init__(
        self,
        model: Embedder,
        rho: float | None = None,
        *,
        name: str = "local/model",
        prompts: Mapping[str, str] | None = None,
    ) -> None:
        require(name.count("/") == 1, "name", f"must be owner/model, got {name!r}")
        self._model = model
        self._rho = rho
        self._name = name
        self._prompts = dict(prompts or {})

    @property
    def mteb_model_meta(self) -> Any:
        """Return mteb's description of the model: name and revision; mteb must be installed."""
        from mteb.models import ModelMeta  # not a dependency

        encoder = self._model.encoder
        revision = f"rho-{self._rho or encoder.default_rho:g}" if encoder.gated_layers else "dense"
        return ModelMeta.create_empty(overwrites={"name": self._name, "revision": revision})

    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any = None,
        hf_split: str = "",
        hf_subset: str = "",
        prompt_type: Any = None,
        batch_size: int = 32,
        **_: Any,
    ) -> Tensor:
        """Compute the embeddings of all texts, [N, D], in their order.

        Args:
            inputs: batches with the list ``text``, such as a data loader.
            task_metadata: of the task; not used.
            hf_split: split of the task; not used.
            hf_subset: subset of the task; not used.
            prompt_type: ``query``, ``document`` or None; chooses the prompt.
            batch_size: texts per forward pass.
        """
        texts: list[str] = [text for batch in inputs for text in batch["text"]]
        prompt_name = (
            None if prompt_type is None else self._prompts.get(str(getattr(prompt_type, "value", prompt_type)))
        )
        return self._model.encode(texts, rho=self._rho, batch_size=batch_size, prompt_name=prompt_name)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Compute the cosine of all pairs, [N, M]."""
        first, second = (F.normalize(_as_rows(values), dim=-1) for values in (embeddings1, embeddings2))
        return first @ second.T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Compute the cosine of corresponding rows, [N]."""
        return F.cosine_similarity(_as_rows(embeddings1), _as_rows(embeddings2), dim=-1)


def _as_rows(values: Tensor | Sequence[Any]) -> Tensor:
    """Return embeddings [N, D] or a single one [D] as a tensor [N, D]."""
    tensor = torch.as_tensor(values).float()
    return tensor.unsqueeze(0) if tensor.ndim == 1 else tensor
