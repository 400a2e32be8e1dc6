"""INT8 by onnxruntime after training.

Weights are INT8 and activations unsigned: the pairing that x86's VNNI multiplies (measured: signed activations are three
times slower there). Ranges of activations come from real images.
"""
import logging
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from deploy import runtime

OPERATORS = ("Conv", "Gemm", "MatMul")  # those that INT8 makes faster
FLOAT_LAYERS = 3  # layers that `mixed` leaves in float


class Reader(CalibrationDataReader):
    """Batches of images as onnxruntime reads them."""

    def __init__(self, batches: Iterable[np.ndarray]):
        self.batches = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.batches, None)
        return None if batch is None else {"images": batch}


def write(kind: str, source: Path, out: Path, batches: list[np.ndarray]) -> None:
    """Write the INT8 version of an ONNX file.  batches: its inputs, for the ranges of activations

    kind: static, channel (a scale for each channel of the weights), mixed (the most sensitive layers stay float) or dynamic
    (the ranges are computed at each call).
    """
    logging.getLogger().setLevel(logging.ERROR)  # it advises to preprocess, which the next lines do
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "ready.onnx"
        quant_pre_process(source, ready, skip_symbolic_shape=True)  # symbolic shapes fail for files of torch's dynamo exporter
        if kind == "dynamic":
            quantize_dynamic(ready, out, weight_type=QuantType.QInt8)
            return
        excluded = sensitive_layers(ready, Path(folder), batches)[:FLOAT_LAYERS] if kind == "mixed" else []
        _write_static(ready, out, batches, per_channel=kind != "static", nodes_to_exclude=excluded)


def _write_static(source: Path, out: Path, batches: list[np.ndarray], **options) -> None:
    quantize_static(
        source, out, Reader(batches), quant_format=QuantFormat.QDQ, activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8, **options,
    )


def sensitive_layers(source: Path, folder: Path, batches: list[np.ndarray]) -> list[str]:
    """Layers by the error of the outputs when that layer alone is INT8, the largest first."""
    images, errors = batches[:1], {}
    expected = runtime.onnx_file(source)(images[0])
    layers = [node.name for node in onnx.load(source).graph.node if node.op_type in OPERATORS]
    for name in layers:
        file = folder / "one_layer.onnx"
        _write_static(source, file, images, per_channel=True, nodes_to_quantize=[name])
        error = float(np.square(runtime.onnx_file(file)(images[0]) - expected).mean())
        errors[name] = error if np.isfinite(error) else float("inf")
    return sorted(layers, key=lambda name: -errors[name])
