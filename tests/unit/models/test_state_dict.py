"""Tests of reading the weights of checkpoints of this and earlier versions."""

from __future__ import annotations

import torch

from retention.models.state_dict import model_state

WEIGHT = torch.ones(1)


def test_prefix_of_lightning_module_is_removed() -> None:
    state = {"model.encoder.layer.weight": WEIGHT, "model.head.output.1.bias": WEIGHT}
    assert set(model_state(state)) == {"encoder.layer.weight", "head.output.1.bias"}


def test_keys_of_earlier_versions_are_renamed() -> None:
    renamed = {
        "encoder.layer.0.weight": "encoder.layer.0.weight",
        "policy.scorers.0.out.weight": "policy.scorers.0.out.weight",
        "head.1.weight": "head.output.1.weight",
        "focus.weight": "head.token_scorer.weight",
        "left_early": "head.dropped_offset",
        "span_head.bias": "head.span_head.bias",
        "decoder.lm_head.weight": "head.decoder.lm_head.weight",
    }
    state = model_state({key: torch.tensor(float(index)) for index, key in enumerate(renamed)})
    assert {key: int(value) for key, value in state.items()} == {new: i for i, new in enumerate(renamed.values())}
