"""Tests of the state of the random generators, alone and by rank."""

from __future__ import annotations

import torch

from retention.training.random_state import gather_rng_states, restore_rng, rng_state, seed_rank, state_of_rank


def test_restore_rng_repeats_random_numbers() -> None:
    state = rng_state()
    first = torch.rand(4)
    assert not torch.equal(first, torch.rand(4))
    restore_rng(state)
    assert torch.equal(first, torch.rand(4))


def test_single_process_has_the_state_of_one_rank() -> None:
    [state] = gather_rng_states()
    assert torch.equal(state["cpu"], torch.get_rng_state())


def test_checkpoint_of_an_earlier_version_has_one_state_for_all_ranks() -> None:
    state = rng_state()
    assert state_of_rank(state, 1) is state
    assert state_of_rank([{}, state], 1) is state


def test_ranks_draw_different_numbers_and_the_first_those_of_a_single_process() -> None:
    drawn = []
    with torch.random.fork_rng():
        for seed in (3, 4):
            for rank in (0, 1, 2):
                torch.manual_seed(seed)
                alone = torch.rand(4)
                torch.manual_seed(seed)
                seed_rank(rank)
                drawn.append(torch.rand(4))
                assert torch.equal(drawn[-1], alone) == (rank == 0)
    assert len({tuple(each.tolist()) for each in drawn}) == 6, "no rank repeats another one, of another seed either"
