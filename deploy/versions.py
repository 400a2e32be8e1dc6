"""The versions of one exported model: each is written, read again and compared with torch; one that fails is refused."""
from collections.abc import Callable
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path

import numpy as np

from core.errors import RunError
from core.run import say
from deploy import runtime
from deploy.accuracy import run_split
from deploy.compare import TOLERANCE, difference, reason
from deploy.export_module import ExportModule
from deploy.export_report import FileCheck, StandaloneCheck
from deploy.runtime import Runner, Unavailable
from deploy.settings import ExportSettings
from linear_eval.features import evenly
from vision.splits import Dataset

FILES = ("model.onnx", "model.int8.onnx", "model.pt2", "model.torchscript.pt")
CHECKED = 1_000  # test images on which the ONNX files must give the same outputs in a process without torch


@dataclass
class Versions:
    """Versions by name. One that fails is in `refused` alone."""

    runners: dict[str, Runner] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)  # of those that have one
    deviations: dict[str, float] = field(default_factory=dict)  # the largest difference from torch's outputs
    refused: dict[str, str] = field(default_factory=dict)  # name → why

    def add(self, name: str, runner: Runner, file: Path | None = None) -> None:
        self.runners[name] = runner
        if file is not None:
            self.files[name] = file

    def attempt(self, name: str, module: ExportModule, make: Callable[[], Runner], file: Path | None = None) -> None:
        """Add a version whose outputs equal torch's; otherwise refuse it, with the reason."""
        try:
            runner = make()
            by = runtime.distance(runner, self.runners["torch"], module)
        except Unavailable as error:
            self.refused[name] = str(error)
        except Exception as error:  # exporters and compilers fail in many ways; the other versions do not depend on them
            self.refused[name] = f"failed: {reason(error)}"
        else:
            if by <= TOLERANCE:
                self.add(name, runner, file)
                self.deviations[name] = by
                return
            why = f"differs from torch by {by:.1e} of the largest output" if isfinite(by) else "its outputs are not finite"
            self.refused[name] = f"{why}; {TOLERANCE:g} is allowed"

    def refuse(self, name: str, why: str) -> None:
        self.refused[name] = why
        self.runners.pop(name, None)
        if file := self.files.pop(name, None):
            file.unlink(missing_ok=True)

    @property
    def onnx_files(self) -> dict[str, Path]:
        return {name: file for name, file in self.files.items() if file.suffix == ".onnx"}

    def publish(self, folder: Path) -> None:
        """Move the checked files into the folder, and remove files of an earlier run that this one refused."""
        for name, file in self.files.items():
            self.files[name] = file.replace(folder / file.name)
        for name in {*FILES} - {file.name for file in self.files.values()}:
            (folder / name).unlink(missing_ok=True)


def write_versions(settings: ExportSettings, folder: Path, module: ExportModule, threads: int) -> Versions:
    """Every version in floating point.  Raises RunError where the model's own outputs are not finite."""
    versions = Versions({"torch": runtime.eager(module)})
    if runtime.distance(versions.runners["torch"], versions.runners["torch"], module) != 0:
        raise RunError(f"encoder={settings.encoder}: its outputs are not finite, so no version of it could be compared")
    onnx, program, script = (folder / name for name in ("model.onnx", "model.pt2", "model.torchscript.pt"))

    def write_onnx() -> Runner:
        runtime.write_onnx(module, onnx)
        return runtime.onnx_file(onnx, threads)

    say("writing model.onnx and model.pt2")
    versions.attempt("onnxruntime", module, write_onnx, onnx)
    versions.attempt("torch.export", module, lambda: runtime.write_program(module, program), program)
    if settings.torchscript:
        versions.attempt("TorchScript", module, lambda: runtime.write_torchscript(module, script), script)
    versions.attempt("torch.compile", module, lambda: runtime.compiled(module))
    if "onnxruntime" in versions.runners:
        versions.attempt("TensorRT", module, lambda: runtime.tensorrt(onnx))
    else:
        versions.refused["TensorRT"] = "there is no model.onnx"
    return versions


def check_without_torch(module: ExportModule, data: Dataset, versions: Versions) -> StandaloneCheck:
    """Run the ONNX files in a process without torch, and refuse those with other outputs than in this one."""
    indices, checks = evenly(len(data.test), CHECKED), {}
    exact = run_split(versions.runners["torch"], module, data.test, indices)
    images = module.preprocess(data.test, indices)
    for name, file in versions.onnx_files.items():
        try:
            outputs = runtime.run_without_torch([str(file)], images)[str(file)]
            by = difference(outputs, run_split(versions.runners[name], module, data.test, indices))
        except Exception as error:
            versions.refuse(name, f"failed in a process of its own: {reason(error)}")
            continue
        if not by <= TOLERANCE:
            versions.refuse(name, f"its outputs differ in a process of its own, by {by:.1e} of the largest output")
            continue
        same = float((outputs.argmax(1) == exact.argmax(1)).mean()) if module.header.classes is not None else None
        checks[name] = FileCheck(float(np.abs(outputs - exact).max() / np.abs(exact).max()), same)
    return StandaloneCheck(len(indices), checks)
