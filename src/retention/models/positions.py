"""Extend tables of learned positions, so that an encoder trained on 512 tokens reads 4,096."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from retention.engine.adapters import adapter_for
from retention.engine.adapters.base import PositionTable
from retention.errors import ConfigError, Problem, require


def extended_config(config: Any, max_positions: int) -> Any:
    """Return the configuration with ``max_positions`` positions; ``config`` itself if it has exactly as many.

    Raises:
        ConfigError: the family learns no absolute positions, or the checkpoint has more of them than requested.
    """
    table = _table(config)
    positions = table.num_positions(config)
    message = f"must be at least the {positions} positions of the checkpoint, got {max_positions}; leave it null"
    require(positions <= max_positions, "backbone.max_positions", message)
    if positions == max_positions:
        return config
    longer = copy.deepcopy(config)
    setattr(longer, table.field, max_positions + table.offset)
    return longer


def extend_positions(encoder: nn.Module, longer: nn.Module) -> nn.Module:
    """Copy the weights of ``encoder`` to ``longer``, with its table of positions repeated; return ``longer``.

    The learned rows 0..P-1 are repeated in order: position i has row i mod P. So the first P positions are unchanged,
    and neighbors stay neighbors everywhere except where one copy meets the next. (Longformer was initialized in the
    same way from RoBERTa.)

    Args:
        encoder: the checkpoint.
        longer: the same encoder built from ``extended_config``.
    """
    config: Any = longer.config
    table = _table(config)
    state = encoder.state_dict()
    state[table.parameter] = repeat_rows(state[table.parameter], table.offset, table.num_positions(config))
    longer.load_state_dict(state)
    return longer


def repeat_rows(rows: Tensor, offset: int, positions: int) -> Tensor:
    """Return rows [offset + positions, D] from [offset + P, D]: the first ``offset`` stay, the other P are repeated."""
    learned = rows[offset:]
    longer = rows.new_empty(offset + positions, rows.shape[1])
    longer[:offset] = rows[:offset]
    for start in range(0, positions, len(learned)):
        part = longer[offset + start : offset + start + len(learned)]
        part.copy_(learned[: len(part)])
    return longer


def _table(config: Any) -> PositionTable:
    table = adapter_for(config.model_type).position_table(config)
    if table is None:
        message = f"{config.model_type} learns no table of positions and needs no extension; leave it null"
        raise ConfigError([Problem("backbone.max_positions", message)])
    return table
