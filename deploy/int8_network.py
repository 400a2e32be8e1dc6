"""One network as onnxruntime runs it on the CPU, in float32 and in INT8, for tools that measure many networks alike.

deploy.export tries several kinds of INT8 and keeps the first that passes its gate; here all networks get the same one.
"""
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.errors import NotQuantizable
from deploy import onnxruntime_int8, runtime
from deploy.compare import reason
from deploy.export_module import ExportModule
from linear_eval.features import evenly
from vision.splits import Images

KIND = "channel"  # of deploy/onnxruntime_int8.py: a scale for each channel of the weights, ranges from images
CALIBRATION = 512  # training images, evenly spaced


@dataclass(frozen=True)
class Files:
    """A network's ONNX files."""

    float32: Path
    int8: Path


def calibration(module: ExportModule, split: Images) -> list[np.ndarray]:
    """Inputs for the ranges of activations: `CALIBRATION` images of a training split, the same in each call."""
    return [module.preprocess(split, part) for part in evenly(len(split), CALIBRATION).split(32)]


def write_float32(module: ExportModule, folder: Path) -> Path:
    """Raises NotQuantizable where torch cannot write ONNX of it."""
    file = folder / "float32.onnx"
    try:
        runtime.write_onnx(module, file)
    except Exception as error:  # the exporter fails in many ways
        raise NotQuantizable(f"no ONNX can be written: {reason(error)}") from error
    return file


def write(module: ExportModule, folder: Path, batches: Sequence[np.ndarray]) -> Files:
    """Write both files.  batches: inputs, of which the first one is run.  Raises NotQuantizable."""
    files = Files(write_float32(module, folder), folder / "int8.onnx")
    try:
        onnxruntime_int8.write(KIND, files.float32, files.int8, [*batches])
        outputs = runtime.onnx_file(files.int8)(batches[0])
    except Exception as error:  # onnxruntime's tools, or a file that it cannot run
        raise NotQuantizable(f"no INT8 version can be made: {reason(error)}") from error
    if not np.isfinite(outputs).all():
        raise NotQuantizable("the outputs of its INT8 version are not finite")
    return files
