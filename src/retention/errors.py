"""Define the errors of the package: each names what is wrong, where, and the remedy."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from safetensors import SafetensorError

T = TypeVar("T")
# What ``from_pretrained`` of transformers raises for a folder that is damaged or not of the expected model.
MODEL_LOAD_ERRORS = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError)
_LARGEST = 3.4028234663852886e38  # of float32, which computes with the settings


class RetentionError(Exception):
    """Base class of all errors that the user can fix; the command line prints them without a traceback."""


class DataError(RetentionError, ValueError):
    """Raised when a data file or a row of it cannot be used; the message names the file, the row and the remedy."""


class CheckpointError(RetentionError, ValueError):
    """Raised when a checkpoint cannot be read or written, is not safe to load, or belongs to another model."""


class TrainingError(RetentionError, ArithmeticError):
    """Raised when a loss, a weight or a metric is no longer a finite number."""


@dataclass(frozen=True)
class Problem:
    """One fault of a configuration.

    Attributes:
        key: dotted path of the offending value, relative to the object that raised it (``rho``, ``dual.eta``).
        message: what is wrong, the value, the allowed range and the remedy.
    """

    key: str
    message: str

    def under(self, prefix: str) -> Problem:
        """Return the same problem with ``prefix`` in front of its key."""
        return Problem(".".join(part for part in (prefix, self.key) if part), self.message)


class ConfigError(RetentionError, ValueError):
    """Raised for a faulty configuration; lists all problems that were collected."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(self._text())

    def _text(self) -> str:
        count = len(self.problems)
        head = f"{count} problem{'' if count == 1 else 's'}"
        return "\n".join([head, *(f"  {problem.key}: {problem.message}" for problem in self.problems)])

    def __reduce__(self) -> tuple[type[ConfigError], tuple[tuple[Problem, ...]]]:
        return type(self), (self.problems,)


def first_line(error: BaseException, longest: int | None = None) -> str:
    r"""Return the first line of an error's message, or the name of its type if the message is empty.

    Args:
        error: the error.
        longest: characters to return at most; None = the whole line.

    Examples:
        >>> first_line(ValueError("\ncannot read\nthe file"))
        'cannot read'
        >>> first_line(KeyError())
        'KeyError'
    """
    lines = str(error).strip().splitlines()
    return lines[0][:longest] if lines else type(error).__name__


def require(condition: bool, key: str, message: str) -> None:
    """Raise ``ConfigError`` with one problem unless ``condition`` holds.

    Args:
        condition: what must be true.
        key: dotted path of the checked value, relative to the caller.
        message: what is wrong, the value, the allowed range and the remedy.

    Raises:
        ConfigError: ``condition`` is false.

    Examples:
        >>> require(0 < 1.7 <= 1, "rho", "must be in (0, 1], got 1.7")
        Traceback (most recent call last):
        ...
        retention.errors.ConfigError: 1 problem
          rho: must be in (0, 1], got 1.7
    """
    if not condition:
        raise ConfigError([Problem(key, message)])


def require_number(
    key: str,
    value: float | None,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    name: str = "",
) -> None:
    """Raise ``ConfigError`` unless a setting is a number within its range, finite in float32; NaN is refused.

    Args:
        key: dotted path of the value, relative to the caller.
        value: the setting; None is passed through, for settings that may be null.
        low: smallest allowed value.
        high: largest allowed value.
        above: the value must be greater than this.
        below: the value must be less than this.
        name: what the value is, for the message.

    Raises:
        ConfigError: the value is out of range or no number.

    Examples:
        >>> require_number("lr", float("inf"), above=0, name="the learning rate")
        Traceback (most recent call last):
        ...
        retention.errors.ConfigError: 1 problem
          lr: the learning rate must be a finite number > 0, got inf
    """
    if value is None:
        return
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    finite = is_number and is_finite(value)
    inside = finite and all(
        (
            low is None or value >= low,
            high is None or value <= high,
            above is None or value > above,
            below is None or value < below,
        )
    )
    require(inside, key, f"{name} must be {_range(low, high, above, below, finite=finite)}, got {value}".strip())


def require_object(key: str, value: object, kind: type, example: str) -> None:
    """Raise ``ConfigError`` unless a setting is an object of a class; the class itself or its name is refused.

    Args:
        key: dotted path of the value, relative to the caller.
        value: the setting.
        kind: class of the objects that are allowed.
        example: such an object, as it would be written.

    Raises:
        ConfigError: ``value`` is something else.

    Examples:
        >>> require_object("policy", "random", Problem, "Problem('rho', 'is missing')")
        Traceback (most recent call last):
        ...
        retention.errors.ConfigError: 1 problem
          policy: must be a Problem, got 'random'; pass an object such as Problem('rho', 'is missing')
    """
    if not isinstance(value, kind):
        given = f"the class {value.__name__}" if isinstance(value, type) else f"{value!r:.80}"
        message = f"must be a {kind.__name__}, got {given}; pass an object such as {example}"
        raise ConfigError([Problem(key, message)])


@contextmanager
def option_names(options: Mapping[str, str]) -> Iterator[None]:
    """Name, in the errors of a block, the options of a command in place of configuration keys.

    Args:
        options: configuration key -> what the user of the command can change.

    Examples:
        >>> with option_names({"data.dir": "--data"}):
        ...     raise DataError("no data: pass data.dir=<folder>")
        Traceback (most recent call last):
        ...
        retention.errors.DataError: no data: pass --data <folder>
    """
    try:
        yield
    except ConfigError as error:
        error.problems = tuple(
            Problem(_with_options(problem.key, options), _with_options(problem.message, options))
            for problem in error.problems
        )
        error.args = (error._text(),)
        raise
    except RetentionError as error:
        error.args = (_with_options(str(error), options),)
        raise


def _with_options(text: str, options: Mapping[str, str]) -> str:
    """Replace whole keys; ``key=value`` becomes ``option value``."""
    for key, option in options.items():
        name = rf"(?<![\w./-]){re.escape(key)}"
        text = re.sub(rf"{name}=", f"{option} ", text)
        text = re.sub(rf"{name}(?!\.?\w)", option, text)
    return text


def is_finite(value: float) -> bool:
    """Return True if a number is finite in float32."""
    return abs(value) <= _LARGEST  # false for NaN and infinity


def _range(low: float | None, high: float | None, above: float | None, below: float | None, *, finite: bool) -> str:
    lower, upper = (above if low is None else low), (below if high is None else high)
    if lower is not None and upper is not None:
        text = f"in {'(' if low is None else '['}{lower}, {upper}{')' if high is None else ']'}"
    elif lower is not None:
        text = f"{'>' if low is None else '>='} {lower}"
    elif upper is not None:
        text = f"{'<' if high is None else '<='} {upper}"
    else:
        return "a finite number"
    return text if finite else f"a finite number {text}"


class Checks:
    """Collect the problems of a configuration, then raise them together.

    Examples:
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
        """Record a problem unless ``condition`` holds, and return ``condition``."""
        if not condition:
            self.problems.append(Problem(key, message))
        return condition

    def gather(self, check: Callable[[], T], prefix: str = "") -> T | None:
        """Call ``check`` and return its result; if it raises ``ConfigError``, record the problems and return None."""
        try:
            return check()
        except ConfigError as error:
            self.problems.extend(problem.under(prefix) for problem in error.problems)
            return None

    def finish(self) -> None:
        """Raise ``ConfigError`` if any problem was recorded."""
        if self.problems:
            raise ConfigError(self.problems)
