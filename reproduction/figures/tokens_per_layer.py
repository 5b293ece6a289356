"""Draw which tokens of one document each layer still processes; see ``reproduction.token_example`` for the data."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from retention.errors import DataError
from retention.json_text import parse_json
from retention.report.detokenize import detokenize
from retention.report.figure_style import COLORS, GREY, RULE, STYLE

EXAMPLE = Path("results") / "examples" / "tokens_per_layer.json"
_CELL = 0.185  # inches


def tokens_figure(root: Path) -> Figure:
    """Draw the committed example: one column per token, one row per layer, a filled cell where the layer sees it.

    Args:
        root: folder of the checkout.

    Raises:
        DataError: the example cannot be read.
    """
    file = root / EXAMPLE
    try:
        example = parse_json(file.read_text(encoding="utf-8"))
        tokens, depth, layers = example["tokens"], example["depth"], int(example["layers"])
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{file}: is not an example of a token heat map ({error})") from error
    words = [token.text.strip() for token in detokenize(tokens)]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(_CELL * len(words) + 1.4, _CELL * layers * 1.5 + 0.85))
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        axes.set_axis_off()
        axes.set_xlim(-6.0, len(words))
        axes.set_ylim(layers * 1.5 + 0.1, -4.2)
        for layer in range(layers):
            seen = [position for position, passed in enumerate(depth) if passed >= layer]
            top = 1.5 * layer
            label = f"layer {layer + 1}: {len(seen)} tokens"
            axes.text(-0.4, top + 0.6, label, ha="right", va="center", fontsize=7.5)
            for position in range(len(words)):
                present = depth[position] >= layer
                color = COLORS[0] if present else RULE
                axes.add_patch(Rectangle((position + 0.06, top), 0.88, 1.2, color=color, alpha=1.0 if present else 0.5))
        for position, word in enumerate(words):
            last = depth[position] >= layers - 2
            weight, color = ("bold", "black") if last else ("normal", GREY)
            axes.text(
                position + 0.55,
                -0.25,
                word,
                rotation=60,
                ha="left",
                va="bottom",
                fontsize=7,
                weight=weight,
                color=color,
            )
    return figure
