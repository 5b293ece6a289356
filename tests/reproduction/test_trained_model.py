"""Theory on a trained model: its loss as a function of the gates, and gradients through them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from reproduction.theory import __main__ as theory_command
from reproduction.theory.__main__ import main
from reproduction.theory.instances import all_masks, exact_gradient
from reproduction.theory.trained_model import ModelLoss, compare_on_rows, trained_claims
from transformers import BertConfig, BertModel

from retention.core.hard_concrete import GATE_TARGETS
from retention.data.local_files import find_split_file
from retention.models.head import encoder_shape
from retention.models.retention_model import RetentionModel
from retention.policies import Adaptive
from retention.tasks.classification.head import ClassificationHead

FREE = 4


@pytest.fixture(scope="module")
def model() -> RetentionModel:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    encoder = BertModel(BertConfig(vocab_size=50, **sizes))
    policy = Adaptive(rho=0.67, schedule="flat")
    policy.build(encoder_shape(encoder))
    head = ClassificationHead(encoder=encoder, num_labels=2, pooling="mean")
    return RetentionModel(encoder, policy, head, dropped="cut").eval()


@pytest.fixture
def row() -> dict[str, Any]:
    ids = torch.tensor([[2, 11, 23, 31, 47, 3]])
    protected = torch.tensor([[True, False, False, False, False, True]])
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "protected_mask": protected,
        "labels": torch.tensor([1]),
    }


@pytest.mark.parametrize("target", GATE_TARGETS)
def test_open_gates_give_the_loss_of_the_dense_model(model: RetentionModel, row: dict[str, Any], target: str) -> None:
    output = model.encoder(input_ids=row["input_ids"]).last_hidden_state.mean(1)
    dense = torch.nn.functional.cross_entropy(model.head.output[1](output), row["labels"])  # type: ignore[index]
    loss = ModelLoss(model, row, 0, target)(torch.ones(2, FREE, dtype=torch.float64))
    torch.testing.assert_close(loss, dense.double().expand(2), atol=1e-6, rtol=0)


def test_losses_depend_on_the_gates_and_each_form_is_its_own_objective(
    model: RetentionModel, row: dict[str, Any]
) -> None:
    masks = all_masks(FREE)
    attention, states = (ModelLoss(model, row, 0, target)(masks).detach() for target in GATE_TARGETS)
    assert len(attention) == 2**FREE
    assert attention.std() > 0 and states.std() > 0
    torch.testing.assert_close(attention[-1], states[-1], atol=1e-6, rtol=0)  # all open
    assert (attention[:-1] - states[:-1]).abs().min() > 0


def test_logits_meet_the_budget(model: RetentionModel, row: dict[str, Any]) -> None:
    logits = ModelLoss(model, row, 0, "attention").logits()
    budget = float(model.policy.budget.counts(torch.tensor([6]))[0, 0])
    assert float(torch.sigmoid(logits).sum()) + 2 == pytest.approx(budget, abs=1e-3)


def test_gradients_are_compared_with_the_exact_one(model: RetentionModel, row: dict[str, Any]) -> None:
    evidence = compare_on_rows(model, [row], draws=64)
    loss = ModelLoss(model, row, 0, "attention")
    assert exact_gradient(loss, loss.logits()).abs().sum() > 0
    for target in GATE_TARGETS:
        bias = evidence.find(f"row 1, gates on {target}", "REINFORCE relative bias")
        assert bias.mc_error is not None and bias.value < 5 * bias.mc_error
        assert evidence.find(f"row 1, gates on {target}", "relative bias", beta=0.66).mc_error is not None
    assert evidence.decisive.at == {"beta": 0.66}
    lemma1, _ = trained_claims()
    assert len(lemma1.describe(evidence).splitlines()) == 2 + 2 * 4  # header, and three temperatures and REINFORCE each


def test_command_names_a_folder_that_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert f"CheckpointError: {tmp_path}" in capsys.readouterr().err


def test_missing_data_names_the_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(theory_command, "trained_claims", lambda *_: find_split_file(tmp_path / "nowhere", "test"))
    assert main([str(tmp_path)]) == 2
    assert "no such folder; pass --data <folder with" in capsys.readouterr().err
