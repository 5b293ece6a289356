"""Locate the packaged configuration files and register policies of other packages with Hydra."""

from __future__ import annotations

import dataclasses
import inspect
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore

from retention.records.defaults import config_dir

if TYPE_CHECKING:
    from retention.policies.bases.retention_policy import RetentionPolicy

__all__ = ["config_dir", "policy_node", "register_policies"]

# Settings that follow the rest of the configuration, whatever default the constructor has.
_INTERPOLATIONS = {"rho": "${task.rho}", "seed": "${seed}", "dual": "${dual}"}


def register_policies() -> None:
    """Offer the policies that other packages declare as entry points as ``retention=<name>``.

    Policies that have a yaml file in the configuration folder are left to that file.
    """
    from retention.policies.registry import available_policies  # loads torch and transformers

    store = ConfigStore.instance()
    with_file = {path.stem for path in (config_dir() / "retention").glob("*.yaml")}
    for name, policy in available_policies().items():
        if name not in with_file:
            store.store(group="retention", name=name, node=policy_node(name, policy))


def policy_node(name: str, policy: type[RetentionPolicy]) -> dict[str, Any]:
    """Return the configuration of a policy with the defaults of its constructor.

    Parameters whose default is no plain value are left out; a dataclass contributes its fields.

    Args:
        name: becomes the policy's display name, if its constructor takes one.
        policy: the class.
    """
    values = {"name": name, **_INTERPOLATIONS}
    node: dict[str, Any] = {"_target_": f"{policy.__module__}.{policy.__qualname__}"}
    for key, parameter in inspect.signature(policy).parameters.items():
        default = parameter.default
        if key in values:
            node[key] = values[key]
        elif dataclasses.is_dataclass(default) and not isinstance(default, type):
            node |= dataclasses.asdict(default)
        elif default is None or isinstance(default, bool | int | float | str):
            node[key] = default
    return node
