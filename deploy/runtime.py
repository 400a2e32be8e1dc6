"""A portable module in each of the ways that run it, all of them the same to call: images → its first output, NumPy arrays;
`.outputs(images)` gives all of them.

An ONNX file tells in its metadata, under "nolabel", what it takes and what its classes are: it needs no other file.
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
from deploy.compare import CLOSE as CLOSE
from deploy.compare import difference
from deploy.portable import Portable

# onnxruntime's releases, with the newest ai.onnx opset and IR version that each reads, the oldest first:
# https://onnxruntime.ai/docs/reference/compatibility.html, whose table ends at 1.20
RELEASES = (
    ("1.0", 11, 6), ("1.3", 12, 7), ("1.6", 13, 7), ("1.8", 14, 7), ("1.9", 15, 8), ("1.11", 16, 8), ("1.12", 17, 8),
    ("1.14", 18, 8), ("1.15", 19, 8), ("1.16", 19, 9), ("1.17", 20, 9), ("1.18", 21, 10),
)
CHECKED = (1, 3, 64)  # images at which a file must agree with torch
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Answer:
    """outputs: images → all outputs, NumPy arrays."""

    outputs: Callable[[np.ndarray], list[np.ndarray]]

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return self.outputs(images)[0]


def eager(module: Callable[[torch.Tensor], tuple[torch.Tensor, ...]], device: torch.device = CPU) -> Answer:
    """By torch on that device, where the module is; channels last, where it is faster."""

    @torch.inference_mode()
    def outputs(images: np.ndarray) -> list[np.ndarray]:
        found = module(torch.from_numpy(images).to(device, memory_format=torch.channels_last))
        return [output.cpu().numpy() for output in found]

    return Answer(outputs)


def compiled(portable: Portable, device: torch.device = CPU) -> Answer:
    return eager(torch.compile(portable, dynamic=True), device)


def onnx_file(path: Path, threads: int = 0, device: torch.device = CPU) -> Answer | str:
    """By onnxruntime.  threads: of the CPU, 0 for all cores; where it cannot run on the device, why."""
    wanted = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}[device.type]
    if wanted not in onnxruntime.get_available_providers():
        return f"this onnxruntime has no {wanted}"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=[wanted])
    return _answer(session)


def _answer(session: onnxruntime.InferenceSession) -> Answer:
    name = session.get_inputs()[0].name
    return Answer(lambda images: session.run(None, {name: images}))


def tensorrt(path: Path) -> Answer | str:
    """By onnxruntime's TensorRT provider; where there is none, why."""
    if "TensorrtExecutionProvider" not in onnxruntime.get_available_providers():
        return "this onnxruntime has no TensorRT (onnxruntime-gpu beside TensorRT's libraries has)"
    session = onnxruntime.InferenceSession(path, providers=["TensorrtExecutionProvider", "CUDAExecutionProvider"])
    if session.get_providers()[0] != "TensorrtExecutionProvider":
        return "TensorRT's libraries could not be loaded"
    return _answer(session)


def _dynamic(portable: Portable) -> dict:
    sides = {2: torch.export.Dim("height", min=2), 3: torch.export.Dim("width", min=2)} if portable.preprocess else {}
    return {"images": {0: torch.export.Dim("batch")} | sides}


def program(portable: Portable) -> torch.export.ExportedProgram:
    """The graph, the batch free."""
    return torch.export.export(portable, (portable.example(2),), dynamic_shapes=_dynamic(portable))


def write_onnx(portable: Portable, path: Path, module: torch.nn.Module | None = None) -> None:
    """ONNX by torch's exporter, the batch free.  module: what is written in its place, such as the same in INT8"""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = torch.onnx.export(
            portable if module is None else module, (portable.example(2),), dynamo=True, dynamic_shapes=_dynamic(portable),
            input_names=["images"], output_names=list(portable.answers), verbose=False,
        )
    made.save(path)
    stamp(path, portable.says)


def stamp(path: Path, says: dict) -> None:
    """Put what its reader must know into an ONNX file."""
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {"nolabel": json.dumps(says)})
    onnx.save(model, path)


def write_program(portable: Portable, path: Path) -> Answer:
    """torch.export's program.  → what the file answers, read again"""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of weights that lie channels last, which come back as they were
        torch.export.save(program(portable), path)
    return eager(torch.export.load(path).module())


def write_torchscript(portable: Portable, path: Path) -> Answer:
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # that TorchScript is deprecated is what its word says
        torch.jit.trace(portable, portable.example(2)).save(path)
        return eager(torch.jit.load(path))


def alone(files: list[str], images: np.ndarray) -> dict[str, np.ndarray]:
    """What ONNX files answer in a fresh process that has onnxruntime and NumPy, and no torch."""
    with tempfile.TemporaryDirectory() as folder:
        given, out = Path(folder) / "images.npy", Path(folder) / "out.npz"
        np.save(given, images)
        script = Path(__file__).with_name("alone.py")
        done = subprocess.run([sys.executable, "-I", script, given, out, *files], capture_output=True, text=True, check=False)
        if done.returncode:
            why = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise RunError(f"the ONNX files do not run in a process of their own: {why[:200]}")
        with np.load(out) as found:
            return dict(found)


def distance(one: Answer, other: Answer, portable: Portable, counts: tuple[int, ...] = CHECKED) -> float:
    """The largest difference of outputs, relative to the largest output, over batches of several sizes; inf where one of them
    is not finite or has another shape.
    """
    found = 0.0
    for count in counts:
        images = portable.example(count).numpy()
        a, b = _outputs(one, images), _outputs(other, images)
        if len(a) != len(b):
            return float("inf")
        found = max(found, *(difference(x, y) for x, y in zip(a, b, strict=True)))
    return found


def _outputs(answer: Answer | Callable, images: np.ndarray) -> list[np.ndarray]:
    return answer.outputs(images) if isinstance(answer, Answer) else [answer(images)]


def onnx_needs(path: Path) -> dict:
    """{"ir": the file's IR version, "opsets": {domain: version}, "onnxruntime": the least release that reads it, or None}."""
    model = onnx.load(path, load_external_data=False)
    opsets = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    fits = (release for release, opset, ir in RELEASES if opset >= opsets.get("ai.onnx", 0) and ir >= model.ir_version)
    return {"ir": model.ir_version, "opsets": opsets, "onnxruntime": next(fits, None)}
