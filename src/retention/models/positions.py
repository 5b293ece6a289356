"""Longer tables of learned positions: an encoder trained on 512 tokens reads 4,096."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from retention.engine.adapters import adapter_for
from retention.engine.adapters.base import PositionTable
from retention.errors import ConfigError, Problem


def extended_config(config: Any, max_positions: int) -> Any:
    """The configuration with room for ``max_positions`` tokens; ``config`` itself where it has that already.

    Raises:
        ConfigError: the family learns no absolute positions, or the checkpoint has more of them than asked for.
    """
    table = _table(config)
    places = table.num_positions(config)
    if places > max_positions:
        message = f"must be at least the {places} positions of the checkpoint, got {max_positions}; leave it null"
        raise ConfigError([Problem("backbone.max_positions", message)])
    if places == max_positions:
        return config
    longer = copy.deepcopy(config)
    setattr(longer, table.field, max_positions + table.offset)
    return longer


def extend(encoder: nn.Module, longer: nn.Module) -> nn.Module:
    """Give ``longer`` the weights of ``encoder``, with its table of positions repeated.

    The learned rows 0..P-1 are repeated in order: position i has row i mod P. So the first P positions are unchanged,
    and neighbours stay neighbours everywhere except where one copy meets the next. (Longformer was started in the same
    way from RoBERTa.)

    Args:
        encoder: the checkpoint.
        longer: the same encoder built from ``extended_config``.
    """
    config: Any = longer.config
    table = _table(config)
    state = encoder.state_dict()
    state[table.parameter] = repeated(state[table.parameter], table.offset, table.num_positions(config))
    longer.load_state_dict(state)
    return longer


def repeated(rows: Tensor, offset: int, places: int) -> Tensor:
    """Rows [offset + P, D] -> [offset + places, D]: the first ``offset`` stay, the other P are repeated in order."""
    learned = rows[offset:]
    longer = rows.new_empty(offset + places, rows.shape[1])
    longer[:offset] = rows[:offset]
    for start in range(0, places, len(learned)):
        part = longer[offset + start : offset + start + len(learned)]
        part.copy_(learned[: len(part)])
    return longer


def _table(config: Any) -> PositionTable:
    table = adapter_for(config.model_type).position_table(config)
    if table is None:
        message = f"{config.model_type} learns no table of positions, so longer texts need no extension; leave it null"
        raise ConfigError([Problem("backbone.max_positions", message)])
    return table
