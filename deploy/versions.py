"""The versions of one exported model: each is written, read again and compared with torch; one that fails is refused."""
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path

import numpy as np

from core.errors import RunError
from core.run import log_line
from deploy import runtime
from deploy.accuracy import run_split
from deploy.compare import TOLERANCE, difference, reason
from deploy.export_module import ExportModule
from deploy.export_report import REFERENCE
from deploy.runtime import Runner, Unavailable
from deploy.settings import ExportSettings
from linear_eval.features import evenly
from vision.splits import Dataset

FILES = ("model.onnx", "model.int8.onnx", "model.pt2", "model.torchscript.pt", "model.pte", "model.int8.pte")
CHECKED = 1_000  # test images on which the ONNX files must give the same outputs in a process without torch


@dataclass(frozen=True)
class Version:
    """A way to run a module.  file: its own, where it has one; reference: is it of the model that is compared with?"""

    module: ExportModule
    runner: Runner
    file: Path | None = None
    deviation: float | None = None  # the largest difference from torch's outputs, relative to the largest of them
    reference: bool = False


class Versions(dict[str, Version]):
    """Versions by name. One that fails is in `refused` alone."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.refused: dict[str, str] = {}  # name → why

    def attempt(self, name: str, make: Callable[[], Runner], file: Path | None = None) -> None:
        """Add a version whose outputs equal torch's; otherwise refuse it, with the reason."""
        torch = self["torch"]
        try:
            runner = make()
            by = runtime.distance(runner, torch.runner, torch.module)
        except Unavailable as error:
            self.refused[name] = str(error)
        except Exception as error:  # exporters and compilers fail in many ways; the other versions do not depend on them
            self.refused[name] = f"failed: {reason(error)}"
        else:
            if by <= TOLERANCE:
                self[name] = Version(torch.module, runner, file, by)
                return
            why = f"differs from torch by {by:.1e} of the largest output" if isfinite(by) else "its outputs are not finite"
            self.refused[name] = f"{why}; {TOLERANCE:g} is allowed"

    def refuse(self, name: str, why: str) -> None:
        self.refused[name] = why
        version = self.pop(name, None)
        if version and version.file:
            version.file.unlink(missing_ok=True)

    @property
    def files(self) -> dict[str, Path]:
        return {name: version.file for name, version in self.items() if version.file}

    @property
    def onnx_files(self) -> dict[str, Path]:
        return {name: file for name, file in self.files.items() if file.suffix == ".onnx"}

    def publish(self, folder: Path) -> None:
        """Move the checked files into the folder, and remove files of an earlier run that this one refused."""
        for name, file in self.files.items():
            self[name] = replace(self[name], file=file.replace(folder / file.name))
        for name in {*FILES} - {file.name for file in self.files.values()}:
            (folder / name).unlink(missing_ok=True)


def write_versions(settings: ExportSettings, folder: Path, module: ExportModule, threads: int) -> Versions:
    """Every version in floating point.  Raises RunError where the model's own outputs are not finite."""
    torch = runtime.eager(module)
    if runtime.distance(torch, torch, module) != 0:
        raise RunError(f"encoder={settings.encoder}: its outputs are not finite, so no version of it could be compared")
    versions, (onnx, _, program, script) = Versions({"torch": Version(module, torch)}), (folder / name for name in FILES[:4])

    def write_onnx() -> Runner:
        runtime.write_onnx(module, onnx)
        return runtime.onnx_file(onnx, threads)

    log_line("writing model.onnx and model.pt2")
    versions.attempt("onnxruntime", write_onnx, onnx)
    versions.attempt("torch.export", lambda: runtime.write_program(module, program), program)
    if settings.torchscript:
        versions.attempt("TorchScript", lambda: runtime.write_torchscript(module, script), script)
    versions.attempt("torch.compile", lambda: runtime.compiled(module))
    if "onnxruntime" in versions:
        versions.attempt("TensorRT", lambda: runtime.tensorrt(onnx))
    else:
        versions.refused["TensorRT"] = "there is no model.onnx"
    return versions


def check_without_torch(data: Dataset, versions: Versions) -> dict:
    """Run the ONNX files in a process without torch, and refuse those with other outputs than in this one.

    → {"images": test images, "files": {name: {"off": difference from torch's outputs, "same class as torch": share}}}
    """
    torch, indices, checks = versions["torch"], evenly(len(data.test), CHECKED), {}
    exact, images = run_split(torch.runner, torch.module, data.test, indices), torch.module.preprocess(data.test, indices)
    for name, file in versions.onnx_files.items():
        try:
            outputs = runtime.run_without_torch([str(file)], images)[str(file)]
            by = difference(outputs, run_split(versions[name].runner, torch.module, data.test, indices))
        except Exception as error:
            versions.refuse(name, f"failed in a process of its own: {reason(error)}")
            continue
        if not by <= TOLERANCE:
            versions.refuse(name, f"its outputs differ in a process of its own, by {by:.1e} of the largest output")
            continue
        checks[name] = {"off": float(np.abs(outputs - exact).max() / np.abs(exact).max())}
        if torch.module.header.classes is not None:
            threshold = torch.module.header.threshold
            same = outputs.argmax(1) == exact.argmax(1) if threshold is None else (
                _named(outputs, threshold) == _named(exact, threshold)).all(1)
            checks[name]["same class as torch"] = float(same.mean())
    return {"images": len(indices), "files": checks}


def _named(logits: np.ndarray, threshold: float) -> np.ndarray:
    """Which classes an image gets where it may have several.  M,K → M,K bool"""
    return 1 / (1 + np.exp(-logits.astype(np.float64))) >= threshold


def add_reference(versions: Versions, module: ExportModule, folder: Path, threads: int) -> None:
    """Add the model that is compared with, by torch and by onnxruntime.  folder: where its ONNX file is written"""
    versions[f"{REFERENCE}torch"] = Version(module, runtime.eager(module), reference=True)
    file, unchecked, name = folder / "against.onnx", folder / ".unchecked.against.onnx", f"{REFERENCE}onnxruntime"
    try:
        runtime.write_onnx(module, unchecked)
        runner = runtime.onnx_file(unchecked.replace(file), threads)
        versions[name] = Version(module, runner, file, reference=True)
    except Exception as error:
        versions.refuse(name, f"failed: {reason(error)}")
    finally:
        unchecked.unlink(missing_ok=True)
