"""Tests of ONNX files: ONNX Runtime gives what torch gives, on fewer tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from retention import Embedder, RetentionEncoder, Truncate
from retention.export import export_onnx
from retention.export.main import main
from retention.export.onnx_file import run_onnx
from retention.pretrained.sentence_files import EmbeddingSettings

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

Make = Callable[..., Embedder]
TOLERANCE = 1e-4

pytestmark = pytest.mark.slow


def largest_difference(path: Path, model: Embedder, batches: list[dict[str, Tensor]], rho: float) -> float:
    """Return the largest difference of an embedding between ONNX Runtime and torch."""
    differences = []
    for batch in batches:
        with torch.no_grad():
            expected = model(batch["input_ids"], batch["attention_mask"], rho=rho)
        differences.append(float((run_onnx(path, batch, threads=1) - expected).abs().max()))
    return max(differences)


@pytest.mark.parametrize(
    ("family", "pooling"),
    [("bert", "mean"), ("bert", "survivors"), ("mpnet", "mean"), ("distilbert", "cls"), ("roberta", "depth")],
)
def test_embeddings_equal_those_of_torch(
    make_embedder: Make, batches: list[dict[str, Tensor]], tmp_path: Path, family: str, pooling: str
) -> None:
    model = make_embedder(family, pooling=pooling)
    path = export_onnx(model, tmp_path / "onnx" / "model.onnx", rho=0.4)
    assert [each.name for each in path.parent.iterdir()] == ["model.onnx"]  # one file, no other traces
    assert largest_difference(path, model, batches, 0.4) < TOLERANCE
    assert largest_difference(path, model, batches, 0.7) > 10 * TOLERANCE  # control: another keep ratio differs
    alone = {name: value[:1, :5] for name, value in batches[0].items()}  # the first text has 5 tokens
    together = run_onnx(path, batches[0], threads=1)
    assert (run_onnx(path, alone, threads=1) - together[:1]).abs().max() < TOLERANCE


def test_later_layers_see_fewer_tokens(make_embedder: Make, batches: list[dict[str, Tensor]], tmp_path: Path) -> None:
    model = make_embedder(policy=Truncate(rho=0.5, schedule=[0.6, 0.3]))
    batch = batches[0]
    with torch.no_grad():
        model(**batch)
    kept = [int(model.encoder.report.kept[layer].amax()) for layer in (0, 1)]
    path = export_onnx(model, tmp_path / "model.onnx")
    assert widths_of_norms(path, batch) == {20, *kept} == {20, 12, 6}
    dense = export_onnx(make_embedder(policy=Truncate(rho=1.0)), tmp_path / "dense.onnx")
    assert widths_of_norms(dense, batch) == {20}  # control


def widths_of_norms(path: Path, batch: dict[str, Tensor]) -> set[int]:
    """Return the sequence lengths at the layer normalizations of a file."""
    import onnxruntime

    content: Any = onnx.load(path)
    names = [node.output[0] for node in content.graph.node if node.op_type == "LayerNormalization"]
    content.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = onnxruntime.InferenceSession(content.SerializeToString(), providers=["CPUExecutionProvider"])
    inputs = {each.name: batch[each.name].numpy() for each in session.get_inputs()}
    return {values.shape[1] for values in session.run(names, inputs)}


def test_token_states_equal_those_of_torch(
    make_embedder: Make, batches: list[dict[str, Tensor]], tmp_path: Path
) -> None:
    model: RetentionEncoder = make_embedder().encoder
    path = export_onnx(model, tmp_path / "model.onnx", rho=0.4, output="token_embeddings")
    for batch in batches:
        with torch.no_grad():
            expected = model(**batch, rho=0.4).last_hidden_state
        real = batch["attention_mask"].bool()
        assert (run_onnx(path, batch, threads=1) - expected)[real].abs().max() < TOLERANCE


def test_the_command_writes_into_the_model_folder(
    make_embedder: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    make_embedder(**vars(EmbeddingSettings(normalize=True))).save_pretrained(folder)
    assert main(["--model", str(folder), "--rho", "0.4"]) == 0
    assert (folder / "onnx" / "model.onnx").is_file()
    assert "largest difference" in capsys.readouterr().out
    assert main(["--model", str(tmp_path / "nothing"), "--output", str(tmp_path / "x.onnx")]) == 2
