"""What a candidate costs and how good it is where it is deployed: in INT8, by onnxruntime, on the CPU.

Costs are measured once, with random weights, when a trial has its candidate: that takes seconds. Accuracy in INT8 is measured
of trained weights at each rung.
"""
import tempfile
from functools import partial
from pathlib import Path

import torch
from torch import nn

from core.machine import hardware, installed
from deploy import int8_network, peak_memory, runtime
from deploy.accuracy import run_split
from deploy.export_module import ExportModule
from deploy.timing import timed
from linear_eval.features import evenly
from linear_eval.knn import knn_accuracy
from linear_eval.probe import logistic_accuracy
from nas.deployment_costs import DeploymentCosts
from vision import artifact
from vision.splits import Dataset

INT8 = ("int8_accuracy", "int8_latency", "int8_size")


def measure(names: set[str], encoder: nn.Module, header: artifact.EncoderHeader, data: Dataset) -> DeploymentCosts:
    """Costs of an encoder on this CPU, with as many threads as torch has.  names: of DEPLOYED

    Raises NotQuantizable, RunError.
    """
    module, threads = export_module_of(encoder, header), torch.get_num_threads()
    where = f"onnxruntime {installed('onnxruntime')}, {hardware()['cpu']}, {threads} threads"
    costs, methods = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        if {*INT8} & names:
            batches = int8_network.calibration(module, data.train)
            files = int8_network.write(module, Path(folder), batches)
            kind = f"INT8 ({int8_network.KIND}, ranges from {sum(map(len, batches))} training images)"
            costs["int8_size"], methods["int8_size"] = files.int8.stat().st_size / 1e6, f"{kind}: bytes of the ONNX file"
            if "int8_latency" in names:
                call = partial(runtime.onnx_file(files.int8, threads), batches[0][:1])
                costs["int8_latency"] = timed(call, 1).p50
                methods["int8_latency"] = f"{kind}: median of one image; {where}; other trials may have run beside it"
            methods["int8_accuracy"] = f"{kind}; {where}"
            float32 = files.float32
        else:
            float32 = int8_network.write_float32(module, Path(folder))
        if "peak_memory" in names:
            costs["peak_memory"] = peak_memory.peak_memory(float32, threads)
            methods["peak_memory"] = f"growth of a process that runs one image in float32; {where}; memory is its lower bound"
    return DeploymentCosts(costs, methods)


def int8_accuracy(
    encoder: nn.Module, header: artifact.EncoderHeader, data: Dataset, reference_images: int, *, logistic: bool
) -> float:
    """kNN accuracy of the INT8 network's features on validation images, or logistic regression's, in per cent.

    reference_images: training images that it uses at most, evenly spaced, as the accuracy in float32.  Raises NotQuantizable.
    """
    module, reference = export_module_of(encoder, header), data.train.select(evenly(len(data.train), reference_images))
    with tempfile.TemporaryDirectory() as folder:
        files = int8_network.write(module, Path(folder), int8_network.calibration(module, data.train))
        runner = runtime.onnx_file(files.int8, torch.get_num_threads())
    rows = []
    for split in (reference, data.validation):
        rows += [torch.from_numpy(run_split(runner, module, split)), split.labels]
    return logistic_accuracy(*rows) if logistic else knn_accuracy(*rows, len(data.classes))


def export_module_of(encoder: nn.Module, header: artifact.EncoderHeader) -> ExportModule:
    """On the CPU, where the encoder stays."""
    return ExportModule(encoder.cpu(), header, False).eval().to(memory_format=torch.channels_last)
