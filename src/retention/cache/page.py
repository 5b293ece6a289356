"""Show which tokens a bounded cache holds as one HTML page: ``python -m retention.cache.page``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from retention.cache.budget import CacheBudget
from retention.cache.cache import retain_cache
from retention.cache.command import add_cache_arguments, cache_budget, exit_code, load_decoder, load_tokenizer
from retention.cache.policies.base import CachePolicy
from retention.cache.policies.named import FULL, POLICIES, build_policies
from retention.cache.reading import TokenBatch, attention_for, read_context
from retention.cache.texts import read_texts
from retention.errors import DataError, require

_STYLE = """\
:root { --paper: #fbfaf6; --ink: #1f1d18; --quiet: #6a665c; --line: #e3dfd3; --fill: #b5761a; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #171613; --ink: #eee9dd; --quiet: #a29c8d; --line: #37342c; --fill: #d39a35; }
}
body { margin: 0; background: var(--paper); color: var(--ink); font: 1rem/1.7 Georgia, serif; }
main { max-width: 60rem; margin: 0 auto; padding: 3rem 1.5rem; }
h1 { font-size: 1.8rem; margin: 0; }
h2 { font-size: 1.1rem; margin: 2.5rem 0 0; }
p.facts { color: var(--quiet); margin: 0.3rem 0; }
svg { display: block; width: 100%; height: auto; background: var(--line); }
svg rect { fill: var(--fill); }
p.text { overflow-wrap: anywhere; white-space: pre-wrap; }
p.text span { background: color-mix(in srgb, var(--fill) calc(var(--n) * 60%), transparent); }
"""


@torch.no_grad()
def held_tokens(model: Any, input_ids: Tensor, policy: CachePolicy, budget: CacheBudget) -> Tensor:
    """Return which tokens of a text each layer holds after the last one, [L, T] bool.

    With a budget per head there is a row for each of H key-value heads, [L * H, T], those of a layer side by side.

    Args:
        model: a supported decoder with a language-model head, in evaluation mode.
        input_ids: [1, T] long, without padding.
        policy: of the bounded cache.
        budget: of the bounded cache.
    """
    batch = TokenBatch.build([input_ids[0]])
    with retain_cache(model, policy, budget) as cache:
        read_context(model, cache, batch)
        kept = cache.kept
    rows = torch.stack(kept)[:, 0].reshape(-1, kept[0].shape[-1])
    return torch.zeros(len(rows), input_ids.shape[1], dtype=torch.bool).scatter(1, rows, True)


def kept_positions_html(tokens: Sequence[str], held: dict[str, Tensor], title: str, rows: str = "layers") -> str:
    """Return a page with a map of layers and positions for each policy, and the text shaded by layers that hold it.

    The page loads nothing and follows the reader's light or dark setting. Each token has a tooltip with its number of
    layers, so nothing depends on color alone.

    Args:
        tokens: text of each of T tokens, spaces included.
        held: name of a policy -> [L, T] bool, from ``held_tokens``.
        title: heading of the page.
        rows: what the rows of a map are called: ``layers``, or ``heads`` for a budget per head.

    Raises:
        DataError: a map does not fit the tokens.
    """
    sections = []
    for name, mask in held.items():
        if mask.ndim != 2 or mask.shape[1] != len(tokens):
            raise DataError(f"{name}: must hold [{rows}, {len(tokens)}] entries, got {list(mask.shape)}")
        counts = mask.sum(0).tolist()
        most = int(mask.sum(1).max())
        facts = f"{mask.shape[0]} {rows}, at most {most} of {len(tokens)} tokens held in each; {_agreement(mask, rows)}"
        shaded = "".join(_token(token, count, mask.shape[0], rows) for token, count in zip(tokens, counts, strict=True))
        sections.append(
            f'<section>\n<h2>{escape(name)}</h2>\n<p class="facts">{facts}</p>\n{_map(mask, rows)}\n'
            f'<p class="text">{shaded}</p>\n</section>'
        )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>\n{_STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{escape(title)}</h1>\n"
        f'<p class="facts">Maps: one row for each of the {rows}, from the first layer (top); one column per token; '
        f"filled = held. Text: the darker a token, the more {rows} hold it.</p>\n"
        + "\n".join(sections)
        + "\n</main>\n</body>\n</html>\n"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page for one text; return the exit code."""
    arguments = _parser().parse_args(argv)
    return exit_code(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    text = next((text for index, text in enumerate(read_texts(arguments.texts)) if index == arguments.index), None)
    require(text is not None, "--index", f"{arguments.texts} has no text with the index {arguments.index}")
    tokenizer = load_tokenizer(arguments.model)
    ids = tokenizer(text, return_tensors="pt", truncation=True, max_length=arguments.length)["input_ids"]
    model = load_decoder(arguments.model)
    budget = cache_budget(arguments.size, arguments)
    held = {}
    for name, policy in build_policies(arguments.policies, arguments.scores, arguments.seed).items():
        assert policy is not None  # the full cache is not among the choices
        with attention_for(model, policy):
            held[name] = held_tokens(model, ids, policy, budget)
    tokens = [str(tokenizer.decode([token])) for token in ids[0].tolist()]
    title = f"Tokens held by a cache of {arguments.size}"
    page = kept_positions_html(tokens, held, title, "heads" if budget.per_head else "layers")
    arguments.output.write_text(page, encoding="utf-8")
    print(f"written: {arguments.output}")


def _map(mask: Tensor, rows: str) -> str:
    """Draw runs of held tokens as rectangles."""
    number, width = mask.shape
    parts = []
    for row in range(number):
        padded = torch.cat([torch.zeros(1), mask[row].float().cpu(), torch.zeros(1)])
        steps = padded.diff()
        starts, ends = (steps == 1).nonzero().flatten().tolist(), (steps == -1).nonzero().flatten().tolist()
        parts += [
            f'<rect x="{start}" y="{row}" width="{end - start}" height="0.9"/>'
            for start, end in zip(starts, ends, strict=True)
        ]
    label = f"tokens held by each of {number} {rows}"
    height = max(1, width // 4)
    return (
        f'<svg viewBox="0 0 {width} {number}" style="aspect-ratio: {width} / {height}" preserveAspectRatio="none" '
        f'role="img" aria-label="{label}">{"".join(parts)}</svg>'
    )


def _token(token: str, count: int, number: int, rows: str) -> str:
    title = f"held by {count} of {number} {rows}"
    return f'<span style="--n: {count / number:.2f}" title="{title}">{escape(token)}</span>'


def _agreement(mask: Tensor, rows: str) -> str:
    return f"{int(mask.all(0).sum())} held by all {rows}, {int((~mask).all(0).sum())} by none"


def _parser() -> argparse.ArgumentParser:
    choices = tuple(name for name in POLICIES if name != FULL)
    parser = argparse.ArgumentParser(
        prog="python -m retention.cache.page", description="HTML page of the tokens that each layer or head holds."
    )
    add_cache_arguments(parser)
    parser.add_argument("--texts", required=True, type=Path, help=".txt (one text per line) or .jsonl")
    parser.add_argument("--index", type=int, default=0, help="which text, from 0 (default: 0)")
    parser.add_argument("--output", required=True, type=Path, help=".html file to write")
    parser.add_argument("--length", type=int, default=512, help="tokens of the text at most (default: 512)")
    parser.add_argument("--size", type=int, default=96, help="tokens per layer (default: 96)")
    parser.add_argument("--policies", nargs="*", choices=choices, default=["key_norm", "h2o"])
    parser.add_argument("--seed", type=int, default=0, help="of the random policy (default: 0)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
