"""Write the ONNX file of a model folder and compare it with the model in torch."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from retention.errors import RetentionError
from retention.export.onnx_file import export_onnx, run_onnx
from retention.export.program import OUTPUTS, encoder_in, takes_token_types
from retention.extras import missing_extra_message
from retention.pretrained import Embedder

TOLERANCE = 1e-4  # largest allowed difference of a value between ONNX Runtime and torch, in float32

_TEXTS = (
    "short",
    "A gripping film that wastes no scene.",
    "The committee discussed the budget for three hours before it agreed on a small change of the first paragraph. "
    * 8,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Export a model folder; return the exit status."""
    parser = argparse.ArgumentParser(prog="retention export", description=__doc__)
    parser.add_argument("--model", required=True, help="model folder of Embedder.save_pretrained, or a name on the hub")
    parser.add_argument("--rho", type=float, help="target keep ratio in (0, 1] (default: that of the model)")
    parser.add_argument("--output", type=Path, help="file to write (default: <model folder>/onnx/model.onnx)")
    parser.add_argument("--kind", choices=OUTPUTS, default="sentence_embedding", help="output of the file")
    parser.add_argument("--opset", type=int, default=20, help="version of the ONNX operators (default: 20)")
    arguments = parser.parse_args(argv)
    path = arguments.output or Path(arguments.model) / "onnx" / "model.onnx"
    try:
        model = Embedder.from_pretrained(arguments.model, arguments.rho)
        export_onnx(model, path, output=arguments.kind, opset=arguments.opset)
        difference = largest_difference(model, path, arguments.kind)
    except RetentionError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        message = missing_extra_message(error, "retention export")
        if message is None:
            raise
        print(message, file=sys.stderr)
        return 2
    print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB; largest difference to torch {difference:.1e}")
    if difference > TOLERANCE:
        print(f"{path}: differs from torch by more than {TOLERANCE}; do not use it", file=sys.stderr)
        return 1
    return 0


def largest_difference(model: Embedder, path: Path, output: str) -> float:
    """Return the largest absolute difference between ONNX Runtime and torch, for texts of several lengths in a batch.

    Args:
        model: that was exported.
        path: of the ONNX file.
        output: one of ``OUTPUTS``; padding is not compared.
    """
    batch = tokenized(model, _TEXTS)
    if output == "sentence_embedding":
        with torch.inference_mode():
            expected: Tensor = model(**batch)
        return float((run_onnx(path, batch) - expected).abs().max())
    with torch.inference_mode():
        encoded = encoder_in(model).encode(batch["input_ids"], batch["attention_mask"], batch.get("token_type_ids"))
    return float((run_onnx(path, batch) - encoded.hidden_states)[encoded.weights > 0].abs().max())


def tokenized(model: Embedder, texts: Sequence[str]) -> dict[str, Tensor]:
    """Tokenize texts into one batch, padded on the right; the inputs that an exported file of the model takes."""
    encoding = model.tokenizer(
        list(texts),
        padding=True,
        truncation=True,
        max_length=model.max_seq_length,
        padding_side="right",
        return_tensors="pt",
    )
    batch = {"input_ids": encoding["input_ids"], "attention_mask": encoding["attention_mask"]}
    if takes_token_types(model):
        batch["token_type_ids"] = torch.zeros_like(batch["input_ids"])
    return batch


if __name__ == "__main__":
    sys.exit(main())
