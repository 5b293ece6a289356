"""Set the target keep ratio of a schedule that lists the keep ratios of its gates."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from omegaconf import DictConfig, ListConfig
from omegaconf.errors import OmegaConfBaseException

from retention.errors import require

_ROUNDING = 0.005  # a rounded mean may be given as rho
_DIGITS = 4
_RHO_KEYS = ("retention.rho", "task.rho")


def types_rho(overrides: Sequence[str]) -> bool:
    """Return True if the target keep ratio is among the overrides of a command."""
    return any(override.lstrip("+").partition("=")[0] in _RHO_KEYS for override in overrides)


def set_rho_of_list(config: DictConfig, *, given: bool) -> None:
    """Replace ``retention.rho`` by the mean of the keep ratios that ``retention.schedule`` lists.

    A named schedule changes nothing, and invalid values are reported when the policy is built.

    Args:
        config: the composed configuration; changed in place, so that records hold the keep ratio in use.
        given: True if the user gave the keep ratio, which then has to be that of the list.

    Raises:
        ConfigError: the given keep ratio is another one.
    """
    try:
        ratios, rho = config.retention.get("schedule"), config.retention.get("rho")
        mean = mean_of_list(ratios)
    except OmegaConfBaseException:  # a reference that cannot be resolved
        return
    if mean is None or not _is_number(rho) or abs(rho - mean) <= _ROUNDING:
        return
    message = (
        f"is {rho}, but the keep ratios in retention.schedule have the mean {mean:g}; leave rho out, change "
        "the list, or name a schedule such as linear"
    )
    require(not given, "retention.rho", message)
    config.retention.rho = mean


def mean_of_list(schedule: object) -> float | None:
    """Return the mean of the keep ratios that a schedule lists, rounded to four digits; None if it lists none."""
    if not isinstance(schedule, ListConfig | tuple | list) or len(schedule) == 0:
        return None
    return round(fmean(schedule), _DIGITS) if all(map(_is_number, schedule)) else None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
