"""List the available retention policies: built-in ones and those of installed packages."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import warnings
from functools import cache
from importlib.metadata import entry_points

from retention.policies.bases.retention_policy import RetentionPolicy

ENTRY_POINT_GROUP = "retention.policies"


@cache
def built_in_policies() -> dict[str, type[RetentionPolicy]]:
    """Return the built-in policies by name; the name is that of the module, one policy per module."""
    import retention.policies as package

    policies = {}
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        for value in vars(module).values():
            if _is_policy(value) and value.__module__ == module.__name__:
                policies[info.name] = value
    return policies


@cache
def available_policies() -> dict[str, type[RetentionPolicy]]:
    """Return all policies by name: built-in ones and those of installed packages.

    A package adds a policy by an entry point in the group ``retention.policies`` that maps a name to its class. An
    entry point that cannot be used is skipped with a warning that names its package. The result is computed once and
    shared; do not change it.
    """
    policies = dict(built_in_policies())
    for entry_point in entry_points(group=ENTRY_POINT_GROUP):
        package = entry_point.dist.name if entry_point.dist is not None else "unknown"
        origin = f"the policy {entry_point.name!r} ({entry_point.value}) of the package {package!r} is skipped"
        if entry_point.name in policies:
            warnings.warn(f"{origin}: a policy of this name exists already", stacklevel=2)
            continue
        try:
            policy = entry_point.load()
        except Exception as error:  # any exception of a third-party module, so that it cannot break all other policies
            warnings.warn(f"{origin}: {type(error).__name__}: {error}", stacklevel=2)
            continue
        if _is_policy(policy):
            policies[entry_point.name] = policy
        else:
            warnings.warn(f"{origin}: it is not a subclass of retention.policies.RetentionPolicy", stacklevel=2)
    return policies


def _is_policy(value: object) -> bool:
    return inspect.isclass(value) and issubclass(value, RetentionPolicy)
