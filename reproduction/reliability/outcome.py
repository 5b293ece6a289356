"""Classify attempts: right result, clear error, error of an inner library, hang, or wrong answer."""

from __future__ import annotations

import signal
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from retention.errors import RetentionError
from retention.records import Reliability

RIGHT = "right"  # the right result
CLEAR = "clear_error"  # an error of this project, or of Hydra in its own words
INNER = "inner_traceback"  # an error of an inner library
HANG = "hang"  # over the time limit
WRONG = "wrong"  # a wrong answer, no error where one was due, or foreign code was run
OUTCOMES = (RIGHT, CLEAR, INNER, HANG, WRONG)
_MAX_LINES = 60  # of a clear error
_MAX_FAULTS = 40  # listed in a record


class TimeLimit(BaseException):
    """Raised in an attempt that is over its time limit; no ``Exception``, so that no handler catches it."""


class WrongAnswer(AssertionError):
    """Raised by an attempt whose result differs from the right one."""


class Tally:
    """Counts of the outcomes of a check, with a description of each fault.

    Args:
        check: name of the check, for its record.
        every: seconds between two lines of progress.
    """

    def __init__(self, check: str, every: float = 20.0) -> None:
        self.check = check
        self.counts: Counter[str] = Counter()
        self.by_kind: Counter[str] = Counter()
        self.faults: list[str] = []
        self._every, self._shown = every, time.monotonic()

    def add(self, outcome: str, kind: str, text: str = "") -> None:
        """Count one attempt of a kind; ``text`` describes it if it is a fault."""
        self.counts[outcome] += 1
        self.by_kind[f"{kind}: {outcome}"] += 1
        if outcome not in (RIGHT, CLEAR):
            self.faults.append(f"{outcome}: {kind}: {text}"[:400])
            print(f"  {self.faults[-1]}", flush=True)
        if time.monotonic() - self._shown > self._every:
            self._shown = time.monotonic()
            print(f"  {self.check}: {self.tried} tried, {dict(self.counts)}", flush=True)

    def attempt(self, kind: str, text: str, call: Callable[[], None], limit_s: float = 60.0) -> str:
        """Run one attempt and count it; return its outcome.

        Args:
            kind: kind of the attempt.
            text: what distinguishes it from others of its kind.
            call: returns if the result is right, and raises ``WrongAnswer`` if it is not.
            limit_s: time limit in seconds; only in the main thread.
        """
        outcome, reason = classify(call, limit_s)
        self.add(outcome, kind, f"{text}: {reason}" if reason else text)
        return outcome

    @property
    def tried(self) -> int:
        """Return the number of attempts."""
        return self.counts.total()

    def result(self, **details: object) -> Reliability:
        """Return the record's content."""
        return Reliability(
            check=self.check,
            tried=self.tried,
            clear=self.counts[RIGHT] + self.counts[CLEAR],
            wrong=self.counts[WRONG],
            details={
                "outcomes": {name: self.counts[name] for name in OUTCOMES},
                "by_kind": dict(sorted(self.by_kind.items())),
                "faults": self.faults[:_MAX_FAULTS],
                **details,
            },
        )


def classify(call: Callable[[], None], limit_s: float = 60.0) -> tuple[str, str]:
    """Run an attempt; return its outcome, and the reason if it is a fault."""
    try:
        with time_limit(limit_s):
            call()
    except TimeLimit:
        return HANG, f"over {limit_s:g} s"
    except WrongAnswer as error:
        return WRONG, str(error)
    except (RetentionError, HydraException, OmegaConfBaseException) as error:
        long = str(error).count("\n") >= _MAX_LINES or "Traceback" in str(error)
        return (INNER, "the message is a traceback or too long") if long else (CLEAR, "")
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        last = frames[-1] if frames else None
        at = "" if last is None else f" ({'/'.join(last.filename.split('/')[-3:])}:{last.lineno})"
        return INNER, f"{type(error).__name__}: {' '.join(str(error).split())[:160]}{at}"
    return RIGHT, ""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise ``TimeLimit`` in the block after some seconds; without effect outside of the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(signum: int, frame: FrameType | None) -> None:
        raise TimeLimit(f"over {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
