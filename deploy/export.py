"""An encoder or a classifier as files that run without us, measured: which of them to use, and why.

    uv run python -m deploy.export --encoder runs/x/classifier.safetensors --data fashion_mnist

leaves model.onnx (any batch), model.int8.onnx where it passes its gate, model.pt2 (torch.export), card.md, card.json, card.png.
Nothing here imports torch before the words are understood: a mistyped one is answered at once.
"""
import json
import sys
from functools import partial
from pathlib import Path

from core import command, config
from deploy.words import INT8, ExportWords, check_file

ROOT = Path(__file__).resolve().parent.parent
TOOL = config.Tool(
    module="deploy.export",
    primary=ROOT / "deploy" / "export.yaml",
    searched=(ROOT / "vision" / "config",),
    summary="Export and measure: python -m deploy.export --encoder runs/x/classifier.safetensors --data fashion_mnist",
    words=ExportWords,
)
FILES = ("model.onnx", "model.int8.onnx", "model.pt2", "model.torchscript.pt", "card.json", "card.md", "card.png")


def main() -> int:
    return config.main(TOOL, partial(command.start, TOOL, check, run))


def check(words) -> None:
    """Refuse what can be refused before anything is loaded."""
    check_file(words)
    command.check(words)
    wrong = {name: "more than 0" for name in ("calibration", "batch") if not words[name] > 0}
    wrong |= {name: "0 or more" for name in ("most_lost", "threads") if not words[name] >= 0}
    wrong |= {} if words.int8 in INT8 else {"int8": " or ".join(INT8)}
    wrong |= {} if words.devices == 1 else {"devices": "1: an export is one process"}
    command.refuse(config.flat(words), wrong)


def place(words) -> Path:
    """The folder.  Raises ValueError where it holds files of another export, or of something else."""
    out = command.folder(words, f"export-{words.chosen.data}")
    card, there = out / "card.json", [name for name in FILES if (out / name).exists()]
    if there and not card.exists() and there != ["model.onnx"]:
        raise ValueError(f"out={out} holds {there[0]} already; give another out")
    if card.exists() and (changes := config.difference(json.loads(card.read_text())["words"], config.identity(words))):
        raise ValueError(f"out={out} holds another export ({'; '.join(changes)}); give another out")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"out={out} cannot be written: {error.strerror}") from error
    return out


def run(words) -> int:
    import torch

    from core.machine import code, cores, hardware, versions
    from core.run import say
    from deploy import card, portable, quantize, runtime
    from deploy.latency import interleaved
    from linear_eval.features import evenly
    from vision import cost
    from vision.build import build_data

    out, threads = place(words), words.threads or cores()
    torch.set_num_threads(threads)
    module, data = portable.load(config.expand(words.encoder), words.preprocess), build_data(words)
    judge = data.classes and (module.card.classes is None or len(module.card.classes) == len(data.classes))
    if not judge:
        raise ValueError(f"data={words.chosen.data}: its classes are not the file's, so nothing could be judged")
    answers, refused = {"torch": runtime.eager(module)}, {}
    say("writing model.onnx")
    runtime.write_onnx(module, out / "model.onnx")
    answers["onnxruntime"] = runtime.onnx(out / "model.onnx", threads)
    answers["torch.export"] = runtime.write_program(module, out / "model.pt2")
    if words.torchscript:
        answers["TorchScript"] = runtime.write_torchscript(module, out / "model.torchscript.pt")
    answers["torch.compile"] = runtime.compiled(module)
    off = {name: runtime.distance(a, answers["torch"], module) for name, a in answers.items() if name != "torch"}
    for name, by in off.items():
        if by > runtime.CLOSE:
            refused[name] = f"differs from torch by {by:.1e} of the largest output; {runtime.CLOSE:g} is allowed"
            del answers[name]
    found = runtime.tensorrt(out / "model.onnx")
    if isinstance(found, str):
        refused["TensorRT"] = found
    else:
        answers["TensorRT"] = found

    if words.int8 != "none" and "onnxruntime" in answers:
        file, one = out / "model.int8.onnx", module.takes(data.validation, torch.arange(1))
        indices = evenly(len(data.train), words.calibration)
        batches = [module.takes(data.train, part) for part in indices.split(32)]

        def speed(path: Path) -> float:
            return interleaved({"it": runtime.onnx(path, threads)}, one)["it"]["p50"]

        def make(kind: str) -> None:
            say(f"INT8: {kind}")
            quantize.quantize(kind, out / "model.onnx", file, batches)

        kinds = quantize.ORDER if words.int8 == "auto" else [words.int8]
        outcome = quantize.gated(
            kinds, make, lambda: portable.accuracy(runtime.onnx(file, threads), module, data, data.validation),
            lambda: speed(file), portable.accuracy(answers["onnxruntime"], module, data, data.validation),
            speed(out / "model.onnx"), words.most_lost, words.smaller,
        )
        refused |= {f"INT8 {kind}": why for kind, why in outcome.reasons.items()}
        if outcome.kind:
            answers[f"INT8 {outcome.kind}"] = runtime.onnx(file, threads)
        else:
            file.unlink(missing_ok=True)

    say("measuring")
    one, many = (module.takes(data.test, torch.arange(n)) for n in (1, min(words.batch, len(data.test))))
    single, batched = interleaved(answers, one), interleaved(answers, many)
    sizes = {"onnxruntime": "model.onnx", "torch.export": "model.pt2", "TorchScript": "model.torchscript.pt"}
    rows = {}
    for name, answer in answers.items():
        file = out / ("model.int8.onnx" if name.startswith("INT8") else sizes.get(name, ""))
        path = file if file.is_file() else config.expand(words.encoder)
        rows[name] = {
            "accuracy": portable.accuracy(answer, module, data, data.test),
            "p50": single[name]["p50"], "p95": single[name]["p95"],
            "images_per_second": batched[name]["images_per_second"], "megabytes": path.stat().st_size / 1e6,
            "file": file.name if file.is_file() else None,
        }
    kept = {
        "encoder": words.encoder, "answers": module.answers, "judged": "accuracy" if module.card.classes else "kNN accuracy",
        "data": data.name, "rows": rows, "refused": refused, "off": off, "parameters": cost.parameters(_bare(module)),
        "macs": cost.macs(_bare(module)), "batch": len(many), "threads": threads, "classes": module.card.classes,
        "input": {"preprocess": words.preprocess, "size": module.card.spec.image_size, "channels": module.card.spec.channels,
                  "mean": module.card.mean, "std": module.card.std},
        "verdict": card.verdict(rows, words.most_lost), "words": config.identity(words), "hardware": hardware(),
        "versions": versions(("torch", "onnx", "onnxruntime", "timm")), "code": code(),
    }
    card.write(out, kept)
    print(card.text(kept))
    print(f"files: {out}")
    return 0


def _bare(module):
    """The encoder alone, whose costs are counted."""
    return module.model.encoder if module.card.classes else module.model


if __name__ == "__main__":
    sys.exit(main())
