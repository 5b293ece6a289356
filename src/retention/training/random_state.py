"""Give each rank its own random numbers, and store and restore the state of its generators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import distributed

_SEED_FACTOR = 1_000_003  # so that rank r of one run does not repeat rank 0 of the run whose seed is r larger

RandomState = dict[str, Any]


def rng_state() -> RandomState:
    """Return the state of this process's torch generators, in a form that checkpoints load safely.

    Returns:
        ``cpu`` and, with CUDA, ``cuda``: the state of the current device; both [bytes] uint8 on the CPU.
    """
    state: RandomState = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_rng(state: Mapping[str, Any]) -> None:
    """Set this process's torch generators to a state of ``rng_state``."""
    torch.set_rng_state(state["cpu"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        cuda = state["cuda"]
        if isinstance(cuda, list):  # earlier versions stored one state per device
            cuda = cuda[min(torch.cuda.current_device(), len(cuda) - 1)]
        torch.cuda.set_rng_state(cuda.cpu())


def gather_rng_states() -> list[RandomState]:
    """Return the state of every rank, by rank; all ranks must call it together."""
    state = rng_state()
    if not _several_ranks():
        return [state]
    states: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(states, state)
    return states


def state_of_rank(states: Sequence[RandomState] | RandomState, rank: int) -> RandomState:
    """Return the state of one rank from a checkpoint.

    Args:
        states: of ``gather_rng_states``; or the one state of rank 0 that earlier versions stored.
        rank: global rank, in [0, number of ranks).
    """
    return states if isinstance(states, dict) else states[rank]


def seed_rank(rank: int) -> None:
    """Give a rank other random numbers than rank 0, which keeps those of a single process.

    Dropout masks and gate samples of the ranks are independent then, as they are within one large batch.
    """
    if rank > 0:
        torch.manual_seed((torch.initial_seed() * _SEED_FACTOR + rank) % 2**63)


def _several_ranks() -> bool:
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
