"""An encoder or a classifier as files that run without us, measured: which of them to use, and why.

    uv run python -m deploy.export --encoder runs/x/classifier.safetensors --data fashion_mnist

leaves model.onnx (any batch), model.int8.onnx where it passes its gate, model.pt2 (torch.export), card.md, card.json, card.png.
Every file is written under `.unchecked` and gets its place once it was read again and compared; a version that fails is listed
with its reason, and the others go on.
Nothing here imports torch before the settings are understood: a mistyped one is answered at once.
"""
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import isfinite
from pathlib import Path

from core import cli, training
from core.identity import identity
from deploy.compare import CLOSE, difference, reason
from deploy.settings import INT8, ExportSettings, check_file

ROOT = Path(__file__).resolve().parent.parent
TOOL = cli.Tool(
    module="deploy.export",
    primary=ROOT / "deploy" / "export.yaml",
    searched=(ROOT / "vision" / "config",),
    summary="Export and measure: python -m deploy.export --encoder runs/x/classifier.safetensors --data fashion_mnist",
    settings=ExportSettings,
)
CHECKED = 1_000  # real images at which the files must answer alike in a process of their own


UNCHECKED = ".unchecked"  # folder of files that were not read again yet
FILES = ("model.onnx", "model.int8.onnx", "model.pt2", "model.torchscript.pt")


@dataclass
class Versions:
    """A model in each of the ways that run it. One that fails is not here but under `refused`, with its reason."""

    answers: dict[str, Callable] = field(default_factory=dict)  # images → outputs (deploy/runtime.py)
    files: dict[str, Path] = field(default_factory=dict)  # of those that have one
    off: dict[str, float] = field(default_factory=dict)  # by how much their outputs differ from torch's
    refused: dict[str, str] = field(default_factory=dict)  # name → why

    def add(self, name: str, answer: Callable, file: Path | None = None) -> None:
        self.answers[name] = answer
        if file is not None:
            self.files[name] = file

    def refuse(self, name: str, why: str) -> None:
        self.refused[name] = why
        self.answers.pop(name, None)
        if file := self.files.pop(name, None):
            file.unlink(missing_ok=True)

    def publish(self, folder: Path) -> None:
        """Give the checked files their places; what an earlier start left there and this one refuses leaves."""
        for name, file in self.files.items():
            self.files[name] = file.replace(folder / file.name)
        for name in {*FILES} - {file.name for file in self.files.values()}:
            (folder / name).unlink(missing_ok=True)


def main() -> int:
    return cli.main(TOOL, partial(training.start, TOOL, check, run))


def check(settings: ExportSettings) -> None:
    """Refuse what can be refused before anything is loaded."""
    check_file(settings)
    training.check(settings)
    wrong = {name: "more than 0" for name in ("calibration", "batch", "int8_steps") if not getattr(settings, name) > 0}
    wrong |= {name: "0 or more" for name in ("most_lost", "threads", "gallery") if not getattr(settings, name) >= 0}
    wrong |= {} if settings.int8 in INT8 else {"int8": " or ".join(INT8)}
    wrong |= {} if settings.devices == 1 else {"devices": "1: an export is one process"}
    training.refuse(cli.flat(settings), wrong)


def run(settings: ExportSettings) -> int:
    """From a trained file to a folder of files and what they are worth."""
    import torch

    from core.machine import cores
    from core.run import Run
    from deploy import card, portable, runtime
    from vision.data import build_data, fingerprints

    threads = settings.threads or cores()
    torch.set_num_threads(threads)
    source = cli.expand(settings.encoder)
    module, data = portable.load(source, settings.preprocess), build_data(settings)
    check_classes(settings.data.name, data.classes, module.card.classes)
    images = fingerprints(data)
    run = Run(training.folder(settings, f"export-{settings.data.name}", images), settings, images=images)
    against = None if settings.against is None else portable.load(cli.expand(settings.against), settings.preprocess)
    run.begin()
    unchecked = run.folder / UNCHECKED
    shutil.rmtree(unchecked, ignore_errors=True)
    unchecked.mkdir()
    try:
        versions = written(settings, unchecked, module, threads)
        quantized(settings, unchecked, module, data, threads, versions)
        agreed = alone(module, data, versions)
        versions.publish(run.folder)
        kept = {"alone": agreed, "onnx": {name: runtime.onnx_needs(file) for name, file in onnx_files(versions).items()}}
        kept |= measured(settings, module, against, data, threads, versions, run.folder)
    finally:
        shutil.rmtree(unchecked, ignore_errors=True)
    kept |= described(settings, module, against, data, versions)
    kept["verdict"] = card.verdict(kept["rows"], settings.most_lost)
    if settings.gallery:
        portable.write_gallery(data, run.folder / "gallery", settings.gallery, module.card.spec.image_size)
    card.write(run.folder, kept)
    print(card.text(kept))
    print(f"files: {run.folder}")
    return 0


def check_classes(name: str, found: tuple[str, ...] | None, known: tuple[str, ...] | None) -> None:
    """Refuse data whose classes a classifier was not trained for.  known: the classifier's, None of an encoder."""
    if not found:
        raise ValueError(f"data={name} has no labels, so no accuracy could be measured; give labelled images")
    if known is not None and tuple(known) != tuple(found):
        here, there = ", ".join(found[:3]), ", ".join(known[:3])
        raise ValueError(
            f"data={name} has {len(found)} classes ({here}, …), the encoder's file {len(known)} ({there}, …); they must be the "
            "same, in the same order: give the data that it was trained on"
        )


def written(settings: ExportSettings, out: Path, module, threads: int) -> Versions:
    """In floating point, each file read again; what fails or answers otherwise than torch is refused."""
    from core.errors import RunError
    from core.run import say
    from deploy import runtime

    versions = Versions()
    versions.add("torch", runtime.eager(module))
    if not runtime.distance(versions.answers["torch"], versions.answers["torch"], module) == 0:
        raise RunError(f"encoder={settings.encoder}: its outputs are not finite, so no version of it could be compared")

    def attempt(name: str, make: Callable[[Path], Callable], file: str | None = None) -> None:
        path = out / (file or "unused")
        try:
            answer = make(path)
            by = runtime.distance(answer, versions.answers["torch"], module)
        except Exception as error:  # exporters and compilers fail in many ways; the other versions are as good without it
            versions.refuse(name, f"failed: {reason(error)}")
            return
        versions.add(name, answer, path if file else None)
        if by <= CLOSE:
            versions.off[name] = by
        else:
            differs = f"differs from torch by {by:.1e} of the largest output" if isfinite(by) else "its outputs are not finite"
            versions.refuse(name, f"{differs}; {CLOSE:g} is allowed")

    def onnx(path: Path) -> Callable:
        runtime.write_onnx(module, path)
        return runtime.onnx_file(path, threads)

    say("writing model.onnx and model.pt2")
    attempt("onnxruntime", onnx, "model.onnx")
    attempt("torch.export", lambda path: runtime.write_program(module, path), "model.pt2")
    if settings.torchscript:
        attempt("TorchScript", lambda path: runtime.write_torchscript(module, path), "model.torchscript.pt")
    attempt("torch.compile", lambda path: runtime.compiled(module))
    found = runtime.tensorrt(out / "model.onnx") if "onnxruntime" in versions.answers else "there is no model.onnx"
    if isinstance(found, str):
        versions.refuse("TensorRT", found)
    else:
        attempt("TensorRT", lambda path: found)
    return versions


def quantized(settings: ExportSettings, out: Path, module, data, threads: int, versions: Versions) -> None:
    """INT8, by the first way that passes the gate."""
    import torch

    from core.run import counting, say
    from deploy import portable, quantize, runtime, torchao_int8
    from deploy.timing import interleaved
    from linear_eval.features import evenly

    if settings.int8 == "none" or "onnxruntime" not in versions.answers:
        return
    source, file = versions.files["onnxruntime"], out / "model.int8.onnx"
    one, exact = module.takes(data.validation, torch.arange(1)), versions.answers["onnxruntime"]
    batches = [module.takes(data.train, part) for part in evenly(len(data.train), settings.calibration).split(32)]

    def make(kind: str) -> None:
        say(f"INT8: {kind}")
        if kind == "torchao":
            torchao_int8.write(module, file, batches)
        elif kind == "trained":
            with counting("training in INT8") as progress:
                drawn = module.drawn(data.train, settings.seed)
                torchao_int8.write_trained(module, file, drawn, settings.int8_steps, lambda n: progress(n, settings.int8_steps))
        else:
            quantize.quantize(kind, source, file, batches)

    def score(answer) -> float:
        return portable.accuracy(answer, module, data, data.validation)

    def speeds() -> tuple[float, float]:
        found = interleaved({"INT8": (runtime.onnx_file(file, threads), one), "float": (exact, one)})
        return found["INT8"]["p50"], found["float"]["p50"]

    kinds = quantize.ORDER if settings.int8 == "auto" else [settings.int8]
    outcome = quantize.gated(
        kinds, make, lambda: score(runtime.onnx_file(file, threads)), speeds, score(exact), settings.most_lost,
        settings.smaller,
    )
    versions.refused |= {f"INT8 {kind}": why for kind, why in outcome.reasons.items()}
    if outcome.kind:
        versions.add(f"INT8 {outcome.kind}", runtime.onnx_file(file, threads), file)
    else:
        file.unlink(missing_ok=True)


def measured(settings: ExportSettings, module, against, data, threads: int, versions: Versions, out: Path) -> dict:
    """Accuracy, speed and size of every version, on test images, beside those of the model it is compared with."""
    import torch

    from core.errors import RunError
    from core.run import say
    from deploy import portable, runtime
    from deploy.card import AGAINST
    from deploy.timing import interleaved

    say("measuring")
    asked = {name: (answer, module) for name, answer in versions.answers.items()}
    if against is not None:
        asked[f"{AGAINST}torch"] = runtime.eager(against), against
        try:
            runtime.write_onnx(against, out / UNCHECKED / "against.onnx")
            (out / UNCHECKED / "against.onnx").replace(out / "against.onnx")
            asked[f"{AGAINST}onnxruntime"] = runtime.onnx_file(out / "against.onnx", threads), against
        except Exception as error:
            versions.refuse(f"{AGAINST}onnxruntime", f"failed: {reason(error)}")
    many, accuracies = min(settings.batch, len(data.test)), {}
    for name, (answer, takes) in list(asked.items()):
        try:
            answer(takes.takes(data.test, torch.arange(many)))
            accuracies[name] = portable.accuracy(answer, takes, data, data.test)
        except Exception as error:
            if name == "torch":
                raise RunError(f"encoder={settings.encoder} cannot be measured on test images: {reason(error)}") from error
            versions.refuse(name, f"failed on test images: {reason(error)}")
            del asked[name]
    single, batched = (
        interleaved({name: (answer, takes.takes(data.test, torch.arange(n))) for name, (answer, takes) in asked.items()})
        for n in (1, many)
    )
    rows = {}
    for name, (_, takes) in asked.items():
        file = versions.files.get(name)
        path = file or cli.expand(settings.encoder if takes is module else settings.against)
        path = out / "against.onnx" if name == f"{AGAINST}onnxruntime" else path
        rows[name] = {
            "accuracy": accuracies[name], "p50": single[name]["p50"], "p95": single[name]["p95"],
            "images_per_second": batched[name]["images_per_second"], "megabytes": path.stat().st_size / 1e6,
            "file": file.name if file else None,
        }
    return {"rows": rows, "batch": many, "threads": threads}


def onnx_files(versions: Versions) -> dict[str, Path]:
    return {name: file for name, file in versions.files.items() if file.suffix == ".onnx"}


def alone(module, data, versions: Versions) -> dict:
    """Do the ONNX files answer in a process of their own, without torch, as they do here?  One that does not is refused."""
    import numpy as np

    from deploy import portable, runtime
    from linear_eval.features import evenly

    chosen = evenly(len(data.test), CHECKED)
    exact, kept = portable.outputs(versions.answers["torch"], module, data.test, chosen), {}
    images = module.takes(data.test, chosen)
    for name, file in onnx_files(versions).items():
        try:
            found = runtime.alone([str(file)], images)[str(file)]
            by = difference(found, portable.outputs(versions.answers[name], module, data.test, chosen))
        except Exception as error:
            versions.refuse(name, f"failed in a process of its own: {reason(error)}")
            continue
        if not by <= CLOSE:
            versions.refuse(name, f"answers otherwise in a process of its own, by {by:.1e} of the largest output")
            continue
        kept[name] = {"off": float(np.abs(found - exact).max() / np.abs(exact).max())}
        if module.card.classes is not None:
            kept[name]["same class as torch"] = float((found.argmax(1) == exact.argmax(1)).mean())
    return {"images": len(chosen), "files": kept}


def described(settings: ExportSettings, module, against, data, versions: Versions) -> dict:
    """What was exported, and where it was measured."""
    from core.machine import code, hardware
    from core.machine import versions as packages
    from vision import artifact, cost

    def costs(file: str, portable) -> dict:
        encoder = artifact.encoder_in(portable.model)
        return {"encoder": file, "parameters": cost.parameters(encoder), "macs": cost.macs(encoder)}

    return costs(settings.encoder, module) | {
        "against": against and costs(settings.against, against),
        "answers": module.answers, "judged": "accuracy" if module.card.classes else "kNN accuracy", "data": data.name,
        "refused": versions.refused, "off": versions.off, "input": module.says, "words": identity(settings),
        "hardware": hardware(), "versions": packages(("torch", "onnx", "onnxruntime", "torchao", "timm")), "code": code(),
    }


if __name__ == "__main__":
    sys.exit(main())
