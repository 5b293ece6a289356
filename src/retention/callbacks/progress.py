"""Choose a progress bar for a terminal or a log file."""

from __future__ import annotations

import sys

from pytorch_lightning.callbacks import ProgressBar, RichProgressBar, TQDMProgressBar


def progress_bar(*, log_refresh_rate: int = 50) -> ProgressBar:
    """Build a Rich progress bar on a terminal, otherwise a plain one that is redrawn rarely.

    In a log file every redraw is one more line.

    Args:
        log_refresh_rate: batches between redraws where the output is no terminal; 0 = no progress bar.
    """
    if sys.stdout.isatty():
        return RichProgressBar(leave=True)
    return TQDMProgressBar(refresh_rate=log_refresh_rate)
