"""Errors that name what is wrong, where, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass


class RetentionError(Exception):
    """Base class of every error that is the user's to mend; ``run.py`` prints it without a traceback."""


class DataError(RetentionError, ValueError):
    """A data file or a row of it cannot be used; the message names the file, the row and the remedy."""


class CheckpointError(RetentionError, ValueError):
    """A checkpoint cannot be read, or belongs to another model."""


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a configuration.

    Attributes:
        key: dotted path of the offending value, relative to whoever raised it (``rho``, ``dual.eta``).
        message: what is wrong, the value, the allowed range and the remedy.
    """

    key: str
    message: str

    def under(self, prefix: str) -> Problem:
        """The same problem seen from one level up."""
        return Problem(".".join(part for part in (prefix, self.key) if part), self.message)


class ConfigError(RetentionError, ValueError):
    """Every problem of a configuration at once."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(self._text())

    def _text(self) -> str:
        count = len(self.problems)
        head = f"{count} problem{'' if count == 1 else 's'}"
        return "\n".join([head, *(f"  {problem.key}: {problem.message}" for problem in self.problems)])

    def __reduce__(self) -> tuple[type[ConfigError], tuple[tuple[Problem, ...]]]:
        return type(self), (self.problems,)


class Checks:
    """Collects problems, then raises them together.

    >>> checks = Checks()
    >>> checks.require(0 < 1.7 <= 1, "rho", "must be in (0, 1], got 1.7")
    False
    >>> checks.finish()
    Traceback (most recent call last):
    ...
    retention.errors.ConfigError: 1 problem
      rho: must be in (0, 1], got 1.7
    """

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def require(self, condition: bool, key: str, message: str) -> bool:
        """Record a problem unless ``condition`` holds; returns ``condition``."""
        if not condition:
            self.problems.append(Problem(key, message))
        return condition

    def gather(self, check: Callable[[], object], prefix: str = "") -> None:
        """Record what ``check`` complains about and go on."""
        try:
            check()
        except ConfigError as error:
            self.problems.extend(problem.under(prefix) for problem in error.problems)

    def finish(self) -> None:
        """Raise ``ConfigError`` if anything was recorded."""
        if self.problems:
            raise ConfigError(self.problems)
