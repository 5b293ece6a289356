"""Styles of curves."""

from __future__ import annotations

from retention.report.figure_style import COLORS, curve_style


def test_curve_styles_are_distinguishable() -> None:
    styles = [curve_style(number) for number in range(200)]
    assert len({tuple(style.items()) for style in styles}) == 200


def test_curves_of_one_color_differ_in_marker_and_line_style() -> None:
    first, second = curve_style(3), curve_style(3 + len(COLORS))
    assert first["color"] == second["color"]
    assert first["marker"] != second["marker"] and first["linestyle"] != second["linestyle"]


def test_the_first_curves_have_different_colors() -> None:
    assert len({curve_style(number)["color"] for number in range(len(COLORS))}) == len(COLORS) >= 10
