"""Write data frames of text as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd


def text_frame(header: Sequence[str], rows: Sequence[Sequence[str]]) -> pd.DataFrame:
    """Build a data frame of text cells; a header may name two columns alike."""
    return pd.DataFrame([list(row) for row in rows], columns=pd.Index(list(header)), dtype=object)


def markdown_table(frame: pd.DataFrame, labels: int = 1) -> str:
    """Return a data frame as a Markdown table: the first ``labels`` columns to the left, the others to the right."""
    escaped = frame.map(_escape_bars).rename(columns=_escape_bars)
    alignment = ["left"] * labels + ["right"] * (frame.shape[1] - labels)
    return str(escaped.to_markdown(index=False, disable_numparse=True, colalign=alignment))


def _escape_bars(text: str) -> str:
    return text.replace("|", "\\|")
