"""Commands in the documents: every ``retention run``, ``distill`` and ``python run.py`` composes and builds."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from omegaconf import DictConfig

from retention.experiment.config import check_run
from retention.experiment.distill import with_recipe
from retention.experiment.parts import build_parts

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMAND = re.compile(r"(?:retention (?P<name>run|distill)|python run\.py) (?P<settings>[^#\n]*)")
FENCE = re.compile(r"^```\w*\n(?P<code>.*?)^```$", re.M | re.S)
PLACEHOLDER = re.compile(r"<[^<>\n]+>")
CHOICES = re.compile(r"=(?P<first>[^\[\]{},]+),[^\[\]{}]+$")


def commands(text: str) -> Iterator[tuple[str, str]]:
    """Yield subcommand and settings of each command in the code blocks of a page."""
    for block in FENCE.finditer(text):
        for match in COMMAND.finditer(block["code"].replace("\\\n", " ")):
            yield match["name"] or "run", match["settings"]


ELSEWHERE = ("task=language_modeling", "task=recall", "hydra.searchpath")  # test_decoder_tasks.py, examples/
CASES = [
    pytest.param(name, settings, id=f"{page.stem}: {settings[:60]}")
    for page in PAGES
    for name, settings in commands(page.read_text(encoding="utf8"))
    if not any(word in settings for word in ELSEWHERE)
]


def overrides(name: str, settings: str, run: Path, texts: Path) -> list[str]:
    """Return the settings of one run of a command: files and folders exist, and of choices the first is taken."""
    checkpoint = run / "checkpoints/last.ckpt"

    def existing(placeholder: re.Match[str]) -> str:
        return str(checkpoint if placeholder[0].endswith("checkpoint>") else run)

    words = [CHOICES.sub(r"=\g<first>", word) for word in shlex.split(PLACEHOLDER.sub(existing, settings))]
    words = [f"texts={texts}" if word.startswith("texts=") or word == "..." else word for word in words]
    words = [f"init={checkpoint}" if word.startswith("init=outputs/") else word for word in words]
    words = [word for word in words if "=" in word and not word.startswith(("hydra.", "hydra/"))]
    return with_recipe(words) if name == "distill" else words


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_commands_compose(
    name: str,
    settings: str,
    trained_run: Path,
    composed: Callable[..., DictConfig],
    small_pretrained: None,
    tmp_path: Path,
) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("one text\nanother\n", encoding="utf8")
    config = composed(*overrides(name, settings, trained_run, texts))
    check_run(config)
    if config.mode == "fit" and "cache" not in config:
        parts = build_parts(config)
        needs_tokenizer = config.task.name != "keywords" and "--cfg" not in settings
        assert not needs_tokenizer or parts.backbone.name != "tiny", "add backbone=minilm: the default has no tokenizer"
