"""An encoder or a classifier as files that run without us, measured: which of them to use, and why.

    uv run python -m deploy.export --encoder runs/x/classifier.safetensors --data fashion_mnist

leaves model.onnx (any batch), model.int8.onnx where it passes its gate, model.pt2 (torch.export), card.md, card.json, card.png.
Nothing here imports torch before the words are understood: a mistyped one is answered at once.
"""
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from core import command, config
from core.identity import identity
from deploy.words import INT8, ExportWords, check_file

ROOT = Path(__file__).resolve().parent.parent
TOOL = config.Tool(
    module="deploy.export",
    primary=ROOT / "deploy" / "export.yaml",
    searched=(ROOT / "vision" / "config",),
    summary="Export and measure: python -m deploy.export --encoder runs/x/classifier.safetensors --data fashion_mnist",
    words=ExportWords,
)
CHECKED = 1_000  # real images at which the files must answer alike in a process of their own


@dataclass
class Versions:
    """A model in each of the ways that run it."""

    answers: dict[str, Callable] = field(default_factory=dict)  # images → outputs (deploy/runtime.py)
    files: dict[str, Path] = field(default_factory=dict)  # of those that have one
    off: dict[str, float] = field(default_factory=dict)  # by how much their outputs differ from torch's
    refused: dict[str, str] = field(default_factory=dict)  # name → why

    def add(self, name: str, answer: Callable, file: Path | None = None) -> None:
        self.answers[name] = answer
        if file is not None:
            self.files[name] = file


def main() -> int:
    return config.main(TOOL, partial(command.start, TOOL, check, run))


def check(words) -> None:
    """Refuse what can be refused before anything is loaded."""
    check_file(words)
    command.check(words)
    wrong = {name: "more than 0" for name in ("calibration", "batch", "int8_steps") if not words[name] > 0}
    wrong |= {name: "0 or more" for name in ("most_lost", "threads", "gallery") if not words[name] >= 0}
    wrong |= {} if words.int8 in INT8 else {"int8": " or ".join(INT8)}
    wrong |= {} if words.devices == 1 else {"devices": "1: an export is one process"}
    command.refuse(config.flat(words), wrong)


def run(words) -> int:
    """From a trained file to a folder of files and what they are worth."""
    import torch

    from core.machine import cores
    from core.run import Run
    from deploy import card, portable
    from vision.build import build_data, fingerprints

    threads = words.threads or cores()
    torch.set_num_threads(threads)
    source = config.expand(words.encoder)
    module, data = portable.load(source, words.preprocess), build_data(words)
    check_classes(words.chosen.data, data.classes, module.card.classes)
    images = fingerprints(data)
    run = Run(command.folder(words, f"export-{words.chosen.data}", images), config.plain(words), images=images)
    against = None if words.against is None else portable.load(config.expand(words.against), words.preprocess)
    run.begin()
    versions = written(words, run.folder, module, threads)
    quantized(words, run.folder, module, data, threads, versions)
    kept = measured(words, module, against, data, threads, versions, run.folder)
    kept |= described(words, module, against, data, versions)
    kept["verdict"] = card.verdict(kept["rows"], words.most_lost)
    if words.gallery:
        portable.write_gallery(data, run.folder / "gallery", words.gallery)
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


def written(words, out: Path, module, threads: int) -> Versions:
    """In floating point, each file read again; what answers otherwise than torch is refused."""
    from core.run import say
    from deploy import runtime

    versions = Versions()
    versions.add("torch", runtime.eager(module))
    say("writing model.onnx and model.pt2")
    runtime.write_onnx(module, out / "model.onnx")
    versions.add("onnxruntime", runtime.onnx_file(out / "model.onnx", threads), out / "model.onnx")
    versions.add("torch.export", runtime.write_program(module, out / "model.pt2"), out / "model.pt2")
    if words.torchscript:
        file = out / "model.torchscript.pt"
        versions.add("TorchScript", runtime.write_torchscript(module, file), file)
    versions.add("torch.compile", runtime.compiled(module))
    for name, answer in list(versions.answers.items())[1:]:
        by = versions.off[name] = runtime.distance(answer, versions.answers["torch"], module)
        if by > runtime.CLOSE:
            versions.refused[name] = f"differs from torch by {by:.1e} of the largest output; {runtime.CLOSE:g} is allowed"
            del versions.answers[name]
    found = runtime.tensorrt(out / "model.onnx")
    if isinstance(found, str):
        versions.refused["TensorRT"] = found
    else:
        versions.add("TensorRT", found)
    return versions


def quantized(words, out: Path, module, data, threads: int, versions: Versions) -> None:
    """INT8, by the first way that passes the gate."""
    import torch

    from core.run import counting, say
    from deploy import portable, quantize, runtime, torchao_int8
    from deploy.timing import interleaved
    from linear_eval.features import evenly

    if words.int8 == "none" or "onnxruntime" not in versions.answers:
        return
    source, file = versions.files["onnxruntime"], out / "model.int8.onnx"
    one, exact = module.takes(data.validation, torch.arange(1)), versions.answers["onnxruntime"]
    batches = [module.takes(data.train, part) for part in evenly(len(data.train), words.calibration).split(32)]

    def make(kind: str) -> None:
        say(f"INT8: {kind}")
        if kind == "torchao":
            torchao_int8.write(module, file, batches)
        elif kind == "trained":
            with counting("training in INT8") as progress:
                drawn = module.drawn(data.train, words.seed)
                torchao_int8.write_trained(module, file, drawn, words.int8_steps, lambda n: progress(n, words.int8_steps))
        else:
            quantize.quantize(kind, source, file, batches)

    def score(answer) -> float:
        return portable.accuracy(answer, module, data, data.validation)

    def speeds() -> tuple[float, float]:
        found = interleaved({"INT8": (runtime.onnx_file(file, threads), one), "float": (exact, one)})
        return found["INT8"]["p50"], found["float"]["p50"]

    kinds = quantize.ORDER if words.int8 == "auto" else [words.int8]
    outcome = quantize.gated(
        kinds, make, lambda: score(runtime.onnx_file(file, threads)), speeds, score(exact), words.most_lost, words.smaller,
    )
    versions.refused |= {f"INT8 {kind}": why for kind, why in outcome.reasons.items()}
    if outcome.kind:
        versions.add(f"INT8 {outcome.kind}", runtime.onnx_file(file, threads), file)
    else:
        file.unlink(missing_ok=True)


def measured(words, module, against, data, threads: int, versions: Versions, out: Path) -> dict:
    """Accuracy, speed and size of every version, on test images, beside those of the model it is compared with."""
    import torch

    from core.run import say
    from deploy import portable, runtime
    from deploy.card import AGAINST
    from deploy.timing import interleaved

    say("measuring")
    asked = {name: (answer, module) for name, answer in versions.answers.items()}
    if against is not None:
        runtime.write_onnx(against, out / "against.onnx")
        asked[f"{AGAINST}torch"] = runtime.eager(against), against
        asked[f"{AGAINST}onnxruntime"] = runtime.onnx_file(out / "against.onnx", threads), against
    many = min(words.batch, len(data.test))
    single, batched = (
        interleaved({name: (answer, takes.takes(data.test, torch.arange(n))) for name, (answer, takes) in asked.items()})
        for n in (1, many)
    )
    rows = {}
    for name, (answer, takes) in asked.items():
        file = versions.files.get(name)
        path = file or config.expand(words.encoder if takes is module else words.against)
        path = out / "against.onnx" if name == f"{AGAINST}onnxruntime" else path
        rows[name] = {
            "accuracy": portable.accuracy(answer, takes, data, data.test),
            "p50": single[name]["p50"], "p95": single[name]["p95"],
            "images_per_second": batched[name]["images_per_second"], "megabytes": path.stat().st_size / 1e6,
            "file": file.name if file else None,
        }
    return {"rows": rows, "batch": many, "threads": threads, "alone": alone(module, data, versions)}


def alone(module, data, versions: Versions) -> dict:
    """Do the ONNX files answer in a process of their own, without torch, as they do here?  Raises RunError if not."""
    import numpy as np

    from core.errors import RunError
    from deploy import portable, runtime
    from linear_eval.features import evenly

    files = {name: str(file) for name, file in versions.files.items() if file.suffix == ".onnx"}
    chosen = evenly(len(data.test), CHECKED)
    found = runtime.alone(list(files.values()), module.takes(data.test, chosen))
    exact, kept = portable.outputs(versions.answers["torch"], module, data.test, chosen), {}
    for name, file in files.items():
        here = portable.outputs(versions.answers[name], module, data.test, chosen)
        if not np.allclose(found[file], here, atol=runtime.CLOSE * np.abs(here).max()):
            raise RunError(f"{file} answers otherwise in a process of its own")
        kept[name] = {"off": float(np.abs(found[file] - exact).max() / np.abs(exact).max())}
        if module.card.classes is not None:
            kept[name]["same class as torch"] = float((found[file].argmax(1) == exact.argmax(1)).mean())
    return {"images": len(chosen), "files": kept}


def described(words, module, against, data, versions: Versions) -> dict:
    """What was exported, and where it was measured."""
    from core.machine import code, hardware
    from core.machine import versions as packages
    from vision import artifact, cost

    def costs(file: str, portable) -> dict:
        encoder = artifact.encoder_in(portable.model)
        return {"encoder": file, "parameters": cost.parameters(encoder), "macs": cost.macs(encoder)}

    return costs(words.encoder, module) | {
        "against": against and costs(words.against, against),
        "answers": module.answers, "judged": "accuracy" if module.card.classes else "kNN accuracy", "data": data.name,
        "refused": versions.refused, "off": versions.off, "input": module.says, "words": identity(words),
        "hardware": hardware(), "versions": packages(("torch", "onnx", "onnxruntime", "torchao", "timm")), "code": code(),
    }


if __name__ == "__main__":
    sys.exit(main())
