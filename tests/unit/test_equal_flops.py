"""Test the keep ratio that is solved for a FLOPs ratio."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir

from retention.core.flops import EncoderShape, encoder_flops
from retention.errors import ConfigError
from retention.experiment.builder import Builder
from retention.experiment.equal_flops import policy_flops, set_rho_by_flops, solve_rho
from retention.policies import Adaptive, InputTruncation, RetentionPolicy, Truncate

CONF = str(Path(__file__).parents[2] / "conf")
MINILM = EncoderShape(num_layers=6, hidden_size=384, intermediate_size=1536)
LENGTH = 200
DENSE = float(encoder_flops(MINILM, torch.tensor([LENGTH]), {}).sum())


@pytest.mark.parametrize(
    "policy",
    [
        Truncate(rho=0.3),
        Truncate(rho=0.3, schedule="geometric"),
        Truncate(rho=0.3, layers=[0, 2]),
        Adaptive(rho=0.3, layers=[-1, 0, 1, 2, 3, 4]),
        Adaptive(rho=0.3, schedule="learned"),
        InputTruncation(rho=0.3),
    ],
    ids=["linear", "geometric", "two_gates", "before_layer_0", "learned", "input_truncation"],
)
@pytest.mark.parametrize("ratio", [0.5, 0.7])
def test_solved_keep_ratio_spends_the_requested_flops(policy: RetentionPolicy, ratio: float) -> None:
    rho = solve_rho(policy, MINILM, LENGTH, ratio * DENSE, before_feed_forward=False)
    spent = policy_flops(policy, rho, MINILM, LENGTH, before_feed_forward=False) / DENSE
    assert spent == pytest.approx(ratio, abs=5e-4)
    assert (policy.rho, policy.built) == (0.3, False)


def test_input_truncation_keeps_about_the_share_of_flops() -> None:
    rho = solve_rho(InputTruncation(rho=0.5), MINILM, LENGTH, 0.4 * DENSE, before_feed_forward=False)
    assert 0.4 < rho < 0.44  # attention products fall with the square of the length
    later = solve_rho(Truncate(rho=0.5), MINILM, LENGTH, 0.4 * DENSE, before_feed_forward=False)
    assert later < 0.3  # layer 0 sees every token


def test_unreachable_ratio_names_the_range_and_the_remedy() -> None:
    with pytest.raises(ConfigError, match=r"flops_ratio: 0.1000 of .*-1 = before layer 0") as caught:
        solve_rho(Truncate(rho=0.5), MINILM, LENGTH, 0.1 * DENSE, before_feed_forward=False)
    assert "0.17" in str(caught.value)  # one layer of six


@pytest.fixture
def composed() -> Any:
    def make(*overrides: str) -> Any:
        with initialize_config_dir(CONF, version_base="1.3"):
            return compose("config", overrides=["paths.run_dir=/tmp", *overrides])

    return make


def test_configuration_gets_the_keep_ratio(composed: Any) -> None:
    config = composed("retention=truncate", "flops_ratio=0.6", "flops_length=40", "prune_at=after_attention")
    set_rho_by_flops(config)
    assert (config.flops_ratio, config.flops_length) == (None, None)
    tiny = Builder(config).make("backbone").shape()
    dense = float(encoder_flops(tiny, torch.tensor([40]), {}).sum())
    spent = policy_flops(Truncate(rho=0.5), float(config.retention.rho), tiny, 40, before_feed_forward=True)
    assert config.retention.rho != config.task.rho
    assert spent / dense == pytest.approx(0.6, abs=5e-4)


def test_dense_and_null_change_nothing(composed: Any) -> None:
    for overrides in (("retention=dense", "flops_ratio=0.6"), ("retention=truncate",)):
        config = composed(*overrides)
        before = config.retention.rho
        set_rho_by_flops(config)
        assert config.retention.rho == before


def test_invalid_settings_are_refused(composed: Any) -> None:
    for override, key in (("flops_ratio=1.5", "flops_ratio"), ("flops_length=0", "flops_length")):
        with pytest.raises(ConfigError, match=f"{key}: "):
            set_rho_by_flops(composed("retention=truncate", "flops_ratio=0.6", override))
    with pytest.raises(ConfigError, match=r"retention\.schedule: has a list"):
        set_rho_by_flops(composed("retention=truncate", "flops_ratio=0.6", "retention.schedule=[0.9,0.5,0.3]"))
