"""Documents: Python code runs, links exist, lines are short, the README stays short, doctests pass."""

from __future__ import annotations

import ast
import doctest
import pkgutil
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, PreTrainedTokenizerFast

import retention
from retention.records.legacy import RENAMED_FIELDS, RENAMED_GROUPS, RENAMED_KEYS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
GENERATED_PAGES = ("claims", "claims_ledger")  # folded lists of claims have long lines
README_MAX_LINES, README_MAX_NUMBERS, MAX_WIDTH = 220, 100, 120

FENCE = re.compile(r"^(?P<comment><!--(?P<remark>[^\n]*)-->\n)?```(?P<language>\w*)\n(?P<code>.*?)^```$", re.M | re.S)
LINK = re.compile(r"!?\[[^\]]*\]\((?P<target>[^)\s]+)\)")
RUN_FOLDER = re.compile(r"""["'](outputs/[\w./-]*\w)["']""")
PATH = re.compile(r"`((?:src|tests|conf|docs|scripts|examples|reproduction|results)/[\w./-]*)`")
NUMBER = re.compile(r"(?<![\w.])[-+±]?\d+(?:[.,]\d+)*(?![\w])")


@dataclass(frozen=True)
class Block:
    """One fenced Python block of a page.

    Attributes:
        line: 1-based line of its first line of code.
        code: its text.
        is_run: False if the comment above says ``not run``.
    """

    line: int
    code: str
    is_run: bool


def python_blocks(text: str) -> list[Block]:
    """Return the Python blocks of a Markdown text."""
    return [
        Block(
            line=text.count("\n", 0, match.start("code")) + 1,
            code=match["code"],
            is_run="not run" not in (match["remark"] or ""),
        )
        for match in FENCE.finditer(text)
        if match["language"] == "python"
    ]


def prose_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield number and text of the lines that are neither code, table rows nor images."""
    without_code = FENCE.sub(lambda match: "\n" * match[0].count("\n"), text)
    for number, line in enumerate(without_code.splitlines(), start=1):
        if not line.lstrip().startswith(("|", "!", "[![")):
            yield number, line


def relative_targets(text: str) -> list[str]:
    """Return the links and image paths of a page that point to files."""
    targets = [match["target"] for match in LINK.finditer(FENCE.sub("", text))]
    return [target for target in targets if not target.startswith(("http://", "https://", "#", "mailto:"))]


@pytest.fixture
def tiny_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answer every ``from_pretrained(<name on the hub>)`` with a tiny BERT and its tokenizer."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *["a", "the", "long", "document", "another", "one", "."]]
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))  # type: ignore[assignment]
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    config = BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **names)  # type: ignore[no-untyped-call]

    def from_pretrained(local: Any, replacement: Any) -> Any:
        return lambda name, *args, **options: (
            local(name, *args, **options) if Path(str(name)).exists() else replacement()
        )

    monkeypatch.setattr(
        AutoModel, "from_pretrained", from_pretrained(AutoModel.from_pretrained, lambda: BertModel(config))
    )
    monkeypatch.setattr(
        AutoTokenizer, "from_pretrained", from_pretrained(AutoTokenizer.from_pretrained, lambda: tokenizer)
    )


@pytest.fixture
def no_code_generation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``torch.compile`` trace a model as always and then run its graph, since making code for it takes minutes."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))


@pytest.mark.parametrize(
    "page", [page for page in PAGES if python_blocks(page.read_text())], ids=lambda page: page.stem
)
def test_python_blocks_run(
    page: Path,
    tiny_hub: None,
    no_code_generation: None,
    trained_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Blocks of a page run one after the other in one namespace; run folders that they name are a small real run."""
    text = page.read_text(encoding="utf8")
    for name in set(RUN_FOLDER.findall(text)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).symlink_to(trained_run, target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "__document__"}
    blocks = [block for block in python_blocks(text) if block.is_run]
    for block in blocks:
        code = compile("\n" * (block.line - 1) + block.code, str(page), "exec")
        exec(code, namespace)


def test_the_guide_has_blocks_that_run() -> None:
    blocks = python_blocks((ROOT / "docs" / "guide.md").read_text(encoding="utf8"))
    assert sum(block.is_run for block in blocks) >= 4
    assert sum(not block.is_run for block in blocks) <= 1


def test_a_block_with_an_error_is_noticed() -> None:
    """Negative control of the extractor."""
    text = (
        "text\n\n```python\nx = 1\n```\n\n<!-- not run: needs data -->\n```python\n1 / 0\n```\n\n```bash\nexit 1\n```\n"
    )
    assert python_blocks(text) == [Block(4, "x = 1\n", True), Block(9, "1 / 0\n", False)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_relative_links_exist(page: Path) -> None:
    targets = relative_targets(page.read_text(encoding="utf8"))
    missing = [target for target in targets if not (page.parent / target.split("#")[0]).exists()]
    assert not missing


def test_a_missing_link_is_noticed() -> None:
    """Negative control of the link pattern."""
    text = "[a](missing.md#part) ![b](no.png) [c](https://x.org) [d](#here)\n```\n[e](code.md)\n```\n"
    assert relative_targets(text) == ["missing.md#part", "no.png"]


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.stem not in GENERATED_PAGES], ids=lambda page: page.stem
)
def test_prose_lines_are_short(page: Path) -> None:
    lines = prose_lines(page.read_text(encoding="utf8"))
    assert [number for number, line in lines if len(line) > MAX_WIDTH] == []


def test_a_long_line_is_noticed() -> None:
    """Negative control of the line pattern: prose counts, tables and code do not."""
    text = f"{'x' * 121}\n| {'x' * 121} |\n```bash\n{'x' * 121}\n```\n{'y' * 121}"
    assert [number for number, line in prose_lines(text) if len(line) > MAX_WIDTH] == [1, 6]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_named_in_the_text_exist(page: Path) -> None:
    names = set(PATH.findall(FENCE.sub("", page.read_text(encoding="utf8"))))
    assert {name for name in names if not (ROOT / name).exists()} == set()


def test_guide_lists_every_option_of_the_configuration() -> None:
    text = (ROOT / "docs" / "guide.md").read_text(encoding="utf8")
    groups = ("task", "backbone", "retention", "dual", "distillation", "logger", "sweep")
    options = {path.stem for group in groups for path in (ROOT / "conf" / group).glob("*.yaml")}
    assert options - set(re.findall(r"`(\w+)`", text)) == set()


def test_readme_is_short() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf8")
    assert len(text.splitlines()) <= README_MAX_LINES
    assert len(NUMBER.findall(text)) <= README_MAX_NUMBERS


def test_recipe_is_one_page() -> None:
    assert len((ROOT / "docs" / "recipe.md").read_text(encoding="utf8").splitlines()) <= 120


def test_changelog_lists_every_renamed_key() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf8")
    listed = {name.rpartition(".")[2] for name in re.findall(r"`([\w.]+)`", text)}
    pairs = [*RENAMED_KEYS.items(), *RENAMED_GROUPS.items(), *RENAMED_FIELDS.items()]
    names = {name.rpartition(".")[2] for pair in pairs for name in pair}
    assert names - listed == set()


def test_every_page_is_in_the_navigation() -> None:
    class Loader(yaml.SafeLoader):
        """Read mkdocs.yml, whose tags name Python functions."""

    Loader.add_multi_constructor("", lambda loader, suffix, node: None)
    navigation = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf8"), Loader)["nav"]
    named = set(re.findall(r"[\w/]+\.md", str(navigation)))
    assert named == {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}


def imports_of_packages() -> dict[str, set[str]]:
    """Return, for each package of ``retention``, the other packages that its modules import when they run."""
    imports: dict[str, set[str]] = {}
    for path in (ROOT / "src" / "retention").rglob("*.py"):
        package = path.relative_to(ROOT / "src" / "retention").parts[0].removesuffix(".py")
        tree = ast.parse(path.read_text(encoding="utf8"))
        for_types = [
            node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        ]
        skipped = {id(inner) for node in for_types for inner in ast.walk(node)}
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.ImportFrom)
                and id(node) not in skipped
                and (node.module or "").startswith("retention.")
            ):
                imports.setdefault(package, set()).add(str(node.module).split(".")[1])
    return {package: names - {package, "errors", "extras", "json_text"} for package, names in imports.items()}


def test_architecture_lists_the_imports_of_each_package() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf8")
    rows = re.findall(r"^\| `(\w+)/?` \| .* \| ([\w, -]+) \|$", text, re.M)
    listed = {package: set(re.findall(r"\w+", names)) for package, names in rows}
    actual = {package: names for package, names in imports_of_packages().items() if package in listed}
    assert len(listed) == 19
    assert actual["policies"] == {"core", "engine"}  # negative control: the imports are found
    assert {package: names - listed[package] for package, names in actual.items() if names - listed[package]} == {}


def modules_with_doctests() -> list[str]:
    """Return the names of modules of the package whose source holds an example."""
    names = [module.name for module in pkgutil.walk_packages(retention.__path__, "retention.")]
    folder = ROOT / "src"
    paths = {name: folder / name.replace(".", "/") for name in ["retention", *names]}
    sources = {
        name: path.with_suffix(".py") if not path.is_dir() else path / "__init__.py" for name, path in paths.items()
    }
    return [name for name, path in sources.items() if path.exists() and ">>>" in path.read_text(encoding="utf8")]


@pytest.mark.parametrize("name", modules_with_doctests())
def test_doctests_pass(name: str) -> None:
    result = doctest.testmod(import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert result.failed == 0


def test_citation_names_software_and_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf8"))
    assert citation["version"] == retention.__version__
    [paper] = citation["references"]
    assert paper["doi"] == "10.18653/v1/2025.findings-emnlp.212"
