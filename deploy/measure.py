"""Accuracy, speed and size of every version of an exported model, beside those of the model it is compared with."""
from dataclasses import dataclass
from pathlib import Path

import torch

from core import cli
from core.errors import RunError
from deploy import runtime
from deploy.accuracy import accuracy
from deploy.compare import reason
from deploy.export_module import ExportModule
from deploy.export_report import REFERENCE, VersionRow
from deploy.runtime import Runner
from deploy.settings import ExportSettings
from deploy.timing import Case, interleaved
from deploy.versions import Versions
from vision.splits import Dataset


@dataclass(frozen=True)
class Candidate:
    """A version that is measured.  path: the file whose size counts; published: is that file part of the export?"""

    runner: Runner
    module: ExportModule
    path: Path
    published: bool = False
    reference: bool = False


def candidates(settings: ExportSettings, module: ExportModule, versions: Versions) -> dict[str, Candidate]:
    source, files = cli.expand(settings.encoder), versions.files
    return {
        name: Candidate(runner, module, files.get(name, source), name in files) for name, runner in versions.runners.items()
    }


def reference_candidates(
    settings: ExportSettings, module: ExportModule, folder: Path, threads: int, versions: Versions
) -> dict[str, Candidate]:
    """torch and onnxruntime of settings.against.  module: that file's; folder: where its ONNX file is written"""
    found = {f"{REFERENCE}torch": Candidate(runtime.eager(module), module, cli.expand(settings.against), reference=True)}
    file, name = folder / "against.onnx", f"{REFERENCE}onnxruntime"
    try:
        runtime.write_onnx(module, unchecked := folder / f".unchecked.{file.name}")
        runner = runtime.onnx_file(unchecked.replace(file), threads)
        found[name] = Candidate(runner, module, file, reference=True)
    except Exception as error:
        versions.refuse(name, f"failed: {reason(error)}")
    return found


def measure(candidates: dict[str, Candidate], data: Dataset, batch: int, versions: Versions) -> dict[str, VersionRow]:
    """Measure on test images; one that fails there is refused.  batch: images of the larger batch that is timed

    Raises RunError where torch itself fails.
    """
    accuracies = {}
    for name, candidate in candidates.items():
        try:
            candidate.runner(candidate.module.preprocess(data.test, torch.arange(batch)))
            accuracies[name] = accuracy(candidate.runner, candidate.module, data, data.test)
        except Exception as error:
            if name == "torch":
                raise RunError(f"encoder={candidate.path} cannot be measured on test images: {reason(error)}") from error
            versions.refuse(name, f"failed on test images: {reason(error)}")
    candidates = {name: candidates[name] for name in accuracies}
    single, batched = (
        interleaved({name: Case(c.runner, c.module.preprocess(data.test, torch.arange(n))) for name, c in candidates.items()})
        for n in (1, batch)
    )
    return {
        name: VersionRow(
            accuracies[name], single[name].p50, single[name].p95, batched[name].images_per_second,
            candidate.path.stat().st_size / 1e6, candidate.path.name if candidate.published else None, candidate.reference,
        )
        for name, candidate in candidates.items()
    }
