"""Export encoders with token removal: graphs of ``torch.export`` and ONNX files, with the removal inside the graph."""

from retention.export.onnx_file import export_onnx
from retention.export.program import OUTPUTS, export_program

__all__ = ["OUTPUTS", "export_onnx", "export_program"]
