"""Write a retention profile as one self-contained HTML page that shades every token by how many layers it passed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from retention.errors import DataError
from retention.json_text import parse_json
from retention.records import write_atomic
from retention.report.detokenize import detokenize, from_offsets
from retention.report.token_heatmap_style import stylesheet

_REQUIRED = ("mean", "by_layer", "gated_layers", "examples")
_ROW = 30  # height of one bar with its gap, in SVG units
_LEFT, _BAR = 96, 424  # where bars start and how long 100 % is


def token_heatmap_html(profile: Mapping[str, Any], title: str) -> str:
    """Return the page as HTML: keep ratio per layer as bars, then every example with its tokens.

    Ink, background, line and tooltip of a token all show how many layers it passed, so nothing depends on color alone.
    The page loads nothing and follows the reader's light or dark setting.

    Args:
        profile: content of ``retention_profile.json``, see ``retention.callbacks.RetentionProfile``. An example may
            hold ``text`` and ``offsets`` besides its ``tokens``; it is then shown as it was written. Its heading is its
            ``title``, if it has one, or its number.
        title: heading of the page.

    Raises:
        DataError: the profile lacks a part, or an example's depths do not fit its tokens.
    """
    missing = [field for field in _REQUIRED if field not in profile]
    if missing:
        raise DataError(f"profile: lacks {', '.join(missing)}; it was not written by RetentionProfile")
    layers = [int(layer) for layer in profile["gated_layers"]]
    names = profile.get("label_names")
    examples = [_example(number, example, layers, names) for number, example in enumerate(profile["examples"], start=1)]
    body = [
        f"<header><h1>{escape(title)}</h1><p>{_summary(profile, layers)}</p></header>",
        _bars(profile, layers),
        _legend(profile["examples"], layers) if layers and examples else "",
        *examples,
    ]
    return _page(escape(title), stylesheet(len(layers)), "\n".join(part for part in body if part))


def write_token_heatmap(profile_path: str | Path, html_path: str | Path, title: str = "Tokens kept by layer") -> None:
    """Write a ``retention_profile.json`` as an HTML page.

    Raises:
        DataError: the profile cannot be read.
    """
    source = Path(profile_path)
    try:
        profile = parse_json(source.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"{source}: cannot be read ({error.strerror}); test the model first, which writes the profile"
        ) from error
    except ValueError as error:
        raise DataError(f"{source}: not a profile ({error})") from error
    if not isinstance(profile, dict):
        raise DataError(f"{source}: not a profile; expected a JSON object")
    write_atomic(Path(html_path), token_heatmap_html(profile, title))


def _page(title: str, style: str, body: str) -> str:
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{title}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _summary(profile: Mapping[str, Any], layers: Sequence[int]) -> str:
    if not layers:
        return "No gates: every token passes every layer."
    mean = "an unknown part" if profile["mean"] is None else f"<strong>{_percent(profile['mean'])}</strong>"
    target = "" if profile.get("rho") is None else f" (target {_percent(profile['rho'])})"
    gates = f"{len(layers)} gated layers" if len(layers) > 1 else "the gated layer"
    return f"On average over {gates}, {mean} of the tokens are kept{target}. Layers count from 0."


def _bars(profile: Mapping[str, Any], layers: Sequence[int]) -> str:
    ratios = profile["by_layer"]
    measured = [(layer, float(ratios[str(layer)])) for layer in layers if str(layer) in ratios]
    if not measured:
        return ""
    height = _ROW * len(measured) + 6
    listing = ", ".join(f"{_bar_name(layer)} {_percent(ratio)}" for layer, ratio in measured)
    rows = "".join(_bar(row, layer, ratio) for row, (layer, ratio) in enumerate(measured))
    return (
        "<figure>\n<figcaption>Tokens kept after each gated layer</figcaption>\n"
        f'<svg viewBox="0 0 620 {height}" role="img" aria-label="Keep ratio: {listing}">{rows}</svg>\n</figure>'
    )


def _bar(row: int, layer: int, ratio: float) -> str:
    top, width = _ROW * row + 6, max(2.0, _BAR * ratio)
    baseline = top + 14
    return (
        f'<text class="name" x="{_LEFT - 12}" y="{baseline}">{_bar_name(layer)}</text>'
        f'<rect class="track" x="{_LEFT}" y="{top}" width="{_BAR}" height="18" rx="3"/>'
        f'<rect class="fill" x="{_LEFT}" y="{top}" width="{width:.1f}" height="18" rx="3"/>'
        f'<text class="value" x="{_LEFT + _BAR + 10}" y="{baseline}">{_percent(ratio)}</text>'
    )


def _bar_name(layer: int) -> str:
    return "embeddings" if layer < 0 else f"layer {layer}"


def _legend(examples: Sequence[Mapping[str, Any]], layers: Sequence[int]) -> str:
    """Return the shades that occur; with a flat schedule no token is dropped after most gates."""
    occurring = sorted({depth for example in examples for depth in example["depth"]} | {len(layers)})
    entries = "".join(
        f'<li><span class="t d{depth}">token</span> {_outcome_of_token(depth, layers)}</li>' for depth in occurring
    )
    return f'<ul class="legend" aria-label="Legend">{entries}</ul>'


def _example(number: int, example: Mapping[str, Any], layers: Sequence[int], names: Sequence[str] | None) -> str:
    tokens, depths = example["tokens"], example["depth"]
    if len(tokens) != len(depths) or any(not 0 <= depth <= len(layers) for depth in depths):
        raise DataError(
            f"profile, example {number}: {len(tokens)} tokens with {len(depths)} depths; "
            f"give one depth in 0..{len(layers)} for each token"
        )
    spans: list[str] = []
    written = "text" in example and "offsets" in example
    shown = from_offsets(tokens, example["text"], example["offsets"]) if written else detokenize(tokens)
    for token, depth in zip(shown, depths, strict=True):
        kind = f"t d{depth} special" if token.special else f"t d{depth}"
        space = " " if token.space_before and spans else ""
        title = _outcome_of_token(depth, layers)
        spans.append(f'{space}<span class="{kind}" title="{title}">{escape(token.text)}</span>')
    kept = sum(depth == len(layers) for depth in depths)
    caption = f"{_outcome(example, names)}{kept} of {len(tokens)} tokens kept to the end"
    heading, title = f"example-{number}", escape(str(example.get("title", f"Example {number}")))
    return (
        f'<section aria-labelledby="{heading}">\n<h2 id="{heading}">{title}</h2>\n'
        f'<p class="facts">{caption}</p>\n<p class="text">{"".join(spans)}</p>\n</section>'
    )


def _outcome_of_token(depth: int, layers: Sequence[int]) -> str:
    return "kept to the end" if depth == len(layers) else f"dropped {_gate_name(layers[depth])}"


def _gate_name(layer: int) -> str:
    return "before layer 0" if layer < 0 else f"after layer {layer}"


def _outcome(example: Mapping[str, Any], names: Sequence[str] | None) -> str:
    label, prediction = example.get("label"), example.get("prediction")
    predicted = None if prediction is None else f"predicted <strong>{_class_names(prediction, names)}</strong>"
    if label is None:
        return "" if predicted is None else f"{predicted} · "
    correct = f"<strong>{_class_names(label, names)}</strong>"
    if predicted is None:
        return f"{correct} · "
    return f"{correct}, predicted right · " if prediction == label else f"{correct}, {predicted}: wrong · "


def _class_names(numbers: int | Sequence[int], names: Sequence[str] | None) -> str:
    """Return the name of one class, or those of a multi-label task."""
    return ", ".join(_class_name(number, names) for number in ([numbers] if isinstance(numbers, int) else numbers))


def _class_name(number: int, names: Sequence[str] | None) -> str:
    return escape(names[number]) if names is not None and 0 <= number < len(names) else f"class {number}"


def _percent(ratio: float) -> str:
    return f"{100.0 * ratio:.1f} %"
