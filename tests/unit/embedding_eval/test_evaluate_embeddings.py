"""The command ``retention evaluate-embeddings`` on tiny model folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from retention import Embedder, Truncate
from retention.cli import main
from retention.records import read_objects, read_records

WORDS = [f"w{index}" for index in range(40)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of a random encoder: plain, with a retention policy, and without its last layer."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))  # type: ignore[assignment]
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend, model_max_length=32, **names
    )
    root = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 32}
    bert = BertModel(BertConfig(vocab_size=44, num_hidden_layers=3, **sizes), add_pooling_layer=False).eval()
    Embedder.build(bert, tokenizer, Truncate(rho=0.5).eval()).save_pretrained(root / "retained")
    for name, layers in (("dense", 3), ("shallow", 2)):
        bert.encoder.layer = bert.encoder.layer[:layers]
        bert.config.num_hidden_layers = layers
        bert.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    return {name: root / name for name in ("dense", "retained", "shallow")}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small STS-B, BEIR and classification folders of random words."""
    root = tmp_path_factory.mktemp("data")
    generator = torch.Generator().manual_seed(0)

    def text(words: int) -> str:
        return " ".join(WORDS[index] for index in torch.randint(40, (words,), generator=generator))

    def write(path: Path, rows: list[dict[str, Any]]) -> None:
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    pairs = [{"sentence1": text(8), "sentence2": text(8), "score": float(n % 5)} for n in range(20)]
    write(root / "stsb" / "validation.jsonl", pairs)
    write(root / "ir" / "corpus.jsonl", [{"_id": str(n), "title": text(3), "text": text(20)} for n in range(12)])
    write(root / "ir" / "queries.jsonl", [{"_id": str(n), "text": text(6)} for n in range(8)])
    lines = [f"{n}\t{n + 2}\t1" for n in range(8)]
    (root / "ir" / "qrels.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *lines]) + "\n")
    for split in ("train", "test"):
        write(root / "posts" / f"{split}.jsonl", [{"text": text(25), "label": n % 3} for n in range(60)])
    return {name: root / name for name in ("stsb", "ir", "posts")}


def sources(data: dict[str, Path]) -> list[str]:
    posts = ["--newsgroups", str(data["posts"]), "--train-texts", "20", "--eval-texts", "15", "--seeds", "0", "1"]
    return ["--stsb", str(data["stsb"]), "--cranfield", str(data["ir"]), "--validation-queries", "5", *posts]


def test_every_model_and_keep_ratio_gets_a_record(
    folders: dict[str, Path], data: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = [f"{name}={folders[name]}" for name in ("dense", "shallow", "retained")]
    file = tmp_path / "out.jsonl"
    words = ["--models", *named, "--rho", "0.6", "0.3", *sources(data), "--rounds", "1", "--record", str(file)]
    assert main(["evaluate-embeddings", *words]) == 0
    dense, shallow, *retained = read_records([file])
    assert [(record["model"], record["rho"]) for record in retained] == [("retained", 0.6), ("retained", 0.3)]
    assert dense["differences"] == {} and set(dense["keep_ratio"].values()) == {1.0}
    assert dense["metrics"]["cranfield_cosine"] == pytest.approx(1.0, abs=1e-5)
    assert set(dense["flops_ratio"].values()) == {1.0} and dense["policy"] == "dense"
    assert shallow["flops_ratio"]["cranfield"] == pytest.approx(2 / 3) and shallow["layers"] == 2
    for record, rho in zip(retained, (0.6, 0.3), strict=True):
        assert record["keep_ratio"]["newsgroups"] == pytest.approx(rho, abs=0.1)
        assert 0.3 < record["flops_ratio"]["newsgroups"] < 1 and record["policy"] == "truncate"
        names = {"stsb_spearman", "cranfield_ndcg10", "newsgroups_accuracy", "newsgroups_knn_accuracy"}
        assert set(record["differences"]) == names <= set(record["metrics"])
        assert record["differences"]["cranfield_ndcg10"]["rows"] == 5
        assert record["data"]["newsgroups"]["texts"] == 15 and record["data"]["stsb"]["pairs"] == 20
        assert record["speed"]["speedup"]["median"] > 0 and record["speed"]["documents"] == 15
    assert retained[0]["metrics"]["cranfield_cosine"] > retained[1]["metrics"]["cranfield_cosine"]
    rows = [row for _, row in read_objects(tmp_path / str(retained[1]["rows"]))]
    assert len(rows) == 20 + 5 + 15
    ndcg = [row["ndcg10"] for row in rows if row["benchmark"] == "cranfield"]
    assert sum(ndcg) / 5 == pytest.approx(retained[1]["metrics"]["cranfield_ndcg10"])
    capsys.readouterr()
    assert main(["evaluate-embeddings", "--table", str(file)]) == 0
    table = capsys.readouterr().out
    assert table.count("| retained |") == 2 and "speedup" in table


def test_number_formats_are_evaluated_beside_float32(
    folders: dict[str, Path], data: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = [f"{name}={folders[name]}" for name in ("dense", "retained")]
    file = tmp_path / "out.jsonl"
    formats = ["--precisions", "float32", "bfloat16", "int8"]
    words = ["--models", *named, *sources(data)[:2], *formats, "--rounds", "0", "--record", str(file)]
    assert main(["evaluate-embeddings", *words]) == 0
    records = read_records([file])
    assert [(each["model"], each["precision"]) for each in records] == [
        (name, precision) for name in ("dense", "retained") for precision in ("float32", "bfloat16", "int8")
    ]
    cosines = [each["metrics"]["stsb_cosine"] for each in records[:3]]
    assert cosines[0] == pytest.approx(1.0, abs=1e-6)
    assert min(cosines) > 0.98  # close to float32
    assert cosines[1] < 1 - 1e-6  # and not float32
    assert {each["reference"] for each in records} == {"dense"}
    assert "retained, int8" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "--models"),
        (["--models", "dense"], "--stsb"),
        (["--models", "x=y", "--rho", "1.5"], "--rho"),
        (["--models", "x=y", "--rounds", "-1"], "--rounds"),
    ],
)
def test_unusable_arguments_are_named(words: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate-embeddings", *words]) == 2
    assert expected in capsys.readouterr().err


def test_rows_of_an_earlier_record_are_not_replaced(
    folders: dict[str, Path], data: dict[str, Path], tmp_path: Path
) -> None:
    file = tmp_path / "out.jsonl"
    words = ["--models", f"dense={folders['dense']}", "--stsb", str(data["stsb"]), "--rounds", "0"]
    assert [main(["evaluate-embeddings", *words, "--record", str(file)]) for _ in range(2)] == [0, 0]
    first, second = (tmp_path / str(record["rows"]) for record in read_records([file]))
    assert first != second and first.read_text() == second.read_text()


def test_name_of_a_model_must_fit_a_file_name(data: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate-embeddings", "--models", "a/b=folder", "--stsb", str(data["stsb"])]) == 2
    assert "NAME=FOLDER" in capsys.readouterr().err


def test_table_needs_embedding_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "other.jsonl").write_text(json.dumps({"kind": "theory"}) + "\n")
    assert main(["evaluate-embeddings", "--table", str(tmp_path / "other.jsonl")]) == 2
    assert "no embedding records" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--stsb", "--cranfield", "--newsgroups"])
def test_missing_data_names_the_option(
    option: str, folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate-embeddings", "--models", f"a={folders['dense']}", option, str(tmp_path / "nowhere")]
    assert main(words) == 2
    assert f"no such folder; pass {option} <folder with" in capsys.readouterr().err
