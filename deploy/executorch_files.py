"""ExecuTorch files (.pte): written by PyTorch's own exporter for phones, and run by its runtime on this machine.

A .pte file takes one image, since a phone sees one at a time and ExecuTorch plans all memory beforehand. XNNPACK computes
convolutions and matrix products, on Arm and x86 alike; what it lacks runs in ExecuTorch's portable kernels. The method
`forward` takes 1,C,S,S float32 and gives the module's outputs, and the method `nolabel` gives, as JSON, what an ONNX file's
metadata state: how the input is made, and the names of the classes.

https://docs.pytorch.org/executorch. Importing it takes seconds, so it is imported where it is used.
"""
import contextlib
import copy
import json
import logging
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from core.errors import RunError
from deploy.export_module import ExportModule
from deploy.runtime import Runner

SCRIPT = Path(__file__).with_name("run_executorch.py")


def write(module: ExportModule, path: Path, graph=None) -> None:
    """Write a module for XNNPACK.  graph: written in the module's place, such as its INT8 version"""
    import torch

    with quiet():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        source = plain_layout(module) if graph is None else graph
        program = torch.export.export(source, (module.example(1),))
        metadata = {"nolabel": json.dumps(module.metadata)}
        lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()], constant_methods=metadata)
        path.write_bytes(lowered.to_executorch().buffer)


def write_int8(module: ExportModule, path: Path, batches: list[np.ndarray]) -> None:
    """Write the INT8 version: symmetric weights of each channel, ranges of activations from images.

    batches: inputs of the module; the ranges are measured on their images
    """
    import torch

    with quiet():
        from executorch.backends.xnnpack.quantizer import xnnpack_quantizer
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

        config = xnnpack_quantizer.get_symmetric_quantization_config(is_per_channel=True)
        graph = torch.export.export(plain_layout(module), (module.example(1),)).module()
        prepared = prepare_pt2e(graph, xnnpack_quantizer.XNNPACKQuantizer().set_global(config))
        with torch.no_grad():
            for images in batches:
                for image in images:
                    prepared(torch.from_numpy(image[None]))
        write(module, path, convert_pt2e(prepared))


def plain_layout(module: ExportModule) -> ExportModule:
    """A copy with contiguous weights: XNNPACK's partitioner refuses those that torch keeps channels last."""
    import torch

    return copy.deepcopy(module).to(memory_format=torch.contiguous_format)


def pte_file(path: Path, threads: int = 0) -> Runner:
    """The file in ExecuTorch's runtime, image by image.  threads: of the CPU, 0 for all cores

    Images are contiguous: the runtime takes the bytes as they lie, and of a channels-last tensor gives other outputs.
    """
    import torch

    with quiet():
        from executorch.extension.pybindings import portable_lib
        from executorch.runtime import Runtime

        if threads:
            portable_lib._unsafe_reset_threadpool(threads)
        program = Runtime.get().load_program(path)
        method = program.load_method("forward")
    assert method is not None

    def outputs(images: np.ndarray) -> list[np.ndarray]:
        rows = [method.execute([torch.from_numpy(np.ascontiguousarray(image[None]))]) for image in images]
        return [np.concatenate([np.array(row[i]) for row in rows]) for i in range(len(rows[0]))]

    return Runner(outputs)


def metadata_of(path: Path) -> dict:
    """What a file states of its input and its classes (`ExportModule.metadata`)."""
    with quiet():
        from executorch.runtime import Runtime

        method = Runtime.get().load_program(path).load_method("nolabel")
    assert method is not None
    return json.loads(method.execute([])[0])


def run_in_own_process(files: list[Path], images: np.ndarray) -> dict[str, np.ndarray]:
    """The first outputs of .pte files, by name, computed by a new process that imports nothing of nolabel.  Raises RunError."""
    with tempfile.TemporaryDirectory() as folder:
        inputs, out = Path(folder) / "images.npy", Path(folder) / "out.npz"
        np.save(inputs, images)
        done = subprocess.run([sys.executable, "-I", SCRIPT, inputs, out, *files], capture_output=True, text=True, check=False)
        if done.returncode:
            why = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise RunError(f"the ExecuTorch files do not run in a process of their own: {why[:200]}")
        with np.load(out) as outputs:
            return dict(outputs)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the messages of converters, and of the runtime's first look at the processor, which it writes past Python.

    Errors are exceptions, and stay.
    """
    loggers = [logging.getLogger(name) for name in ("torchao", "torch.utils._pytree", "executorch", "root", "torch.export")]
    levels = [logger.level for logger in loggers]
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            os.dup2(nowhere, 2)
            yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
