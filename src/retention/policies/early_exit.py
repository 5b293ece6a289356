"""Early exit by confidence: the baseline that removes whole rows from the upper layers instead of tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from retention.core.flops import EncoderShape
from retention.engine.checks import check_layers
from retention.engine.gate import LayerView
from retention.errors import require
from retention.policies.bases.retention_policy import RetentionPolicy


class EarlyExit(RetentionPolicy):
    """Answer from a head after a lower layer as soon as its largest class probability reaches a threshold.

    Every row keeps all its tokens, and leaves the batch at its exit, see ``EarlyExitModel``. The heads are trained
    jointly. One threshold serves all exits; after each epoch it is set on the validation rows, so that they spend
    ``rho`` of the dense FLOPs on average. For classification with one class per row. Needs no attention maps.

    Source: heads after inner layers and an exit by confidence as in BranchyNet (Teerapittayanon et al. 2016, arXiv
    1709.01686) and DeeBERT (Xin et al., ACL 2020, arXiv 2004.12993); joint training with losses weighted by depth as in
    PABEE (Zhou et al., NeurIPS 2020, arXiv 2006.04152). Differs: the largest probability is compared, where BranchyNet
    and DeeBERT take the entropy and PABEE waits for equal answers; encoder and heads are trained together, where
    DeeBERT freezes the encoder for the inner heads.

    Args:
        rho: share of the dense encoder's FLOPs that the validation rows may spend on average, in (0, 1].
        exits: 0-based layers that are followed by a head; None = all but the last. The last layer always has one.

    Attributes:
        exit_layers: of the encoder that the policy was built for.
        exit_heads: layer_idx -> head, added by the model.
        threshold: scalar buffer, probability at which a row exits; above 1 = never.
        calibrated_rho: scalar buffer, the ``rho`` that the threshold was set for; -1 = it was not set.

    Raises:
        ConfigError: a setting is out of range.
    """

    any_budget = False
    threshold: Tensor
    calibrated_rho: Tensor

    def __init__(self, *, rho: float, exits: Sequence[int] | None = None) -> None:
        super().__init__(rho=rho, schedule="flat")
        require(exits is None or len(exits) > 0, "exits", "is empty; use retention=dense for a model without exits")
        self.requested_exits = None if exits is None else tuple(exits)
        self.exit_layers: tuple[int, ...] = ()
        self.exit_heads = nn.ModuleDict()
        self.register_buffer("threshold", torch.full((), 2.0))
        self.register_buffer("calibrated_rho", torch.full((), -1.0))

    def resolve_layers(self, shape: EncoderShape, name: str) -> tuple[int, ...]:
        """Return no layers: no token is removed."""
        return ()

    def build(self, shape: EncoderShape, name: str = "the encoder") -> None:
        """Choose the layers that are followed by a head.

        Raises:
            ConfigError: a layer does not exist, or is the last one.
        """
        super().build(shape, name)
        exits = range(shape.num_layers - 1) if self.requested_exits is None else self.requested_exits
        inner = all(0 <= layer < shape.num_layers - 1 for layer in exits)
        require(inner, "exits", f"must be layers below the last one (0..{shape.num_layers - 2}), got {list(exits)}")
        self.exit_layers = check_layers(exits, shape.num_layers, name)

    def score(self, view: LayerView) -> Tensor:
        """Return equal scores; never used, as no layer is gated."""
        return view.valid.float()

    @property
    def exact(self) -> bool:
        """Return False: the FLOPs of a row depend on its content."""
        return False

    def set_threshold(self, threshold: float) -> None:
        """Set the threshold for the present ``rho``."""
        self.threshold.fill_(threshold)
        self.calibrated_rho.fill_(self.rho)

    def check_calibrated(self) -> None:
        """Check that the threshold belongs to ``rho``.

        Raises:
            ConfigError: it was set for another value, or never.
        """
        before = float(self.calibrated_rho)
        message = (
            "its threshold was not set, which every validation does; train it with validation rows "
            "(task.data.val_size >= 1), until a validation is reached"
            if before < 0
            else f"its threshold was set for {before:g}, got {self.rho:g}; train it for each budget"
        )
        rounding = torch.finfo(self.calibrated_rho.dtype).eps  # of a model in half precision
        require(abs(before - self.rho) <= rounding, "rho", f"early_exit cannot run: {message}")
