"""Tests of the model: what the head sees of kept and dropped tokens."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from retention.core.duals import ExactDual
from retention.engine import LayerView
from retention.models.retention_model import RetentionModel
from retention.policies import Adaptive, Dense, Truncate
from retention.policies.bases.retention_policy import RetentionPolicy

MakeModel = Callable[..., RetentionModel]


def test_import_needs_torch_and_transformers_only() -> None:
    extras = ("pytorch_lightning", "hydra", "omegaconf", "datasets", "evaluate", "pandas", "scipy")
    code = f"import sys, retention.models.retention_model; print([m for m in {extras} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_cut_returns_kept_tokens_only(make_model: MakeModel, make_batch: Any) -> None:
    encoded = make_model(Truncate(rho=0.5, schedule="flat"), dropped="cut").eval().encode(make_batch(10, 6))
    assert encoded.hidden_states.shape == (2, 5, 16)
    assert encoded.positions[0].tolist() == [0, 1, 2, 3, 9], "the first ones and the protected last"
    assert encoded.positions[1, :3].tolist() == [0, 1, 5]
    assert encoded.weights.tolist() == [[1.0] * 5, [1.0, 1.0, 1.0, 0.0, 0.0]]


def test_forward_returns_every_token_at_its_position(make_model: MakeModel, make_batch: Any) -> None:
    model, batch = make_model(Truncate(rho=0.5, schedule="flat"), dropped="forward").eval(), make_batch(10, 6)
    encoded = model.encode(batch)
    assert encoded.hidden_states.shape == (2, 10, 16)
    assert torch.equal(encoded.weights, batch["attention_mask"].float())
    assert torch.equal(encoded.positions, torch.arange(10).expand(2, 10))


class KeepFirstSequence(RetentionPolicy):
    """Keeps the first sequence complete and the last two tokens of the others."""

    def score(self, view: LayerView) -> Tensor:
        return view.positions.float()

    def select(self, gate: int, scores: Tensor, view: LayerView) -> Tensor:
        late = view.positions >= view.lengths.unsqueeze(1) - 2
        late[0] = True
        return late & view.valid


def test_forward_keeps_positions_where_one_sequence_loses_nothing(make_model: MakeModel, make_batch: Any) -> None:
    model = make_model(KeepFirstSequence(rho=0.5, slope=0.5), dropped="forward").eval()
    encoded = model.encode(make_batch(6, 6))
    assert model.last_report is not None and model.last_report.kept[0].tolist() == [6, 2]
    assert torch.equal(encoded.weights, torch.ones(2, 6))
    assert torch.equal(encoded.positions, torch.arange(6).expand(2, 6))


def test_soft_gates_are_weights(make_model: MakeModel, make_batch: Any) -> None:
    model = make_model(Adaptive(dual=ExactDual(), rho=0.5, slope=0.5)).train()
    model.policy.phase = "soft"
    weights = model.encode(make_batch(10, 6)).weights
    assert ((weights > 0) & (weights < 1)).any() or (weights == 0)[0].any()
    assert (weights[1, 6:] == 0).all() and (weights[:, 0] == 1).all()


def test_depth_ratio_of_hard_gates(make_model: MakeModel, make_batch: Any) -> None:
    policy = Truncate(rho=0.5, schedule=[0.6, 0.4], layers=[0, 1])
    encoded = make_model(policy, dropped="forward").eval().encode(make_batch(10))
    # of ten tokens the protected first and last and the next four pass gate 0, and two less pass gate 1
    passed = torch.tensor([[2, 2, 2, 1, 1, 0, 0, 0, 0, 2]])
    assert torch.equal(encoded.gates_passed(10), passed)
    assert torch.equal(encoded.survived(10), passed == 2)
    torch.testing.assert_close(encoded.depth_ratio(), (1.0 + passed) / 3)


def test_depth_ratio_of_soft_gates_is_differentiable(make_model: MakeModel, make_batch: Any) -> None:
    model = make_model(dropped="forward").train()
    model.policy.phase = "soft"
    ratio = model.encode(make_batch(10, 6)).depth_ratio()
    assert ratio[0, 0] == 1.0 and (ratio[0, 1:9] < 1.0).any() and (ratio[0] >= 1 / 3).all()
    ratio[0].sum().backward()
    assert model.policy.scorers["0"].out.weight.grad.abs().sum() > 0, "a gate that opens raises the depth ratio"


def test_dense_model_spends_dense_flops(make_model: MakeModel, make_batch: Any) -> None:
    dense, pruned = make_model(Dense()).eval(), make_model().eval()
    for model in (dense, pruned):
        model(make_batch(10, 6))
    full, spent = pruned.flops()
    assert dense.flops() == (full, full) and 0 < spent < full
