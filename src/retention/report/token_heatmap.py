"""A page that shows which tokens were remembered: one self-contained HTML file from a retention profile."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from retention.errors import DataError
from retention.records import write_atomic
from retention.report.detokenize import pieces
from retention.report.token_heatmap_style import stylesheet

_NEEDED = ("mean", "by_layer", "gated_layers", "examples")
_ROW = 30  # height of one bar with its gap, in SVG units
_LEFT, _BAR = 96, 424  # where bars start and how long 100 % is


def picture(profile: Mapping[str, Any], title: str) -> str:
    """The page as HTML: kept share per layer as bars, then every example with its tokens marked by how far they came.

    How far a token came is shown by ink, background, line and tooltip, so that nothing hangs on colour alone. The page
    loads nothing and follows the reader's light or dark setting.

    Args:
        profile: content of ``retention_profile.json``, see ``retention.callbacks.RetentionProfile``.
        title: heading of the page.

    Raises:
        DataError: the profile lacks a part, or an example's depths do not fit its tokens.
    """
    missing = [field for field in _NEEDED if field not in profile]
    if missing:
        raise DataError(f"profile: lacks {', '.join(missing)}; it was not written by RetentionProfile")
    layers = [int(layer) for layer in profile["gated_layers"]]
    names = profile.get("label_names")
    examples = [_example(number, example, layers, names) for number, example in enumerate(profile["examples"], start=1)]
    body = [
        f"<header><h1>{escape(title)}</h1><p>{_summary(profile, layers)}</p></header>",
        _bars(profile, layers),
        _legend(layers) if layers and examples else "",
        *examples,
    ]
    return _page(escape(title), stylesheet(len(layers)), "\n".join(part for part in body if part))


def write_picture(profile_path: str | Path, html_path: str | Path, title: str = "What was remembered") -> None:
    """Turn a ``retention_profile.json`` into an HTML page.

    Raises:
        DataError: the profile cannot be read.
    """
    source = Path(profile_path)
    try:
        profile = json.loads(source.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"{source}: cannot be read ({error.strerror}); run a test first, it writes the profile"
        ) from error
    except ValueError as error:
        raise DataError(f"{source}: not a profile ({error})") from error
    if not isinstance(profile, dict):
        raise DataError(f"{source}: not a profile; expected a JSON object")
    write_atomic(Path(html_path), picture(profile, title))


def _page(title: str, style: str, body: str) -> str:
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{title}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _summary(profile: Mapping[str, Any], layers: Sequence[int]) -> str:
    if not layers:
        return "No gates: every token goes through every layer."
    mean = "an unknown share" if profile["mean"] is None else f"<strong>{_percent(profile['mean'])}</strong>"
    asked = "" if profile.get("rho") is None else f" ({_percent(profile['rho'])} asked)"
    gates = f"{len(layers)} gated layers" if len(layers) > 1 else "the gated layer"
    return f"On average {mean} of the tokens go on{asked}, taken over {gates}. Layers count from 0."


def _bars(profile: Mapping[str, Any], layers: Sequence[int]) -> str:
    shares = profile["by_layer"]
    known = [(layer, float(shares[str(layer)])) for layer in layers if str(layer) in shares]
    if not known:
        return ""
    height = _ROW * len(known) + 6
    listing = ", ".join(f"layer {layer} {_percent(share)}" for layer, share in known)
    rows = "".join(_bar(place, layer, share) for place, (layer, share) in enumerate(known))
    return (
        "<figure>\n<figcaption>Tokens that go on after each gated layer</figcaption>\n"
        f'<svg viewBox="0 0 620 {height}" role="img" aria-label="Kept share: {listing}">{rows}</svg>\n</figure>'
    )


def _bar(place: int, layer: int, share: float) -> str:
    top, width = _ROW * place + 6, max(2.0, _BAR * share)
    attention_output = top + 14
    return (
        f'<text class="name" x="{_LEFT - 12}" y="{attention_output}">layer {layer}</text>'
        f'<rect class="track" x="{_LEFT}" y="{top}" width="{_BAR}" height="18" rx="3"/>'
        f'<rect class="fill" x="{_LEFT}" y="{top}" width="{width:.1f}" height="18" rx="3"/>'
        f'<text class="value" x="{_LEFT + _BAR + 10}" y="{attention_output}">{_percent(share)}</text>'
    )


def _legend(layers: Sequence[int]) -> str:
    fates = "".join(
        f'<li><span class="t d{depth}">token</span> {_fate(depth, layers)}</li>' for depth in range(len(layers) + 1)
    )
    return f'<ul class="legend" aria-label="Legend">{fates}</ul>'


def _example(number: int, example: Mapping[str, Any], layers: Sequence[int], names: Sequence[str] | None) -> str:
    tokens, depths = example["tokens"], example["depth"]
    if len(tokens) != len(depths) or any(not 0 <= depth <= len(layers) for depth in depths):
        raise DataError(
            f"profile, example {number}: {len(tokens)} tokens with {len(depths)} depths, each due in 0..{len(layers)}"
        )
    spans: list[str] = []
    for piece, depth in zip(pieces(tokens), depths, strict=True):
        kind = f"t d{depth} own" if piece.special else f"t d{depth}"
        space = " " if piece.spaced and spans else ""
        spans.append(f'{space}<span class="{kind}" title="{_fate(depth, layers)}">{escape(piece.text)}</span>')
    kept = sum(depth == len(layers) for depth in depths)
    caption = f"{_outcome(example, names)}{kept} of {len(tokens)} tokens kept to the end"
    heading = f"example-{number}"
    return (
        f'<section aria-labelledby="{heading}">\n<h2 id="{heading}">Example {number}</h2>\n'
        f'<p class="facts">{caption}</p>\n<p class="text">{"".join(spans)}</p>\n</section>'
    )


def _fate(depth: int, layers: Sequence[int]) -> str:
    return "kept to the end" if depth == len(layers) else f"dropped after layer {layers[depth]}"


def _outcome(example: Mapping[str, Any], names: Sequence[str] | None) -> str:
    label, prediction = example.get("label"), example.get("prediction")
    guess = None if prediction is None else f"predicted <strong>{_class_names(prediction, names)}</strong>"
    if label is None:
        return "" if guess is None else f"{guess} · "
    told = f"<strong>{_class_names(label, names)}</strong>"
    if guess is None:
        return f"{told} · "
    return f"{told}, predicted right · " if prediction == label else f"{told}, {guess}: wrong · "


def _class_names(numbers: int | Sequence[int], names: Sequence[str] | None) -> str:
    """One class, or those of a multi-label task."""
    return ", ".join(_class_name(number, names) for number in ([numbers] if isinstance(numbers, int) else numbers))


def _class_name(number: int, names: Sequence[str] | None) -> str:
    return escape(names[number]) if names is not None and 0 <= number < len(names) else f"class {number}"


def _percent(share: float) -> str:
    return f"{100.0 * share:.1f} %"
