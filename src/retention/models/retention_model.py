"""Provide the model of a run: an encoder with a retention policy and a task head."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext

from torch import Tensor, nn

from retention.core.flops import EncoderShape
from retention.engine import ForwardReport, Retainer
from retention.errors import require
from retention.models.encoded import Batch, Encoded, ModelOutput
from retention.models.head import Head
from retention.policies.bases.retention_policy import RetentionPolicy


class RetentionModel(nn.Module):
    """Encoder, retention policy and task head.

    Args:
        encoder: Hugging Face encoder.
        policy: retention policy, already built for the encoder.
        head: task head, built for the encoder.
        dropped: ``forward`` = the head sees dropped tokens with their last state; ``cut`` = kept tokens only.
        prune_at: ``after_layer`` or ``after_attention``, see ``Retainer``.
        reference_shape: dimensions of the encoder that FLOPs are compared with; None = this encoder without removal.

    Raises:
        ConfigError: the encoder family is not supported with these settings, or the head prunes whole spans and the
            policy cannot.
    """

    def __init__(
        self,
        encoder: nn.Module,
        policy: RetentionPolicy,
        head: Head,
        *,
        dropped: str = "forward",
        prune_at: str = "after_layer",
        reference_shape: EncoderShape | None = None,
    ) -> None:
        super().__init__()
        message = f"whole spans need a policy that ranks tokens, {policy.name} does not; set it to tokens"
        require(not head.prunes_spans or policy.supports_spans, "task.head.spans", message)
        self.encoder = encoder
        self.policy = policy
        self.head = head
        self.retainer = Retainer(encoder, policy, layers=policy.layers, dropped=dropped, prune_at=prune_at)
        self.reference_shape = self.shape if reference_shape is None else reference_shape
        self.last_report: ForwardReport | None = None

    @property
    def gated_layers(self) -> tuple[int, ...]:
        """Return the 0-based layers after which the policy may remove tokens; -1 = before layer 0."""
        return self.policy.layers

    @property
    def shape(self) -> EncoderShape:
        """Return the dimensions of the encoder."""
        return self.retainer.shape

    def encode(self, batch: Batch) -> Encoded:
        """Run the encoder with token removal."""
        spans = self.head.pruned_spans(batch)
        pruned_together = nullcontext() if spans is None else self.retainer.prune_together(spans)
        with pruned_together, self.retainer, self.retainer.protect(self.head.protected(batch)):
            output = self.encoder(**self.retainer.adapter.inputs(batch))
        self.last_report = self.retainer.report
        return Encoded.from_pass(output.last_hidden_state, batch["attention_mask"], self.retainer)

    def outputs(self, batch: Batch) -> ModelOutput:
        """Compute the logits and the pooled state that they are read from."""
        encoded = self.encode(batch)
        return ModelOutput(self.logits(encoded, batch), self.head.pooled(encoded))

    def logits(self, encoded: Encoded, batch: Batch) -> Tensor:
        """Compute the logits from the output of ``encode``."""
        return self.head.logits(encoded, batch)

    def exit_logits(self) -> Mapping[int, Tensor]:
        """Return layer_idx -> logits of heads after inner layers in the last training pass; none by default."""
        return {}

    def forward(self, batch: Batch) -> Tensor:
        """Compute the logits."""
        return self.outputs(batch).logits

    def flops(self) -> tuple[float, float]:
        """Return the FLOPs of the last forward pass: those of the dense reference, and those that were spent."""
        before_feed_forward = self.retainer.prune_at == "after_attention"
        report = self.retainer.report
        dense, _ = report.flops(self.reference_shape, {}, before_feed_forward=before_feed_forward)
        _, spent = report.flops(self.shape, self.policy.scorer_macs(), before_feed_forward=before_feed_forward)
        return dense, spent
