"""Style sheet of the token heat map."""

from __future__ import annotations

_BASE = """\
:root {
  --paper: #fbfaf6; --ink: #1f1d18; --quiet: #6a665c; --line: #e3dfd3; --glow: #f2c14e; --accent: #b5761a;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #171613; --ink: #eee9dd; --quiet: #a29c8d; --line: #37342c; --glow: #7d5a10; --accent: #d39a35;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 1.0625rem/1.9 "Iowan Old Style", Charter, "Source Serif 4", Georgia, Cambria, serif;
}
main { max-width: 44rem; margin: 0 auto; padding: 4rem 1.5rem 6rem; }
h1 { margin: 0; font-size: 2.1rem; line-height: 1.2; font-weight: 600; letter-spacing: -0.012em; text-wrap: balance; }
header p { margin: 0.9rem 0 0; color: var(--quiet); line-height: 1.6; }
header strong { color: var(--ink); font-variant-numeric: tabular-nums; }
figcaption, .facts, .legend, h2, svg { font-family: ui-sans-serif, system-ui, "Segoe UI", Helvetica, sans-serif; }
figure { margin: 2.75rem 0 0; }
figcaption { margin-bottom: 0.6rem; color: var(--quiet); font-size: 0.875rem; }
svg { display: block; width: 100%; height: auto; font-size: 13px; font-variant-numeric: tabular-nums; }
@media (max-width: 32rem) { svg { font-size: 20px; } } /* the drawing shrinks, its text must not */
svg .name { fill: var(--quiet); text-anchor: end; }
svg .value { fill: var(--ink); }
svg .track { fill: var(--line); opacity: 0.55; }
svg .fill { fill: var(--accent); }
.legend {
  display: flex; flex-wrap: wrap; gap: 0.35rem 1.35rem; margin: 2.75rem 0 0; padding: 0.9rem 0;
  border-block: 1px solid var(--line); list-style: none; color: var(--quiet); font-size: 0.8125rem; line-height: 1.7;
}
.legend .t { font-family: "Iowan Old Style", Charter, "Source Serif 4", Georgia, serif; font-size: 1rem; }
section { margin-top: 2.75rem; }
h2 { margin: 0; font-size: 0.875rem; font-weight: 600; line-height: 1.5; }
.facts { margin: 0; color: var(--quiet); font-size: 0.875rem; line-height: 1.5; }
.facts strong { color: var(--ink); font-weight: 600; }
.text { margin: 0.6rem 0 0; overflow-wrap: anywhere; }
.t { margin: 0 -0.1em; padding: 0.08em 0.1em; border-radius: 0.18em; } /* no gap within a word */
.special { font: 0.72em ui-monospace, "SF Mono", Menlo, Consolas, monospace; vertical-align: 0.08em; }
@media print { main { max-width: none; padding: 0; } .t { print-color-adjust: exact; } }
"""


def stylesheet(gates: int) -> str:
    """Return the CSS of the page; class ``d0`` marks a token dropped at the first gate, ``d<gates>`` one that was kept.

    Args:
        gates: number of gated layers, >= 0.
    """
    return _BASE + "".join(_depth_rule(depth, gates) for depth in range(gates + 1))


def _depth_rule(depth: int, gates: int) -> str:
    """Scale ink and background by the gates passed; a line marks tokens dropped at once, later, or never."""
    passed = depth / gates if gates else 1.0
    ink, glow = round(64 + 36 * passed), round(100 * passed**1.5)
    if depth == gates:
        line = "box-shadow: inset 0 -0.11em var(--accent);" if gates else ""
        glow = 100 if gates else 0
    elif depth == 0:
        line = "text-decoration: line-through 1px color-mix(in oklab, currentColor 55%, transparent);"
    else:
        line = "text-decoration: underline dotted 1px; text-underline-offset: 0.25em;"
    return (
        f".d{depth} {{ color: color-mix(in oklab, var(--ink) {ink}%, var(--paper));"
        f" background: color-mix(in oklab, var(--glow) {glow}%, transparent); {line} }}\n"
    )
