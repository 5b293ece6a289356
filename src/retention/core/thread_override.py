"""Override a value inside a block for the current thread alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class ThreadOverride(threading.local):
    """Value that a block sets for its own thread; other threads see None. Copies and pickles start without a value.

    Examples:
        >>> override = ThreadOverride()
        >>> with override.using(0.5):
        ...     override.value
        0.5
        >>> override.value is None
        True
    """

    value: Any = None

    @contextmanager
    def using(self, value: Any) -> Iterator[None]:
        """Use a value inside the block."""
        before, self.value = self.value, value
        try:
            yield
        finally:
            self.value = before

    def __reduce__(self) -> tuple[type[ThreadOverride], tuple[()]]:
        return type(self), ()
