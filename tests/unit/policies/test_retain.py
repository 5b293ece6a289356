"""Test ``retain``."""

from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoModelForSeq2SeqLM, BertConfig, T5Config

from retention.errors import ConfigError
from retention.policies import Adaptive, Truncate, retain


def tiny() -> torch.nn.Module:
    torch.manual_seed(0)
    config = BertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64)
    return AutoModel.from_config(config).eval()


def test_retain_builds_the_policy_and_meets_the_budget() -> None:
    model, ids = tiny(), torch.randint(5, 50, (2, 20))
    with retain(model, Truncate(rho=0.3, schedule="flat").eval(), protected_ids=[3]) as retainer, torch.no_grad():
        output = model(input_ids=ids).last_hidden_state
    assert output.shape == (2, 20, 32)
    assert {layer: kept.tolist() for layer, kept in retainer.report.kept.items()} == {0: [6, 6], 1: [6, 6]}


def test_built_policy_is_not_built_again() -> None:
    model, policy = tiny(), Truncate(rho=0.5).eval()
    retain(model, policy)
    budget = policy.budget
    retain(model, policy)
    assert policy.budget is budget


def test_protected_ids_are_kept_beyond_the_budget() -> None:
    model = tiny()
    ids = torch.full((1, 20), 7)
    ids[0, -1] = 3
    with retain(model, Truncate(rho=0.2, schedule="flat").eval(), protected_ids=[3]) as retainer, torch.no_grad():
        model(input_ids=ids)
    assert retainer.report.keep_indices[0].tolist() == [[0, 1, 2, 19]]


def test_cut_is_refused_with_a_decoder() -> None:
    sizes: dict[str, Any] = {"vocab_size": 50, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 3, "num_heads": 4}
    model = AutoModelForSeq2SeqLM.from_config(T5Config(**sizes)).eval()
    with pytest.raises(ConfigError, match=r"the decoder of T5ForConditionalGeneration reads.*use dropped='forward'"):
        retain(model, Truncate(rho=0.3), dropped="cut")
    retain(model, Truncate(rho=0.3), dropped="forward")
    retain(model.get_encoder(), Truncate(rho=0.3), dropped="cut")


def test_policy_built_in_inference_mode_can_be_trained() -> None:
    model, policy, ids = tiny(), Adaptive(rho=0.4).eval(), torch.randint(5, 50, (2, 20))
    with torch.inference_mode(), retain(model, policy):
        model(input_ids=ids)
    policy.train()
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.1)
    policy.phase = "soft"
    with retain(model.train(), policy):
        (model(input_ids=ids).last_hidden_state.square().sum() + policy.budget_loss()).backward()
    optimizer.step()
    assert not any(parameter.is_inference() for parameter in policy.parameters())


@pytest.mark.parametrize(
    ("policy", "given", "example"),
    [
        (Truncate, "the class Truncate", "Truncate"),
        ("adaptive", "'adaptive'", "Adaptive"),
        ("no such name", "'no such name'", "Truncate"),
        (None, "None", "Truncate"),
    ],
)
def test_class_or_name_in_place_of_a_policy_is_refused(policy: Any, given: str, example: str) -> None:
    with pytest.raises(ConfigError) as caught:
        retain(tiny(), policy)
    [problem] = caught.value.problems
    assert problem.key == "policy" and f"got {given}; " in problem.message
    assert problem.message.endswith(f"such as {example}(rho=0.3).eval()")
