"""Check damaged data files of all formats: reading refuses them, or reads rows that can be used."""

from __future__ import annotations

import gzip
import json
import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig

from reproduction.reliability.check import Scale
from reproduction.reliability.outcome import Tally, WrongAnswer
from reproduction.reliability.small_runs import composed, quiet_libraries
from retention.experiment.builder import Builder
from retention.records import Reliability
from retention.tasks.classification.keywords import KeywordData

_LIMIT_S = 30.0
_WORDS = ("river forest stone", "market price goal", "the ballot of the senate", "a red wine", "words in a corpus")
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Format:
    """Task with the format of its files.

    Attributes:
        task: option of the config group ``task``.
        suffix: of the files.
        splits: names of its files, the training split first.
        make: builds the content: rows of a table, or one JSON value.
    """

    task: str
    suffix: str
    splits: tuple[str, ...]
    make: Callable[[], Any]

    def write(self, folder: Path, split: str, content: Any) -> Path:
        """Write one split and return its file."""
        path = folder / f"{split}{self.suffix}"
        if self.suffix in (".json", ".json.gz"):
            text = json.dumps(content).encode()
            path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
        elif self.suffix == ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in content))
        elif self.suffix == ".csv":
            pd.DataFrame(content).to_csv(path, index=False)
        else:
            pd.DataFrame(content).to_parquet(path)
        return path


def _sentences() -> Rows:
    return [{"sentence": f"{_WORDS[n % 5]} {n}", "label": n % 2} for n in range(24)]


def _articles() -> Rows:
    return [
        {"article": f"{_WORDS[n % 5]} .\nwe saw {n} .\nthen more .", "abstract": f"we saw {n} ."} for n in range(12)
    ]


def _papers() -> dict[str, Any]:
    def paper(n: int) -> dict[str, Any]:
        text = f"{_WORDS[n % 5]} {n}"
        answer = {
            **{"unanswerable": n % 3 == 0, "extractive_spans": [] if n % 3 == 0 else [text], "yes_no": None},
            **{"free_form_answer": "", "evidence": []},
        }
        section = {"section_name": "Method", "paragraphs": [f"we use {text} here", "and more"]}
        question = {"question": "which words", "question_id": f"q{n}"}
        answers = [{"answer": answer, "annotation_id": "a"}]
        return {"title": "T", "abstract": "", "full_text": [section], "qas": [{**question, "answers": answers}]}

    return {f"p{n}": paper(n) for n in range(9)}


def _contracts() -> dict[str, Any]:
    def contract(n: int) -> dict[str, Any]:
        context = f"this is {_WORDS[n % 5]} under the law of the river number {n}"
        answers = [{"text": "law of the river", "answer_start": context.index("law of")}]
        qas = [
            {"id": f"c{n}__Governing Law", "question": "which law", "answers": answers},
            {"id": f"c{n}__Parties", "question": "which parties", "answers": []},
        ]
        return {"title": f"c{n}", "paragraphs": [{"context": context, "qas": qas}]}

    return {"version": "1", "data": [contract(n) for n in range(9)]}


FORMATS = (
    Format("sst2", ".csv", ("train", "validation"), _sentences),
    Format("sst2", ".jsonl", ("train", "validation"), _sentences),
    Format("sst2", ".parquet", ("train", "validation"), _sentences),
    Format("pubmed", ".jsonl", ("train", "validation", "test"), _articles),
    Format("pubmed", ".parquet", ("train", "validation", "test"), _articles),
    Format("qasper", ".json", ("train", "dev"), _papers),
    Format("qasper", ".json.gz", ("train", "dev"), _papers),
    Format("cuad_spans", ".json", ("train", "test"), _contracts),
    Format("cuad", ".json.gz", ("train", "test"), _contracts),
)
# Damages; the value is True if no reader may accept the file.
BYTES: Mapping[str, bool] = {"cut": False, "flipped": False, "empty": True, "folder": True, "text": True, "utf16": True}
VALUES: tuple[Any, ...] = (None, "", " ", 7, 1.5, True, [], [1], {"a": 1}, "x" * 30, "9" * 5000, "\ud800", float("nan"))


def damage_bytes(path: Path, kind: str, draw: random.Random) -> None:
    """Damage a file without regard to its format."""
    raw = path.read_bytes()
    if kind == "folder":
        path.unlink()
        path.mkdir()
        return
    if kind == "flipped":
        changed = bytearray(raw)
        for _ in range(draw.choice((1, 4, 64))):
            changed[draw.randrange(len(raw))] ^= draw.randrange(1, 256)
        path.write_bytes(bytes(changed))
        return
    content = {"empty": b"", "text": b"not a table\x01\x02", "cut": raw[: draw.randrange(len(raw))]}
    path.write_bytes(content[kind] if kind in content else "sentence,label\nx,1\n".encode("utf-16"))


def damage_value(content: Any, draw: random.Random) -> str:
    """Replace, remove or duplicate one value at a random depth of a table's rows or of a JSON value; return what."""
    nodes = [(parent, key) for parent, key in _nodes(content)]
    parent, key = draw.choice(nodes)
    kind = draw.choice(("value", "value", "value", "removed", "renamed"))
    if kind == "value":
        value = draw.choice(VALUES)
        parent[key] = value
        return f"{key}={str(value)[:40]!r}"
    value = parent.pop(key)
    if kind == "renamed" and isinstance(parent, dict):
        parent["other"] = value
    return f"{key} {kind}"


def check_data_files(scale: Scale, folder: Path) -> Reliability:
    """Damage the data files of all tasks in turn, and read them as a run does."""
    draw, tally = random.Random(scale.seed), Tally("damaged_data_files")
    with quiet_libraries(folder / "cache"):
        for number in range(scale.data_files):
            made = FORMATS[number % len(FORMATS)]
            data = folder / "data"
            shutil.rmtree(data, ignore_errors=True)
            data.mkdir(parents=True)
            split = draw.choice(made.splits)
            never_valid, text = False, ""
            for each in made.splits:
                content = made.make()
                by_value = each == split and draw.random() < 0.6
                if by_value:
                    text = damage_value(content, draw)
                try:
                    path = made.write(data, each, content)
                except Exception:  # the format cannot hold the value
                    path, by_value = made.write(data, each, made.make()), False
                if each == split and not by_value:
                    text = draw.choice(list(BYTES))
                    never_valid = BYTES[text]
                    damage_bytes(path, text, draw)
            kind = f"{made.task} {made.suffix}"
            call = _reading(made, data, split, never_valid)
            tally.attempt(kind, f"{split} {text}", call, _LIMIT_S)
    return tally.result()


def read_rows(task: str, data: Path) -> dict[str, int]:
    """Read and encode all rows of a folder as a run does before it trains, and collate them; return their numbers."""
    config = _configuration(task).copy()
    config.data.dir = str(data)
    builder = Builder(config)
    module = builder.make("task.data")
    builder.finish()
    module.attach(KeywordData.build_tokenizer())
    module.setup("fit")
    module.setup("test")
    loaders = (module.train_dataloader(), module.val_dataloader(), module.test_dataloader())
    numbers = [sum(len(batch["input_ids"]) for batch in loader) for loader in loaders]
    return dict(zip(("train", "val", "test"), numbers, strict=True))


@cache
def _configuration(task: str) -> DictConfig:
    small = ("task.data.val_size=3", "task.data.max_length=128", "paths.run_dir=unused")
    windows = ("task.data.stride=64",) if task == "cuad_spans" else ()
    return composed([f"task={task}", "backbone=minilm", *small, *windows])


def _reading(made: Format, data: Path, split: str, never_valid: bool) -> Callable[[], None]:
    def read() -> None:
        rows = read_rows(made.task, data)
        if never_valid or not all(rows.values()):
            raise WrongAnswer(f"{split} was read as {rows}")

    return read


def _nodes(content: Any) -> list[tuple[Any, Any]]:
    """Return the (container, key) pairs of a JSON value, except in rows after the third."""
    if isinstance(content, dict):
        items: list[tuple[Any, Any]] = list(content.items())
    elif isinstance(content, list):
        items = list(enumerate(content[:3]))
    else:
        return []
    return [(content, key) for key, _ in items] + [pair for _, value in items for pair in _nodes(value)]
