"""Provide models that turn texts into vectors, with token removal inside the encoder."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm  # type: ignore[import-untyped]
from transformers import BatchEncoding, PreTrainedTokenizerBase

from retention.engine import ForwardReport
from retention.errors import require
from retention.models.pooling import check_pooling, pool
from retention.policies.bases.retention_policy import RetentionPolicy
from retention.pretrained.encoder import RetentionEncoder
from retention.pretrained.folder import push_folder, resolve_folder, written_folder
from retention.pretrained.kept_tokens import KeptTokens
from retention.pretrained.model_files import load_tokenizer
from retention.pretrained.retention_files import RetentionSettings, read_pooling
from retention.pretrained.sentence_files import EmbeddingSettings, read_settings, write_settings
from retention.pretrained.text_rows import checked_texts, pad_rows, special_ids


class Embedder(nn.Module):
    """Encoder with token removal, tokenizer and pooling.

    A folder of ``save_pretrained`` is a model folder of Hugging Face (``AutoModel`` loads the encoder without removal)
    and of sentence-transformers.

    Args:
        encoder: encoder and policy.
        tokenizer: of the encoder.
        settings: pooling, normalization, prompts and length of the texts.

    Attributes:
        encoder: encoder and policy.
        tokenizer: of the encoder.
        settings: pooling, normalization, prompts and length of the texts.

    Raises:
        ConfigError: the pooling is unknown, or ``cls`` while the first token is not protected.
    """

    def __init__(
        self, encoder: RetentionEncoder, tokenizer: PreTrainedTokenizerBase, settings: EmbeddingSettings | None = None
    ) -> None:
        super().__init__()
        self.settings = EmbeddingSettings() if settings is None else settings
        check_pooling(self.settings.pooling)
        first = tokenizer.cls_token_id if tokenizer.cls_token_id is not None else tokenizer.bos_token_id
        safe = not encoder.gated_layers or first in encoder.retainer.protected_ids
        message = "cls reads the first token, which must be among protected_ids; choose another pooling or protect it"
        require(self.settings.pooling != "cls" or safe, "pooling", message)
        self.encoder = encoder
        self.tokenizer = tokenizer

    @classmethod
    def build(
        cls,
        encoder: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        policy: RetentionPolicy,
        settings: EmbeddingSettings | None = None,
        *,
        dropped: str = "forward",
        prune_at: str = "after_layer",
        protect: bool = True,
    ) -> Self:
        """Build an embedder from a Hugging Face encoder and a policy; the special tokens around a text are protected.

        Args:
            encoder: without a head.
            tokenizer: of the encoder.
            policy: retention policy.
            settings: pooling, normalization, prompts and length of the texts.
            dropped: see ``RetentionEncoder``.
            prune_at: see ``RetentionEncoder``.
            protect: False lets special tokens compete with the others.
        """
        ids = special_ids(tokenizer) if protect else ()
        retained = RetentionEncoder(encoder, policy, dropped=dropped, prune_at=prune_at, protected_ids=ids)
        return cls(retained, tokenizer, settings)

    @property
    def policy(self) -> RetentionPolicy:
        """Return the retention policy."""
        return self.encoder.policy

    @property
    def device(self) -> torch.device:
        """Return the device of the weights."""
        return self.encoder.device

    @property
    def dimension(self) -> int:
        """Return D, the length of an embedding."""
        return self.encoder.shape.hidden_size

    @property
    def max_seq_length(self) -> int:
        """Return the maximum number of tokens of a text, special tokens included; longer texts are truncated."""
        config = self.encoder.config
        table = self.encoder.retainer.adapter.position_table(config)
        limits = [int(self.tokenizer.model_max_length)]
        limits += [] if self.settings.max_seq_length is None else [self.settings.max_seq_length]
        limits += [] if table is None else [table.num_positions(config)]
        return min(limits)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        *,
        rho: float | None = None,
    ) -> Tensor:
        """Compute the embeddings of tokenized texts, [B, D]; differentiable.

        Args:
            input_ids: [B, T] long.
            attention_mask: [B, T], 1 = real token; None = all are real.
            token_type_ids: [B, T] long, for encoders with segment embeddings.
            rho: target keep ratio in (0, 1]; None = the default of the encoder.
        """
        encoded = self.encoder.encode(input_ids, attention_mask, token_type_ids, rho=rho)
        pooled = pool(encoded, self.settings.pooling)
        return F.normalize(pooled, dim=-1) if self.settings.normalize else pooled

    def encode(
        self,
        texts: Iterable[str],
        rho: float | None = None,
        batch_size: int = 32,
        show_progress: bool = False,
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        on_report: Callable[[ForwardReport], None] | None = None,
    ) -> Tensor:
        """Compute the embeddings of texts, [N, D] float on the CPU, in the order of ``texts``.

        Texts of similar length share a batch; the embedding of a text does not depend on the others.

        Args:
            texts: list of N texts.
            rho: target keep ratio in (0, 1]; None = the default of the encoder.
            batch_size: texts per forward pass, >= 1.
            show_progress: show a progress bar.
            prompt: put in front of every text; None = the prompt called ``prompt_name``.
            prompt_name: one of the model's prompts; None = its default prompt, if it has one.
            on_report: called with the report of every batch: kept tokens of each text and layer.

        Raises:
            ConfigError: ``texts`` is a single string or holds anything but strings; ``rho``, ``batch_size`` or the
                name of the prompt cannot be used.
        """
        whole = isinstance(batch_size, int) and not isinstance(batch_size, bool) and batch_size >= 1
        require(whole, "batch_size", f"must be a whole number >= 1, got {batch_size!r}")
        listed = checked_texts(texts)
        result = torch.empty(len(listed), self.dimension)
        if not listed:
            return result
        encodings = self._tokenize(self._full_texts(listed, prompt, prompt_name))
        rows: list[list[int]] = encodings["input_ids"]
        order = sorted(range(len(rows)), key=lambda row: len(rows[row]), reverse=True)
        with torch.inference_mode(), tqdm(total=len(rows), disable=not show_progress, unit="text") as progress:
            for start in range(0, len(order), batch_size):
                indices = order[start : start + batch_size]
                input_ids, mask = self._batch([rows[index] for index in indices])
                result[indices] = self(input_ids, mask, rho=rho).float().cpu()
                if on_report is not None:
                    on_report(self.encoder.report)
                progress.update(len(indices))
        return result

    def kept_tokens(
        self, text: str, rho: float | None = None, *, prompt: str | None = None, prompt_name: str | None = None
    ) -> KeptTokens:
        """Return the tokens of a text and through how many gates each of them went.

        The offsets refer to ``text`` of the result, which is in lower case with ``settings.do_lower_case``.

        Args:
            text: any text.
            rho: see ``encode``.
            prompt: see ``encode``.
            prompt_name: see ``encode``.

        Raises:
            ConfigError: as ``encode``.
        """
        [full] = self._full_texts(checked_texts([text]), prompt, prompt_name)
        encodings = self._tokenize([full], offsets=True)
        input_ids, mask = self._batch(encodings["input_ids"])
        with torch.inference_mode():
            encoded = self.encoder.encode(input_ids, mask, rho=rho)
        ids: list[int] = encodings["input_ids"][0]
        return KeptTokens(
            text=full,
            tokens=tuple(cast("list[str]", self.tokenizer.convert_ids_to_tokens(ids))),
            offsets=tuple((start, end) for start, end in encodings["offset_mapping"][0]),
            depth=tuple(encoded.gates_passed(len(ids))[0].tolist()),
            layers=self.encoder.gated_layers,
        )

    def save_pretrained(self, folder: str | Path, *, details: str = "") -> None:
        """Write a model folder, completely or not at all; see ``RetentionEncoder.save_pretrained``.

        Args:
            folder: new or empty, or a folder of a retained model, which is replaced.
            details: further sections of the model card, in Markdown.

        Raises:
            DataError: the folder holds other files.
            ConfigError: ``AutoModel`` could not load the encoder, or the policy cannot be saved.
        """
        with written_folder(folder) as target:
            tokenizer = copy.deepcopy(self.tokenizer)  # other libraries truncate at this key; ours may have a stale one
            tokenizer.init_kwargs["max_length"] = self.max_seq_length
            self.encoder.write(target, tokenizer, self.retention_settings, details)
            write_settings(target, self.settings, self.dimension, retained=bool(self.encoder.gated_layers))

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        commit_message: str = "Upload model",
    ) -> str:
        """Upload the model folder to the Hugging Face hub, see ``RetentionEncoder.push_to_hub``."""
        return push_folder(self.save_pretrained, repo_id, private=private, token=token, commit_message=commit_message)

    @property
    def retention_settings(self) -> RetentionSettings:
        """Return the settings that are saved with the policy."""
        return replace(self.encoder.settings, pooling=self.settings.pooling)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        rho: float | None = None,
        *,
        pooling: str | None = None,
        normalize: bool | None = None,
        max_seq_length: int | None = None,
        device: str | torch.device = "cpu",
        revision: str | None = None,
        token: str | None = None,
        attn_implementation: str | None = None,
        classes: Iterable[type] = (),
    ) -> Self:
        """Load a model folder: a retained model, a sentence-transformers model or a plain encoder.

        A model without a policy keeps every token. A plain encoder is read by the mean of its tokens, without
        normalization. See ``RetentionEncoder.from_pretrained`` for what is not executed.

        Args:
            name: a folder, or the name of a model on the Hugging Face hub.
            rho: target keep ratio in (0, 1] of calls that give none, saved with the model; None = the one that the
                folder was saved with, else that of the policy.
            pooling: one of ``retention.models.pooling.POOLINGS``; None = as the folder says.
            normalize: None = as the folder says.
            max_seq_length: None = as the folder says.
            device: device of the weights.
            revision: branch, tag or commit on the hub.
            token: access token of the hub.
            attn_implementation: see ``RetentionEncoder.from_pretrained``.
            classes: see ``RetentionEncoder.from_pretrained``.

        Returns:
            The model in evaluation mode.

        Raises:
            CheckpointError: the folder does not exist, is incomplete, is not safe to load, or holds a
                sentence-transformers model with other parts than encoder, pooling and normalization.
            ConfigError: a setting or the family is not supported.
        """
        folder = resolve_folder(name, revision=revision, token=token)
        settings = read_settings(folder) or EmbeddingSettings()
        pooling = pooling or read_pooling(folder)
        changes: dict[str, Any] = {"pooling": pooling, "normalize": normalize, "max_seq_length": max_seq_length}
        settings = replace(settings, **{key: value for key, value in changes.items() if value is not None})
        encoder = RetentionEncoder.from_pretrained(
            folder, rho, device=device, attn_implementation=attn_implementation, classes=classes
        )
        return cls(encoder, load_tokenizer(folder), settings).eval()

    def _full_texts(self, texts: list[str], prompt: str | None, prompt_name: str | None) -> list[str]:
        """Return the texts as they are tokenized: with the prompt, and in lower case if the settings say so."""
        start = self._prompt(prompt, prompt_name)
        full = [start + text for text in texts]
        return [text.lower() for text in full] if self.settings.do_lower_case else full

    def _prompt(self, prompt: str | None, prompt_name: str | None) -> str:
        if prompt is not None:
            return prompt
        name = self.settings.default_prompt_name if prompt_name is None else prompt_name
        if name is None:
            return ""
        names = ", ".join(sorted(self.settings.prompts)) or "it has none"
        require(
            name in self.settings.prompts, "prompt_name", f"must be one of the model's prompts ({names}), got {name!r}"
        )
        return self.settings.prompts[name]

    def _tokenize(self, texts: list[str], *, offsets: bool = False) -> BatchEncoding[Any]:
        encodings: BatchEncoding[Any] = self.tokenizer(
            texts,
            truncation=True,
            max_length=self.max_seq_length,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            return_offsets_mapping=offsets,
        )
        return encodings

    def _batch(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        padding = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else 0
        input_ids, mask = pad_rows(rows, int(cast(Any, padding)))
        return input_ids.to(self.device), mask.to(self.device)
