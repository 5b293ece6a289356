"""Use retained models in sentence-transformers, with ``model.encode(texts, rho=0.3)``.

Needs the extra ``sentence-transformers``. A folder of ``Embedder.save_pretrained`` or of ``save`` of a model of the
library is loaded by ``load(folder)``, or by ``SentenceTransformer(folder, trust_remote_code=True)``: the library asks
for that flag whenever a module comes from another package. ``load`` also makes a ``CrossEncoder`` of a folder that
``save_retained`` wrote of a sequence classifier, such as a pruned reranker.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.base.modules.transformer import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from retention.engine import Retainer
from retention.engine.encoder_call import first_text_tokens, protected_tokens
from retention.errors import CheckpointError, ConfigError, Problem, require
from retention.models.encoded import Encoded
from retention.models.pooling import check_pooling
from retention.models.pretrained_classifier import SUFFIX as CLASSIFIER
from retention.policies.bases.retention_policy import RetentionPolicy
from retention.policies.retain import retain
from retention.pretrained.budget import budget_of_call, check_rho
from retention.pretrained.folder import resolve_folder
from retention.pretrained.model_files import checked_config, load_model
from retention.pretrained.retention_files import RetentionSettings, read_retention, write_retention
from retention.pretrained.sentence_files import (
    RETENTION_MODULE,
    is_library_folder,
    model_kind,
    pooling_includes_prompt,
)
from retention.pretrained.text_rows import special_ids

_WEIGHTED = {"depth", "survivors"}  # poolings that are a mean with weights of our own


class RetentionTransformer(Transformer):
    """First module of a model of the library: its ``Transformer``, with token removal between the layers.

    Made by ``with_retention`` or by loading a folder.

    Attributes:
        policy: retention policy.
        retainer: removes the tokens; its ``report`` tells what the last pass kept.
    """

    forward_kwargs = {"rho"}  # noqa: RUF012  # as the base class declares it

    policy: RetentionPolicy
    retainer: Retainer

    _separators: tuple[int, ...] = ()
    # The pooling that reads this module's output, in a tuple because it is no submodule; empty = as the folder says.
    _pooling: tuple[Pooling, ...] = ()
    _includes_prompt: bool = True

    def attach(self, policy: RetentionPolicy, settings: RetentionSettings) -> Self:
        """Attach a policy to a module that has a model; return the module.

        Args:
            policy: retention policy; it is built for the model if it has not been.
            settings: of the removal; its ``budgets`` are replaced by those of the policy.

        Raises:
            ConfigError: the model does not fit the policy or a setting, see ``retain``; the tokenizer puts no separator
                between the texts of a pair, which ``protect_query`` needs.
        """
        check_pooling(settings.pooling or "mean")
        if settings.protect_query:
            self._separators = _pair_separators(self.tokenizer)
        self.policy = policy
        self.retainer = retain(
            self.model,
            policy,
            protected_ids=settings.protected_ids,
            dropped=settings.dropped,
            prune_at=settings.prune_at,
        )
        self._settings = replace(settings, budgets=policy.budget_range)
        self.unpad_inputs = False  # removal needs one row per text
        return self

    def forward(self, features: dict[str, Any], rho: float | None = None, **kwargs: Any) -> dict[str, Any]:
        """Run the model with token removal.

        Args:
            features: of ``preprocess``; they stay as they are.
            rho: target keep ratio in (0, 1]; None = the one that the folder was saved with, else that of the policy.
            **kwargs: see ``Transformer``.

        Returns:
            A copy of the features, with ``token_embeddings`` or ``scores``. ``attention_mask`` marks the tokens that a
            pooling reads, and is as long as the token embeddings.
        """
        mask = features["attention_mask"]
        target = self._settings.rho if rho is None else rho
        budget = budget_of_call(self.policy, check_rho(self.policy, target))
        with budget, self.retainer, self._protection(features["input_ids"], mask):
            features = super().forward({**features}, **kwargs)
        if (states := features.get("token_embeddings")) is not None:
            self._weigh(features, Encoded.from_pass(states, mask, self.retainer), mask)
        return features

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """Write model, tokenizer and policy."""
        super().save(output_path, *args, **kwargs)
        write_retention(Path(output_path), self.policy, self._settings)

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **options: Any) -> Self:  # type: ignore[override]
        """Load model, tokenizer and policy; the folder's policy is data, see ``RetentionEncoder.from_pretrained``."""
        root = resolve_folder(model_name_or_path, revision=options.get("revision"), token=options.get("token"))
        folder = root / subfolder if subfolder else root
        module = super().load(str(folder), **{**options, "subfolder": ""})
        stored = read_retention(folder, module.model)
        if "attention" in stored.policy.observes:
            module.model.set_attn_implementation("eager")
        module._includes_prompt = pooling_includes_prompt(root)
        return module.attach(stored.policy, stored.settings)

    def link(self, model: Iterable[torch.nn.Module]) -> None:
        """Follow the pooling of a model whose first module this is, which may leave the prompt out."""
        self._pooling = tuple(module for module in model if isinstance(module, Pooling))

    def _weigh(self, features: dict[str, Any], encoded: Encoded, mask: Tensor) -> None:
        """Tell the pooling which tokens to read, and how to weigh them."""
        if self._settings.pooling == "depth":
            encoded = encoded.depth_weighted()
        elif self._settings.pooling == "survivors":
            encoded = encoded.survivor_weighted()
        weighted = self._settings.pooling in _WEIGHTED or self.training
        if (weighted or self._settings.dropped == "cut") and not self._reads_prompt() and "prompt_length" in features:
            # The library would leave out the first columns, which need not be those of the prompt any more.
            prompt_length = int(torch.as_tensor(features.pop("prompt_length")).flatten()[0])
            encoded = _without_prompt(encoded, mask, prompt_length)
        features["attention_mask"] = (encoded.weights > 0).long()
        if weighted:
            weights = encoded.weights.to(encoded.hidden_states.dtype)
            features["token_embeddings"] = encoded.hidden_states * weights.unsqueeze(-1)
            features["token_weights_sum"] = weights.sum(1)

    def _reads_prompt(self) -> bool:
        """Return True if the pooling reads the tokens of the prompt."""
        return all(each.include_prompt for each in self._pooling) if self._pooling else self._includes_prompt

    def _protection(self, input_ids: Tensor, mask: Tensor) -> AbstractContextManager[None]:
        """Return a context that also protects the first text of each pair."""
        if not self._settings.protect_query:
            return nullcontext()
        query = first_text_tokens(input_ids, mask, self._separators)
        special = protected_tokens(input_ids, mask, None, self.retainer.protected_ids) & mask.bool()
        return self.retainer.protect(query | special)


def _pair_separators(tokenizer: Any) -> tuple[int, ...]:
    """Return the ids of the special tokens of a tokenizer, one of which separates the texts of a pair.

    Raises:
        ConfigError: the tokenizer puts none between them.
    """
    ids = special_ids(tokenizer)
    message = "needs a tokenizer that puts a special token between the texts of a pair; leave it False"
    require(any(each in ids for each in tokenizer("", "")["input_ids"][1:]), "protect_query", message)
    return ids


def _without_prompt(encoded: Encoded, mask: Tensor, prompt_length: int) -> Encoded:
    """Return a copy whose weights are 0 on the prompt; a text of which nothing else was kept is read by its prompt.

    Args:
        encoded: output of the encoder.
        mask: attention mask of the input, [B, T]; padding may be on the left.
        prompt_length: number of the first tokens of each text that belong to the prompt.
    """
    outside = encoded.positions >= mask.argmax(1, keepdim=True) + prompt_length
    weights = encoded.weights * outside
    return replace(encoded, weights=torch.where(weights.any(1, keepdim=True), weights, encoded.weights))


def with_retention(
    model: SentenceTransformer | CrossEncoder,
    policy: RetentionPolicy,
    *,
    dropped: str = "forward",
    prune_at: str = "after_layer",
    protected_ids: Iterable[int] | None = None,
    pooling: str | None = None,
    protect_query: bool = False,
) -> SentenceTransformer | CrossEncoder:
    """Replace the first module of a model by one that removes tokens; return the model.

    Args:
        model: its first module is a ``Transformer`` on the torch backend.
        policy: retention policy; it is built for the model if it has not been.
        dropped: see ``retain``.
        prune_at: see ``retain``.
        protected_ids: token ids that are never removed; None = the special tokens around a text.
        pooling: ``depth`` or ``survivors`` weights the tokens of a model that pools by the mean, see
            ``retention.models.pooling.pool``; None = as the model pools.
        protect_query: never remove the first text of a pair, for a ``CrossEncoder``.

    Raises:
        ConfigError: the first module is another one, or does not fit the policy or a setting.

    Examples:
        >>> model = with_retention(SentenceTransformer(name), Truncate(rho=0.3).eval())   # doctest: +SKIP
        >>> model.encode(texts, rho=0.5)                                                   # doctest: +SKIP
    """
    first: Any = model[0]
    if type(first) not in (Transformer, RetentionTransformer) or first.backend != "torch":
        message = f"its first module must be a Transformer on the torch backend, got a {type(first).__name__}"
        raise ConfigError([Problem("model", message)])
    mode = getattr(model[1], "pooling_mode", None) if len(model) > 1 else None
    needed = "mean" if pooling in _WEIGHTED else pooling
    message = f"{pooling} needs a model that pools by {needed}, this one pools by {mode}; leave it None"
    require(pooling is None or mode == needed, "pooling", message)
    ids = special_ids(first.tokenizer) if protected_ids is None else tuple(protected_ids)
    supported = mode if mode in ("cls", "mean") else None
    settings = RetentionSettings(
        dropped=dropped, prune_at=prune_at, protected_ids=ids, pooling=pooling or supported, protect_query=protect_query
    )
    return _attached(model, policy, settings)


def load(
    name: str | Path,
    *,
    device: str | None = None,
    revision: str | None = None,
    token: str | None = None,
    **options: Any,
) -> SentenceTransformer | CrossEncoder:
    """Load a retained model without ``trust_remote_code``.

    The only class from outside the library that can be named is ``RetentionTransformer``; any other still needs the
    flag.

    Args:
        name: a folder of ``Embedder.save_pretrained``, of ``save`` of a model of the library or of ``save_retained`` of
            a sequence classifier, which becomes a ``CrossEncoder``; or its name on the hub.
        device: device of the weights; None = as the library chooses.
        revision: branch, tag or commit on the hub.
        token: access token of the hub.
        **options: of ``SentenceTransformer`` or ``CrossEncoder``.

    Raises:
        CheckpointError: the folder is not one of a model of the library, or is not safe to load.
    """
    folder = resolve_folder(name, revision=revision, token=token)
    if not is_library_folder(folder):
        return _load_classifier(folder, device=device, **options)
    kind = model_kind(folder)
    cls = CrossEncoder if kind == "CrossEncoder" else SentenceTransformer
    classes = {RETENTION_MODULE: RetentionTransformer}
    model: SentenceTransformer | CrossEncoder = cls._load_with_module_classes(
        str(folder), classes, device=device, **options
    )
    if isinstance(first := model[0], RetentionTransformer):
        first.link(model)
    return model


def _load_classifier(folder: Path, *, device: str | None, **options: Any) -> CrossEncoder:
    """Make a ``CrossEncoder`` of a sequence classifier's folder, with its policy; without one it keeps every token."""
    architectures = checked_config(folder).architectures or []
    if not any(str(name).endswith(CLASSIFIER) for name in architectures):
        raise CheckpointError(
            f"{folder}: is neither a folder of sentence-transformers nor that of a sequence classifier (class "
            f"{', '.join(map(str, architectures)) or 'unknown'}); save the model by Embedder.save_pretrained, or load "
            "it with retention.pretrained"
        )
    load_model(folder, loader=AutoModelForSequenceClassification)  # CrossEncoder would draw missing weights at random
    model: CrossEncoder = CrossEncoder(str(folder), device=device, local_files_only=True, **options)
    encoder: Any = model[0].model
    stored = read_retention(folder, encoder)
    if "attention" in stored.policy.observes:
        encoder.set_attn_implementation("eager")
    _attached(model, stored.policy, stored.settings)
    model.to(model.device)
    return model


def _attached(
    model: SentenceTransformer | CrossEncoder, policy: RetentionPolicy, settings: RetentionSettings
) -> SentenceTransformer | CrossEncoder:
    """Replace the first module of a model by one that removes tokens; return the model."""
    first: Any = model[0]
    module = RetentionTransformer.__new__(RetentionTransformer)
    module.__dict__.update({key: dict(value) if key == "_modules" else value for key, value in vars(first).items()})
    model[0] = module.attach(policy, settings)
    module.link(model)
    return model
