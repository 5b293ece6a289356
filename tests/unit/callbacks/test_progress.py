"""Check the choice of the progress bar."""

from __future__ import annotations

import io
import sys

import pytest
from pytorch_lightning.callbacks import RichProgressBar, TQDMProgressBar

from retention.callbacks import progress_bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_rich_progress_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert isinstance(progress_bar(), RichProgressBar)


def test_plain_progress_bar_in_a_log_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    bar = progress_bar(log_refresh_rate=20)
    assert isinstance(bar, TQDMProgressBar)
    assert bar.refresh_rate == 20
