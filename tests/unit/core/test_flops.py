"""Test analytic FLOPs against values computed by hand."""

from __future__ import annotations

from dataclasses import replace

import torch

from retention.core.flops import EncoderShape, encoder_flops, flops_by_layer, layer_flops, scorer_flops

SHAPE = EncoderShape(num_layers=3, hidden_size=4, intermediate_size=8)


def test_flops_of_one_layer() -> None:
    # 10 tokens: projections 4 * 4 * 4 = 64 and feed-forward 2 * 4 * 8 = 64 multiply-accumulates per token,
    # attention 2 * 10 * 10 * 4 = 800; two FLOPs each
    assert layer_flops(SHAPE, 0, torch.tensor([10])).tolist() == [2 * (10 * 128 + 800)]


def test_gated_feed_forward_has_a_third_matrix() -> None:
    gated = EncoderShape(num_layers=1, hidden_size=4, intermediate_size=8, ffn_matrices=3)
    assert layer_flops(gated, 0, torch.tensor([10])).tolist() == [2 * (10 * 160 + 800)]


def test_window_limits_the_keys() -> None:
    local = EncoderShape(num_layers=2, hidden_size=4, intermediate_size=8, windows=(None, 2))
    assert layer_flops(local, 0, torch.tensor([10])).tolist() == [2 * (1280 + 800)]
    assert layer_flops(local, 1, torch.tensor([10, 3])).tolist() == [2 * (1280 + 2 * 10 * 5 * 4), 2 * (384 + 2 * 9 * 4)]


def test_later_layers_see_the_kept_tokens() -> None:
    lengths, kept = torch.tensor([10, 6]), {0: torch.tensor([5, 3]), 2: torch.tensor([1, 1])}
    expected = layer_flops(SHAPE, 0, lengths) + 2 * layer_flops(SHAPE, 0, torch.tensor([5, 3]))
    assert torch.equal(encoder_flops(SHAPE, lengths, kept), expected)  # a gate after the last layer saves nothing


def test_gates_before_the_feed_forward_part_reduce_it() -> None:
    # layer 0: 10 tokens through projections (64) and attention (800), 5 through the feed-forward part (64)
    first = 2 * (10 * 64 + 800 + 5 * 64)
    lengths, kept = torch.tensor([10]), {0: torch.tensor([5]), 2: torch.tensor([1])}
    last = layer_flops(SHAPE, 2, torch.tensor([5])) - 2 * 4 * 64
    expected = first + layer_flops(SHAPE, 1, torch.tensor([5])) + last
    assert torch.equal(encoder_flops(SHAPE, lengths, kept, before_feed_forward=True), expected)


def test_flops_without_gates_are_those_of_the_dense_encoder() -> None:
    lengths = torch.tensor([10, 6])
    assert torch.equal(encoder_flops(SHAPE, lengths, {}), 3 * layer_flops(SHAPE, 0, lengths))


def test_scorer_counts_the_tokens_of_the_previous_gate() -> None:
    lengths, kept = torch.tensor([10]), {0: torch.tensor([6]), 1: torch.tensor([4]), 2: torch.tensor([2])}
    # gate 1 has no scorer; gate 2 sees the 4 tokens that gate 1 kept
    assert scorer_flops({0: 7, 2: 5}, lengths, kept, num_layers=3).tolist() == [[2 * 10 * 7], [0], [2 * 4 * 5]]
    assert scorer_flops({}, lengths, kept, num_layers=3).tolist() == [[0]] * 3


def test_large_flops_are_exact_beyond_float32() -> None:
    large = EncoderShape(num_layers=1, hidden_size=1024, intermediate_size=4096)
    n = 8191
    exact = 2 * n * (4 * 1024**2 + 2 * 1024 * 4096) + 4 * n * n * 1024
    assert int(layer_flops(large, 0, torch.tensor([n])).item()) == exact


def test_global_tokens_with_a_window() -> None:
    local = EncoderShape(num_layers=1, hidden_size=4, intermediate_size=8, windows=(2,), global_heads=2)
    plain = 2 * (1280 + 2 * 10 * 5 * 4)
    assert layer_flops(local, 0, torch.tensor([10])).tolist() == [plain]
    # every token sees one key more; the global one goes through three 4 x 4 matrices, and through 10 tokens twice, by
    # two heads of width 4 each
    one = plain + 2 * (2 * 10 * 4) + 2 * (3 * 16 + 2 * 10 * 2 * 4)
    assert layer_flops(local, 0, torch.tensor([10]), torch.tensor([1])).tolist() == [one]
    # two of them are as wide as the layer: keys and values of all tokens are projected
    two = plain + 2 * (2 * 10 * 2 * 4) + 2 * (2 * 10 * 16 + 2 * 16 + 2 * 10 * 2 * 4)
    assert layer_flops(local, 0, torch.tensor([10]), torch.tensor([2])).tolist() == [two]


def test_attention_width_and_relative_positions() -> None:
    wide = EncoderShape(num_layers=1, hidden_size=4, intermediate_size=8, attention_size=6, position_macs=5)
    assert layer_flops(wide, 0, torch.tensor([10])).tolist() == [2 * (10 * (4 * 4 * 6 + 64 + 5) + 2 * 10 * 10 * 6)]


def test_layers_add_up_to_the_encoder() -> None:
    lengths, kept = torch.tensor([10, 6]), {0: torch.tensor([5, 3])}
    by_layer = flops_by_layer(SHAPE, lengths, kept)
    assert by_layer.shape == (3, 2)
    assert torch.equal(by_layer[0], layer_flops(SHAPE, 0, lengths))
    assert torch.equal(by_layer[2], layer_flops(SHAPE, 2, torch.tensor([5, 3])))
    assert torch.equal(by_layer.sum(0), encoder_flops(SHAPE, lengths, kept))


def test_embedding_projection_counts_in_the_first_layer() -> None:
    narrow = EncoderShape(num_layers=2, hidden_size=4, intermediate_size=8, embedding_macs=3)
    more = flops_by_layer(narrow, torch.tensor([10]), {0: torch.tensor([5])})
    plain = flops_by_layer(SHAPE, torch.tensor([10]), {0: torch.tensor([5])})
    assert (more - plain[:2]).tolist() == [[2 * 10 * 3], [0]]


def test_batch_macs_are_divided_among_the_samples() -> None:
    once = EncoderShape(num_layers=3, hidden_size=4, intermediate_size=8, batch_macs=12)
    more = flops_by_layer(once, torch.tensor([10, 6]), {}) - flops_by_layer(SHAPE, torch.tensor([10, 6]), {})
    assert more.tolist() == [[12, 12]] * 3


def test_gate_before_layer_0_shortens_every_layer() -> None:
    lengths, kept = torch.tensor([10, 6]), {-1: torch.tensor([5, 3])}
    short = 3 * layer_flops(SHAPE, 0, kept[-1])
    assert torch.equal(encoder_flops(SHAPE, lengths, kept), short)
    assert torch.equal(encoder_flops(SHAPE, lengths, kept, before_feed_forward=True), short)
    projected = replace(SHAPE, embedding_macs=3)  # projects every embedding, before the gate
    assert torch.equal(encoder_flops(projected, lengths, kept), short + 2 * 3 * lengths)


def test_scorer_before_layer_0_counts_in_layer_0() -> None:
    lengths, kept = torch.tensor([10]), {-1: torch.tensor([6]), 0: torch.tensor([4])}
    assert scorer_flops({-1: 7, 0: 5, 1: 3}, lengths, kept, num_layers=2).tolist() == [
        [2 * (10 * 7 + 6 * 5)],
        [2 * 4 * 3],
    ]
