"""The progress bar that suits where the output goes."""

from __future__ import annotations

import sys

from pytorch_lightning.callbacks import ProgressBar, RichProgressBar, TQDMProgressBar


def progress_bar(*, log_refresh_rate: int = 50) -> ProgressBar:
    """A Rich bar on a terminal, else a plain one that is redrawn rarely.

    A bar redraws itself by moving the cursor; in a file every redraw stays behind as another line.

    Args:
        log_refresh_rate: batches between redraws where the output is no terminal; 0 = none.
    """
    if sys.stdout.isatty():
        return RichProgressBar(leave=True)
    return TQDMProgressBar(refresh_rate=log_refresh_rate)
