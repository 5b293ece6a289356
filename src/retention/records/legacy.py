"""Read configurations and records of earlier versions: renamed keys, fields and classes."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

# Dotted keys of the configuration that were renamed, old -> new. The new node is written beside the old one's siblings.
RENAMED_KEYS: Mapping[str, str] = {
    "place": "prune_at",
    "task.module": "task.head",
    "task.head.units": "task.head.spans",
    "phases.removal_start": "phases.pruning_start",
    "distill.states": "distill.pooled_states",
    "distill.tokens": "distill.token_states",
    "budgets.in_place": "budgets.in_place_weight",
    "retention.scorer": "retention.scorer_kind",
    "retention.inner": "retention.scorer_dim",
    "retention.both_ways": "retention.bidirectional",
    "retention.explore": "retention.ranking_noise",
    "retention.acts_on": "retention.gate_target",
    "retention.carry": "retention.token_fusion",
    "retention.strict": "retention.exact_topk",
    "retention.calibrate": "retention.calibrate_threshold",
}
# Config groups that were renamed, old -> new.
RENAMED_GROUPS: Mapping[str, str] = {"guidance": "distillation"}
# Fields of result records that were renamed, old -> new.
RENAMED_FIELDS: Mapping[str, str] = {
    "kept_share": "keep_ratio",
    "flops_share": "flops_ratio",
    "place": "prune_at",
}


def upgrade_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a plain configuration in which renamed keys have their present names.

    A configuration that already uses the present names is returned unchanged, so the function can be applied twice.

    Args:
        config: nested plain mapping, for example the configuration stored in a checkpoint or a record.
    """
    upgraded = deepcopy(dict(config))
    for old, new in RENAMED_KEYS.items():
        *parents, last = old.split(".")
        node: Any = upgraded
        for name in parents:
            node = node.get(name) if isinstance(node, dict) else None
        if isinstance(node, dict) and last in node:
            node.setdefault(new.rpartition(".")[2], node.pop(last))
    return upgraded


def upgrade_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a result record with the present names of its fields and of its configuration's keys."""
    upgraded = {RENAMED_FIELDS.get(field, field): value for field, value in record.items()}
    if isinstance(upgraded.get("config"), Mapping):
        upgraded["config"] = upgrade_config(upgraded["config"])
    return upgraded
