"""`deploy.export --mobile`: ExecuTorch files, in float and in INT8, each checked against torch before it is kept."""
from functools import partial
from pathlib import Path

import numpy as np
import torch

from core.run import log_line
from deploy import executorch_files, runtime
from deploy.accuracy import accuracy, run_split
from deploy.compare import TOLERANCE, difference, reason
from deploy.export_report import MOBILE
from deploy.quantize import gate_failure
from deploy.settings import ExportSettings
from deploy.timing import interleaved
from deploy.versions import CHECKED, Version, Versions
from linear_eval.features import evenly
from vision.splits import Dataset

INT8 = f"{MOBILE} INT8"


def write_mobile(settings: ExportSettings, folder: Path, versions: Versions, data: Dataset, threads: int) -> None:
    """Add model.pte, and model.int8.pte where it passes the gate of INT8 (deploy/quantize.py); or why not.

    Float outputs may differ from torch's by `TOLERANCE` of the largest, as an ONNX file's: both add the same float32 products
    in another order.
    """
    module, file, int8 = versions["torch"].module, folder / "model.pte", folder / "model.int8.pte"
    log_line(f"writing {file.name}")

    def write() -> runtime.Runner:
        executorch_files.write(module, file)
        return executorch_files.pte_file(file, threads)

    versions.attempt(MOBILE, write, file)
    if MOBILE not in versions or settings.int8 == "none":
        return
    log_line(f"writing {int8.name}")
    try:
        batches = [module.preprocess(data.train, part) for part in evenly(len(data.train), settings.calibration).split(32)]
        executorch_files.write_int8(module, int8, batches)
        version = Version(module, executorch_files.pte_file(int8, threads), int8)
        failure = int8_failure(settings, versions[MOBILE], version, data)
    except Exception as error:  # a model that the quantizer or XNNPACK cannot convert
        failure = f"could not be made: {reason(error)}"
    if failure is None:
        versions[INT8] = version
    else:
        versions.refused[INT8] = failure
        int8.unlink(missing_ok=True)


def int8_failure(settings: ExportSettings, exact: Version, int8: Version, data: Dataset) -> str | None:
    """Why INT8 does not pass its gate, on validation images; None where it does."""
    image = exact.module.preprocess(data.validation, torch.arange(1))
    scores = [accuracy(version.runner, version.module, data, data.validation) for version in (exact, int8)]
    timings = interleaved({"INT8": partial(int8.runner, image), "float": partial(exact.runner, image)}, 1)
    return gate_failure(settings, *scores, timings["INT8"].p50, timings["float"].p50)


def check_mobile(data: Dataset, versions: Versions) -> dict:
    """Run the .pte files in a process of their own, and refuse those whose outputs differ there or hold no metadata.

    → {"images": test images, "executorch": its version, "files": {name: {"off": difference from torch's outputs, "same class
    as torch": share}}}
    """
    from core.machine import installed

    torch_version, indices, checks = versions["torch"], evenly(len(data.test), CHECKED), {}
    module = torch_version.module
    exact, images = run_split(torch_version.runner, module, data.test, indices), module.preprocess(data.test, indices)
    for name in [name for name in (MOBILE, INT8) if name in versions]:
        file = versions.files[name]
        try:
            outputs = executorch_files.run_in_own_process([file], images)[file.name]
            by = difference(outputs, run_split(versions[name].runner, module, data.test, indices))
            stated = executorch_files.metadata_of(file) == module.metadata
        except Exception as error:
            versions.refuse(name, f"failed in a process of its own: {reason(error)}")
            continue
        if not by <= TOLERANCE:
            versions.refuse(name, f"its outputs differ in a process of its own, by {by:.1e} of the largest output")
            continue
        if not stated:
            versions.refuse(name, "does not state its input as it was written")
            continue
        checks[name] = {"off": float(np.abs(outputs - exact).max() / np.abs(exact).max())}
        if module.header.classes is not None:
            checks[name]["same class as torch"] = float((outputs.argmax(1) == exact.argmax(1)).mean())
    return {"images": len(indices), "executorch": installed("executorch"), "files": checks}
