"""The ways to write and to run an export module. Each gives a `Runner`: images → outputs, as NumPy arrays.

An ONNX file needs no other file: its metadata state, under "nolabel", how its input is made and what its classes are.
"""
import json
import logging
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch

from core.errors import RunError
from deploy.compare import difference
from deploy.export_module import ExportModule

# onnxruntime's releases, with the newest ai.onnx opset and IR version that each reads, the oldest first:
# https://onnxruntime.ai/docs/reference/compatibility.html, whose table ends at 1.20
RELEASES = (
    ("1.0", 11, 6), ("1.3", 12, 7), ("1.6", 13, 7), ("1.8", 14, 7), ("1.9", 15, 8), ("1.11", 16, 8), ("1.12", 17, 8),
    ("1.14", 18, 8), ("1.15", 19, 8), ("1.16", 19, 9), ("1.17", 20, 9), ("1.18", 21, 10),
)
BATCHES = (1, 3, 64)  # batch sizes at which a version is compared with torch
CPU = torch.device("cpu")


class Unavailable(Exception):
    """This machine lacks what a framework needs; the message says what."""


@dataclass(frozen=True)
class Runner:
    """Images → the first output.  outputs: images → all outputs."""

    outputs: Callable[[np.ndarray], list[np.ndarray]]

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return self.outputs(images)[0]


def eager(module: Callable[[torch.Tensor], tuple[torch.Tensor, ...]], device: torch.device = CPU) -> Runner:
    """torch, on the device where the module is; channels last, which is faster."""

    @torch.inference_mode()
    def outputs(images: np.ndarray) -> list[np.ndarray]:
        tensors = module(torch.from_numpy(images).to(device, memory_format=torch.channels_last))
        return [output.cpu().numpy() for output in tensors]

    return Runner(outputs)


def compiled(module: ExportModule, device: torch.device = CPU) -> Runner:
    return eager(torch.compile(module, dynamic=True), device)


def onnx_file(path: Path, threads: int = 0, device: torch.device = CPU) -> Runner:
    """onnxruntime.  threads: of the CPU, 0 for all cores.  Raises Unavailable where it does not support the device."""
    provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}[device.type]
    if provider not in onnxruntime.get_available_providers():
        raise Unavailable(f"this onnxruntime has no {provider}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return _runner(onnxruntime.InferenceSession(path, options, providers=[provider]))


def _runner(session: onnxruntime.InferenceSession) -> Runner:
    name = session.get_inputs()[0].name
    return Runner(lambda images: session.run(None, {name: images}))


def tensorrt(path: Path) -> Runner:
    """onnxruntime's TensorRT provider.  Raises Unavailable where there is none."""
    if "TensorrtExecutionProvider" not in onnxruntime.get_available_providers():
        raise Unavailable("this onnxruntime has no TensorRT (onnxruntime-gpu beside TensorRT's libraries has)")
    session = onnxruntime.InferenceSession(path, providers=["TensorrtExecutionProvider", "CUDAExecutionProvider"])
    if session.get_providers()[0] != "TensorrtExecutionProvider":
        raise Unavailable("TensorRT's libraries could not be loaded")
    return _runner(session)


def _dynamic_shapes(module: ExportModule) -> dict:
    sides = {2: torch.export.Dim("height", min=2), 3: torch.export.Dim("width", min=2)} if module.includes_preprocessing else {}
    return {"images": {0: torch.export.Dim("batch")} | sides}


def program(module: ExportModule) -> torch.export.ExportedProgram:
    """The module's graph, for any batch size."""
    return torch.export.export(module, (module.example(2),), dynamic_shapes=_dynamic_shapes(module))


def write_onnx(module: ExportModule, path: Path, graph: torch.nn.Module | None = None) -> None:
    """Write ONNX by torch's exporter, for any batch size.  graph: written in the module's place, such as its INT8 version"""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.onnx.export(
            module if graph is None else graph, (module.example(2),), dynamo=True, dynamic_shapes=_dynamic_shapes(module),
            input_names=["images"], output_names=list(module.output_names), verbose=False,
        )
    exported.save(path)
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {"nolabel": json.dumps(module.metadata)})
    onnx.save(model, path)


def write_program(module: ExportModule, path: Path) -> Runner:
    """Write torch.export's program.  → the runner of the file, read again"""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about channels-last weights, which are restored correctly
        torch.export.save(program(module), path)
    return eager(torch.export.load(path).module())


def write_torchscript(module: ExportModule, path: Path) -> Runner:
    """Write TorchScript.  → the runner of the file, read again"""
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # that TorchScript is deprecated; the setting's help says so
        torch.jit.trace(module, module.example(2)).save(path)
        return eager(torch.jit.load(path))


def run_without_torch(files: list[str], images: np.ndarray) -> dict[str, np.ndarray]:
    """The first outputs of ONNX files, computed by a new process that has onnxruntime and NumPy, and no torch."""
    with tempfile.TemporaryDirectory() as folder:
        inputs, out = Path(folder) / "images.npy", Path(folder) / "out.npz"
        np.save(inputs, images)
        script = Path(__file__).with_name("run_without_torch.py")
        done = subprocess.run([sys.executable, "-I", script, inputs, out, *files], capture_output=True, text=True, check=False)
        if done.returncode:
            why = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise RunError(f"the ONNX files do not run in a process of their own: {why[:200]}")
        with np.load(out) as outputs:
            return dict(outputs)


def distance(one: Runner, other: Runner, module: ExportModule, batches: tuple[int, ...] = BATCHES) -> float:
    """The largest difference of outputs, relative to the largest output, over several batch sizes.

    inf where an output is not finite or has another shape.
    """
    largest = 0.0
    for count in batches:
        images = module.example(count).numpy()
        a, b = one.outputs(images), other.outputs(images)
        if len(a) != len(b):
            return float("inf")
        largest = max(largest, *(difference(x, y) for x, y in zip(a, b, strict=True)))
    return largest


def onnx_requirements(path: Path) -> dict:
    """{"ir": the file's IR version, "opsets": {domain: version}, "onnxruntime": the oldest release that reads it, or None}."""
    model = onnx.load(path, load_external_data=False)
    opsets = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    fits = (release for release, opset, ir in RELEASES if opset >= opsets.get("ai.onnx", 0) and ir >= model.ir_version)
    return {"ir": model.ir_version, "opsets": opsets, "onnxruntime": next(fits, None)}
