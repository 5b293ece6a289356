"""Write an encoder with token removal as one ONNX file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from retention.errors import DataError, require
from retention.export.program import export_program
from retention.pretrained import Embedder, RetentionEncoder

OPSETS = (18, 23)  # lowest and highest that the converter of torch writes
_NAMES = {"sentence_embedding": "sentence_embedding", "token_embeddings": "last_hidden_state"}


def export_onnx(
    model: Embedder | RetentionEncoder,
    path: str | Path,
    *,
    rho: float | None = None,
    output: str = "sentence_embedding",
    opset: int = 20,
) -> Path:
    """Write a model as one ONNX file with the removal inside the graph, completely or not at all.

    Inputs are ``input_ids``, ``attention_mask`` and, for encoders with segments, ``token_type_ids``, [batch, sequence]
    int64, padded on the right. The file runs in ONNX Runtime without this package. Layers after a gate see the largest
    count of the batch; an embedding does not depend on the other texts of its batch.

    Args:
        model: in evaluation mode; BERT, RoBERTa, XLM-R, DistilBERT or MPNet with an ``Adaptive``, ``Truncate`` or
            ``Dense`` policy.
        path: of the file; a missing folder is created, an existing file replaced.
        rho: target keep ratio in (0, 1], fixed in the file; None = the default of the model.
        output: ``sentence_embedding`` [batch, D], or ``token_embeddings``, which is called ``last_hidden_state`` in the
            file, as in exports of the plain encoder.
        opset: version of the ONNX operators, 18 to 23.

    Returns:
        The path.

    Raises:
        ConfigError: the model cannot be exported, or a setting is out of range.
        DataError: the file cannot be written.
        ModuleNotFoundError: the packages of the extra ``onnx`` are not installed.
    """
    low, high = OPSETS
    require(low <= opset <= high, "opset", f"must be a version from {low} to {high}, got {opset}")
    program = export_program(model, rho=rho, output=output)
    converted: Any = torch.onnx.export(
        program,
        dynamo=True,
        opset_version=opset,
        custom_translation_table={torch.ops.aten.sort.stable: _stable_sort},
        output_names=[_NAMES[output]],
        verbose=False,
    )
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".onnx-") as folder:
            converted.save(str(Path(folder) / target.name), external_data=False)
            os.replace(Path(folder) / target.name, target)
    except OSError as error:
        raise DataError(f"{target}: cannot be written ({error.strerror}); choose another path") from error
    return target


def run_onnx(path: str | Path, batch: Mapping[str, Tensor], threads: int = 0) -> Tensor:
    """Run an exported file in ONNX Runtime on the CPU and return its output.

    Args:
        path: of the file.
        batch: input name -> [B, T] long; names that are no inputs of the file are left out.
        threads: of ONNX Runtime; 0 = as many as it chooses.

    Raises:
        ModuleNotFoundError: the packages of the extra ``onnx`` are not installed.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    [result] = session.run(None, {name: batch[name].cpu().numpy() for name in names})
    return torch.from_numpy(result)


def _stable_sort(values: Any, stable: bool | None = None, dim: int = -1, descending: bool = False) -> Any:
    """Translate ``aten.sort.stable``: TopK of all elements, which puts the lower index first among equal values."""
    from onnxscript import opset18

    op: Any = opset18
    size = op.Gather(op.Shape(values), op.Constant(value_ints=[dim]), axis=0)
    return op.TopK(values, size, axis=dim, largest=int(descending), sorted=1)
