"""Token heat map: complete, escaped, self-contained, and readable without color."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from retention.errors import DataError
from retention.report.token_heatmap import token_heatmap_html, write_token_heatmap

_VOID = {"meta", "rect"}


class Page(HTMLParser):
    """Checks that tags nest, and collects the token spans of the examples."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.tokens: list[list[str]] = []
        self._token: list[str] | None = None
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs
        if tag not in _VOID:
            self.open.append(tag)
        attributes = dict(attrs)
        if tag == "span" and attributes.get("title"):
            self._token = ["", attributes["class"] or "", attributes["title"] or ""]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        if self._token is not None:
            self._token[0] += data

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag == "span" and self._token is not None:
            self.tokens.append(self._token)
            self._token = None


def profile(**changes: Any) -> dict[str, Any]:
    example = {
        "index": 0,
        "tokens": ["[CLS]", "a", "fine", "film", "##s", "<b>"],
        "label": 1,
        "prediction": 0,
        "depth": [2, 0, 2, 1, 1, 0],
    }
    base = {
        "mean": 0.45,
        "by_layer": {"1": 0.6, "3": 0.3},
        "rho": 0.4,
        "gated_layers": [1, 3],
        "label_names": ["poor", "good & bright"],
        "examples": [example],
    }
    return base | changes


def test_every_token_shows_how_many_layers_it_passed() -> None:
    page = Page(token_heatmap_html(profile(), "Demo"))
    assert page.tokens == [
        ["[CLS]", "t d2 special", "kept to the end"],
        ["a", "t d0", "dropped after layer 1"],
        ["fine", "t d2", "kept to the end"],
        ["film", "t d1", "dropped after layer 3"],
        ["s", "t d1", "dropped after layer 3"],
        ["<b>", "t d0 special", "dropped after layer 1"],
    ]


def test_text_is_shown_as_written_where_offsets_are_stored() -> None:
    example = {
        "tokens": ["[CLS]", "a", "fine", "-", "film"],
        "text": "A fine-film",
        "offsets": [[0, 0], [0, 1], [2, 6], [6, 7], [7, 11]],
        "depth": [2, 0, 2, 1, 1],
    }
    page = Page(token_heatmap_html(profile(examples=[example]), "Demo"))
    assert [text for text, _, _ in page.tokens] == ["[CLS]", "A", "fine", "-", "film"]


def test_text_is_escaped() -> None:
    text = token_heatmap_html(profile(label_names=["<i>poor</i>", "good"]), "<script>alert(1)</script>")
    assert "<script" not in text and "<i>" not in text and "<b>" not in text
    assert "&lt;script&gt;" in text and "&lt;i&gt;poor&lt;/i&gt;" in text
    assert not {"script", "i", "b"} & Page(text).tags


def test_page_loads_no_other_file() -> None:
    text = token_heatmap_html(profile(), "Demo")
    names = {name for name, _ in Page(text).attributes}
    assert not names & {"src", "href"}
    assert "url(" not in text and "@import" not in text and "http" not in text


def test_depths_are_readable_without_color() -> None:
    text = token_heatmap_html(profile(), "Demo")
    assert "prefers-color-scheme: dark" in text and 'content="light dark"' in text
    assert re.search(r"\.d0 \{[^}]*line-through", text)
    assert re.search(r"\.d1 \{[^}]*underline dotted", text)
    assert re.search(r"\.d2 \{[^}]*box-shadow", text)


def test_legend_lists_every_outcome() -> None:
    text = token_heatmap_html(profile(examples=profile()["examples"] * 3), "Demo")
    assert text.count('class="legend"') == 1
    legend = text[text.index('class="legend"') : text.index("</ul>")]
    assert re.findall(r"</span> ([^<]+)</li>", legend) == [
        "dropped after layer 1",
        "dropped after layer 3",
        "kept to the end",
    ]


def test_legend_leaves_out_what_does_not_occur() -> None:
    example = profile()["examples"][0]
    flat = example | {"depth": [0 if depth == 1 else depth for depth in example["depth"]]}
    text = token_heatmap_html(profile(examples=[flat]), "Demo")
    legend = text[text.index('class="legend"') : text.index("</ul>")]
    assert "dropped after layer 1" in legend and "dropped after layer 3" not in legend


def test_an_example_may_have_a_title() -> None:
    text = token_heatmap_html(profile(examples=[profile()["examples"][0] | {"title": "a <b>.txt"}]), "Demo")
    assert '<h2 id="example-1">a &lt;b&gt;.txt</h2>' in text and "Example 1" not in text


def test_bars_are_as_long_as_the_keep_ratios() -> None:
    text = token_heatmap_html(profile(), "Demo")
    widths = [float(width) for width in re.findall(r'class="fill"[^>]* width="([\d.]+)"', text)]
    track = float(re.findall(r'class="track"[^>]* width="([\d.]+)"', text)[0])
    assert [width / track for width in widths] == pytest.approx([0.6, 0.3])
    assert 'aria-label="Keep ratio: layer 1 60.0 %, layer 3 30.0 %"' in text


@pytest.mark.parametrize(
    ("label", "prediction", "caption"),
    [
        (1, 0, "<strong>good &amp; bright</strong>, predicted <strong>poor</strong>: wrong · "),
        (1, 1, "<strong>good &amp; bright</strong>, predicted right · "),
        (0, None, "<strong>poor</strong> · "),
        (7, 7, "<strong>class 7</strong>, predicted right · "),
        (None, None, ""),
        (None, 0, "predicted <strong>poor</strong> · "),
        (None, [1, 0], "predicted <strong>good &amp; bright, poor</strong> · "),
    ],
)
def test_prediction_is_described_in_words(label: int | None, prediction: int | list[int] | None, caption: str) -> None:
    example = profile()["examples"][0] | {"label": label, "prediction": prediction}
    text = token_heatmap_html(profile(examples=[example]), "Demo")
    assert f'<p class="facts">{caption}2 of 6 tokens kept to the end</p>' in text


def test_dense_has_neither_bars_nor_legend() -> None:
    example = profile()["examples"][0] | {"depth": [0] * 6}
    text = token_heatmap_html(profile(mean=1.0, by_layer={}, gated_layers=[], examples=[example]), "Demo")
    page = Page(text)
    assert not {"svg", "ul"} & page.tags
    assert "every token passes every layer" in text
    assert {title for _, _, title in page.tokens} == {"kept to the end"}


def test_wrong_depths_are_refused() -> None:
    short = profile()["examples"][0] | {"depth": [2]}
    deep = profile()["examples"][0] | {"depth": [3, 0, 0, 0, 0, 0]}
    for example in (short, deep):
        with pytest.raises(DataError, match=r"example 1: 6 tokens with . depths; give one depth in 0\.\.2"):
            token_heatmap_html(profile(examples=[example]), "Demo")


def test_missing_fields_are_named() -> None:
    with pytest.raises(DataError, match="profile: lacks mean, examples"):
        token_heatmap_html({"by_layer": {}, "gated_layers": []}, "Demo")


def test_page_is_written_from_a_profile_file(tmp_path: Path) -> None:
    source, target = tmp_path / "retention_profile.json", tmp_path / "new" / "picture.html"
    source.write_text(json.dumps(profile()), encoding="utf-8")
    write_token_heatmap(source, target)
    assert target.read_text(encoding="utf-8") == token_heatmap_html(profile(), "Tokens kept by layer")
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("content", [None, "{", "[]", b"\xff"])
def test_unreadable_profiles_are_named(content: str | bytes | None, tmp_path: Path) -> None:
    source = tmp_path / "p.json"
    if content is not None:
        source.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=r"p\.json: (cannot be read|not a profile)"):
        write_token_heatmap(source, tmp_path / "p.html")
    assert not (tmp_path / "p.html").exists()


def test_report_needs_no_torch() -> None:
    code = (
        "import sys, retention.report.quality_table, retention.report.token_heatmap; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
