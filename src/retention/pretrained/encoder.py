"""Provide an encoder together with its retention policy, as one module that is saved as a folder."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutput

from retention.core.flops import EncoderShape
from retention.engine import ForwardReport, encoder_of
from retention.engine.pass_values import PassValue, PassValues
from retention.errors import require
from retention.models.encoded import Encoded
from retention.policies.bases.retention_policy import RetentionPolicy
from retention.policies.retain import retain
from retention.pretrained.budget import budget_of_call, check_rho
from retention.pretrained.folder import push_folder, resolve_folder, written_folder
from retention.pretrained.model_card import model_card
from retention.pretrained.model_files import load_model, save_model
from retention.pretrained.retention_files import RetentionSettings, read_retention, write_retention


@dataclass
class RetentionOutput(BaseModelOutput):
    """Output of a ``RetentionEncoder``; B sequences of T tokens, of which M are in the output, D hidden size.

    Attributes:
        last_hidden_state: [B, M, D]; M = T with ``dropped=forward``.
        hidden_states: input of every layer and the output, see ``Retainer``; None unless requested.
        attentions: attention maps of every layer; None unless requested.
        attention_mask: [B, M], non-zero = a real token of the output.
        positions: [B, M] long, positions of the output's tokens in the input.
    """

    attention_mask: Tensor | None = None
    positions: Tensor | None = None


class RetentionEncoder(nn.Module):
    """Encoder that is called like the Hugging Face one and removes tokens between its layers.

    A folder of ``save_pretrained`` is a Hugging Face model folder, which ``AutoModel`` loads as the encoder without
    removal, with a subfolder ``retention`` for policy and settings.

    Threads can share a module and call it at different keep ratios.

    Args:
        encoder: a Hugging Face encoder without a head.
        policy: retention policy; it is built for the encoder if it has not been.
        dropped: ``forward`` = removed tokens return with their last state, ``cut`` = the output holds kept tokens only.
        prune_at: ``after_layer`` or ``after_attention``, see ``retain``.
        protected_ids: token ids that are never removed.
        protect_query: True to never remove the first text of a pair, see ``retain``.
        rho: target keep ratio in (0, 1] of calls that give none, saved with the model; None = that of the policy.

    Attributes:
        encoder: the Hugging Face encoder; called directly it keeps every token.
        policy: the policy.
        retainer: removes the tokens; its ``report`` tells what the last pass kept.

    Raises:
        ConfigError: the encoder has a head, or does not fit the policy or a setting, see ``retain``.
    """

    # Report of the last call and the costs of its scorers, which depend on the budget of the call.
    _scorer_macs: PassValue[tuple[ForwardReport, dict[int, int]] | None] = PassValue(lambda: None)

    def __init__(
        self,
        encoder: nn.Module,
        policy: RetentionPolicy,
        *,
        dropped: str = "forward",
        prune_at: str = "after_layer",
        protected_ids: Iterable[int] = (),
        protect_query: bool = False,
        rho: float | None = None,
    ) -> None:
        super().__init__()
        inner, name = encoder_of(encoder), type(encoder).__name__
        message = f"must be a Hugging Face encoder without a head, got a {name}; pass {type(inner).__name__} inside it"
        require(inner is encoder or name.endswith("EncoderModel"), "encoder", message)
        self.encoder = encoder
        self.policy = policy
        self.retainer = retain(
            encoder,
            policy,
            protected_ids=protected_ids,
            dropped=dropped,
            prune_at=prune_at,
            protect_query=protect_query,
        )
        self.rho = check_rho(policy, rho)
        self.pass_values = PassValues()

    @property
    def config(self) -> Any:
        """Return the Hugging Face configuration of the encoder."""
        return self.encoder.config

    @property
    def device(self) -> torch.device:
        """Return the device of the weights."""
        return next(self.encoder.parameters()).device

    @property
    def shape(self) -> EncoderShape:
        """Return the dimensions of the encoder."""
        return self.retainer.shape

    @property
    def gated_layers(self) -> tuple[int, ...]:
        """Return the 0-based layers after which tokens may be removed; -1 = before layer 0."""
        return self.policy.layers

    @property
    def default_rho(self) -> float:
        """Return the target keep ratio of calls that give none, in (0, 1]."""
        return self.policy.rho if self.rho is None else self.rho

    @property
    def settings(self) -> RetentionSettings:
        """Return the settings that are saved with the policy."""
        retainer = self.retainer
        return RetentionSettings(
            dropped=retainer.dropped,
            prune_at=retainer.prune_at,
            protected_ids=retainer.protected_ids,
            protect_query=retainer.protect_query,
            budgets=self.policy.budget_range,
            rho=self.rho,
        )

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        *,
        rho: float | None = None,
        protected_mask: Tensor | None = None,
        **arguments: Any,
    ) -> RetentionOutput:
        """Run the encoder with token removal.

        Args:
            input_ids: [B, T] long.
            attention_mask: [B, T], 1 = real token; None = all are real.
            token_type_ids: [B, T] long, for encoders with segment embeddings.
            rho: target keep ratio in (0, 1]; None = the default of this module.
            protected_mask: [B, T] bool, True = never removed; None = the mask of an enclosing ``retainer.protect``,
                or ``protected_ids`` outside of one.
            **arguments: of the encoder, such as ``output_hidden_states``.

        Raises:
            ConfigError: ``rho`` cannot be used, see ``check_rho``.
        """
        output, encoded = self._run(
            input_ids, attention_mask, token_type_ids, rho=rho, protected_mask=protected_mask, arguments=arguments
        )
        return RetentionOutput(
            last_hidden_state=encoded.hidden_states,
            hidden_states=getattr(output, "hidden_states", None),
            attentions=getattr(output, "attentions", None),
            attention_mask=cast(Any, (encoded.weights > 0).long()),
            positions=cast(Any, encoded.positions),
        )

    def encode(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        *,
        rho: float | None = None,
        protected_mask: Tensor | None = None,
    ) -> Encoded:
        """Run the encoder with token removal and return what heads and poolings read; arguments as in ``forward``."""
        return self._run(input_ids, attention_mask, token_type_ids, rho=rho, protected_mask=protected_mask)[1]

    @property
    def report(self) -> ForwardReport:
        """Return the report of this thread's last pass: which tokens were kept after each gated layer."""
        return self.retainer.report

    def flops(self) -> tuple[float, float]:
        """Return the FLOPs of this thread's last pass: without removal, and those that were spent."""
        before_feed_forward = self.retainer.prune_at == "after_attention"
        report, stored = self.report, self._scorer_macs
        # The last pass may also be a call of ``encoder`` itself in the context of the retainer.
        macs = stored[1] if stored is not None and stored[0] is report else self.policy.scorer_macs()
        return report.flops(self.shape, macs, before_feed_forward=before_feed_forward)

    def save_pretrained(
        self, folder: str | Path, tokenizer: PreTrainedTokenizerBase | None = None, *, details: str = ""
    ) -> None:
        """Write a model folder, completely or not at all.

        Args:
            folder: new or empty, or a folder that this method wrote before, which is replaced.
            tokenizer: written beside the encoder.
            details: further sections of the model card, in Markdown.

        Raises:
            DataError: the folder holds other files.
            ConfigError: ``AutoModel`` could not load the encoder, or the policy cannot be saved.
        """
        with written_folder(folder) as target:
            self.write(target, tokenizer, self.settings, details)

    def write(
        self, target: Path, tokenizer: PreTrainedTokenizerBase | None, settings: RetentionSettings, details: str = ""
    ) -> None:
        """Write encoder, tokenizer, policy and model card into a folder that is being made.

        Args:
            target: an empty folder, see ``written_folder``.
            tokenizer: written beside the encoder.
            settings: of the removal.
            details: further sections of the model card, in Markdown.
        """
        save_model(self.encoder, tokenizer, target)
        write_retention(target, self.policy, settings)
        (target / "README.md").write_text(model_card(self.policy, settings, self.config, details), encoding="utf-8")

    def push_to_hub(
        self,
        repo_id: str,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        private: bool | None = None,
        token: str | None = None,
        commit_message: str = "Upload model",
    ) -> str:
        """Upload the model folder to a repository of the Hugging Face hub, which is created if needed.

        Args:
            repo_id: ``owner/name``.
            tokenizer: written beside the encoder.
            private: visibility of a new repository; None = the default of the owner.
            token: access token; None = the stored login.
            commit_message: of the upload.

        Returns:
            The address of the commit.
        """
        return push_folder(
            lambda folder: self.save_pretrained(folder, tokenizer),
            repo_id,
            private=private,
            token=token,
            commit_message=commit_message,
        )

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        rho: float | None = None,
        *,
        device: str | torch.device = "cpu",
        revision: str | None = None,
        token: str | None = None,
        attn_implementation: str | None = None,
        classes: Iterable[type] = (),
    ) -> Self:
        """Load a model folder; one without a policy is loaded as an encoder that keeps every token.

        The folder is data: nothing that it names is executed, and only policies of this package, of installed policy
        packages and of ``classes`` are built.

        Args:
            name: a folder, or the name of a model on the Hugging Face hub.
            rho: target keep ratio in (0, 1] of calls that give none, saved with the model; None = the one that the
                folder was saved with, else that of the policy.
            device: device of the weights.
            revision: branch, tag or commit on the hub.
            token: access token of the hub; None = the stored login.
            attn_implementation: ``sdpa`` or ``eager``; None = what the policy needs, else the default of the family.
            classes: policy classes from outside the package, for example ``[my_package.MyPolicy]``.

        Returns:
            The model in evaluation mode.

        Raises:
            CheckpointError: the folder does not exist, is incomplete or is not safe to load.
            ConfigError: ``rho`` or the family is not supported.
        """
        folder = resolve_folder(name, revision=revision, token=token)
        encoder = load_model(folder, attn_implementation)
        stored = read_retention(folder, encoder, classes)
        if "attention" in stored.policy.observes and encoder.config._attn_implementation != "eager":
            encoder = load_model(folder, "eager")
        settings = stored.settings
        model = cls(
            encoder,
            stored.policy,
            dropped=settings.dropped,
            prune_at=settings.prune_at,
            protected_ids=settings.protected_ids,
            protect_query=settings.protect_query,
            rho=settings.rho if rho is None else rho,
        )
        return model.to(device).eval()

    def _run(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        token_type_ids: Tensor | None,
        *,
        rho: float | None,
        protected_mask: Tensor | None = None,
        arguments: dict[str, Any] | None = None,
    ) -> tuple[Any, Encoded]:
        """Return the encoder's output and the view of it that heads read."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        inputs = self.retainer.adapter.inputs({"input_ids": input_ids, "attention_mask": mask})
        if token_type_ids is not None:
            inputs["token_type_ids"] = token_type_ids
        target = self.rho if rho is None else check_rho(self.policy, rho)
        protection = nullcontext() if protected_mask is None else self.retainer.protect(protected_mask)
        with budget_of_call(self.policy, target), self.retainer, protection:
            output: Any = self.encoder(**{**inputs, **(arguments or {}), "return_dict": True})
            self._scorer_macs = (self.report, self.policy.scorer_macs())
        return output, Encoded.from_pass(output.last_hidden_state, mask, self.retainer)
