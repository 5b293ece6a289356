"""Embed a folder of texts with a retained model: progress, Parquet output, resumable.

    python examples/embed_corpus.py                                  # a tiny random model on made-up texts
    python examples/embed_corpus.py --model <folder> --texts <folder of .txt> --output <folder> --rho 0.3 \
        --query "which tokens were kept?"

Writes one Parquet file for every 1,000 texts, with the columns `path` and `embedding`. A second call with
the same arguments continues where the first one stopped. With `--query` it also writes `hits.html`, which shows for the
best texts which of their tokens were kept. Needs `pyarrow` (extra `experiments`).
"""

import argparse
import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path
from statistics import fmean

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from retention import Embedder, Truncate
from retention.errors import RetentionError
from retention.report.token_heatmap import token_heatmap_html

SENTENCES = ["the cast is fine", "a gripping film", "two slow hours", "the middle part is long", "a review of a film"]


def demo(folder: Path) -> tuple[Path, Path]:
    """Write a tiny random model and twelve texts."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *sorted({word for line in SENTENCES for word in line.split()})]
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=64, **special)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=64
    )
    encoder = BertModel(config, add_pooling_layer=False).eval()
    Embedder.build(encoder, tokenizer, Truncate(rho=0.5).eval()).save_pretrained(folder / "model")
    texts = folder / "texts"
    texts.mkdir()
    for index in range(12):
        chosen = [SENTENCES[(index * step) % len(SENTENCES)] for step in range(1, 4)]
        (texts / f"{index:02d}.txt").write_text(". ".join(chosen), encoding="utf-8")
    return folder / "model", texts


def check_settings(output: Path, settings: dict) -> None:
    """Refuse to continue with another model or other texts than the folder was begun with."""
    path = output / "settings.json"
    output.mkdir(parents=True, exist_ok=True)
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        changed = sorted(key for key in settings if before.get(key) != settings[key])
        if changed:
            sys.exit(f"{output}: was begun with another {', '.join(changed)}; choose another --output")
    else:
        write(path, json.dumps(settings, indent=2).encode())


def write(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, then rename it."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def read(path: Path) -> str:
    """Read a text; stop with the name of a file that is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        sys.exit(f"{path}: is not UTF-8 at byte {error.start}; convert it or move it away")


def embed(model: Embedder, paths: list[Path], root: Path, output: Path, rho: float | None, size: int) -> list[Path]:
    """Embed all texts and return the Parquet files."""
    parts = []
    for start in range(0, len(paths), size):
        part = output / f"part-{start // size:05d}.parquet"
        parts.append(part)
        if part.is_file():
            continue
        chosen = paths[start : start + size]
        texts = [read(path) for path in chosen]
        embeddings = model.encode(texts, rho=rho, show_progress=True)
        names = [str(path.relative_to(root)) for path in chosen]
        table = pa.table({"path": names, "embedding": embeddings.tolist()})
        temporary = part.with_name(f".{part.name}.tmp")
        pq.write_table(table, temporary)
        os.replace(temporary, part)
        print(f"{min(start + size, len(paths))} of {len(paths)} texts")
    return parts


def save_hits(model: Embedder, query: str, parts: list[Path], root: Path, html: Path, rho: float | None) -> None:
    """Write a page of the three best texts for a query, with their tokens shaded by how far they went."""
    table = pa.concat_tables([pq.read_table(part) for part in parts])
    embeddings = torch.tensor(table["embedding"].to_pylist())
    [vector] = model.encode([query], rho=rho)
    scores = torch.nn.functional.cosine_similarity(embeddings, vector[None])
    best = scores.topk(min(3, len(scores)))
    names = [table["path"][index].as_py() for index in best.indices.tolist()]
    kept = [model.kept_tokens(read(root / name), rho=rho) for name in names]
    layers = model.encoder.gated_layers
    by_layer = {
        str(layer): fmean(sum(depth > gate for depth in each.depth) / len(each.depth) for each in kept)
        for gate, layer in enumerate(layers)
    }
    profile = {
        "mean": fmean(each.keep_ratio for each in kept),
        "by_layer": by_layer,
        "rho": model.policy.rho if rho is None else rho,
        "gated_layers": list(layers),
        "examples": [
            each.example() | {"title": f"{name}, similarity {score:.2f}"}
            for name, score, each in zip(names, best.values.tolist(), kept, strict=True)
        ],
    }
    write(html, token_heatmap_html(profile, f"Best texts for: {query}").encode())
    for name, score, each in zip(names, best.values.tolist(), kept, strict=True):
        print(f"{score:.3f} {name} (kept {each.keep_ratio:.0%} of the tokens)")
    print(f"wrote {html}")


def main() -> None:
    """Embed the texts of a folder."""
    parser = argparse.ArgumentParser(description="Embed a folder of texts with a retained model.")
    parser.add_argument("--model", type=Path, help="folder of a model; default: a tiny random one")
    parser.add_argument("--texts", type=Path, help="folder of .txt files, searched with its subfolders")
    parser.add_argument("--output", type=Path, help="folder of the Parquet files; default: a temporary one")
    parser.add_argument("--rho", type=float, help="target keep ratio; default: that of the model")
    parser.add_argument("--query", default="a gripping film", help="text to search for (default: %(default)s)")
    parser.add_argument("--part-size", type=int, default=1000, help="texts per Parquet file (default: %(default)s)")
    arguments = parser.parse_args()
    if (arguments.model is None) != (arguments.texts is None):
        parser.error("--model and --texts belong together")
    output = arguments.output or Path(tempfile.mkdtemp())
    root = arguments.texts
    if arguments.model is None:
        arguments.model, root = demo(Path(tempfile.mkdtemp()))
    try:
        model = Embedder.from_pretrained(arguments.model, rho=arguments.rho)
        paths = sorted(root.rglob("*.txt"))
        if not paths:
            sys.exit(f"{root}: holds no .txt file; choose another --texts")
        listing = hashlib.sha256("\n".join(map(str, paths)).encode()).hexdigest() if arguments.texts else "demo"
        where = str(arguments.model.resolve()) if arguments.texts else "demo"
        settings = {"model": where, "texts": listing, "rho": arguments.rho, "part_size": arguments.part_size}
        check_settings(output, settings)
        parts = embed(model, paths, root, output, arguments.rho, arguments.part_size)
        save_hits(model, arguments.query, parts, root, output / "hits.html", arguments.rho)
    except (RetentionError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
