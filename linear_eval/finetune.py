"""Train a classifier: a pretrained encoder fine-tuned, its features alone, or any encoder from scratch.

    uv run python -m linear_eval.finetune --encoder runs/x/encoder.safetensors --data fashion_mnist
    uv run python -m linear_eval.finetune --method head --encoder resnet50 --pretrained --data folder --data.root ~/photos
    uv run python -m linear_eval.finetune --encoder lenet5 --data mnist

Nothing here imports torch before the words are understood: a mistyped one is answered at once.
"""
import json
import sys
import time
from functools import partial
from pathlib import Path

from core import command, config
from linear_eval.words import FinetuneWords

ROOT = Path(__file__).resolve().parent.parent
TOOL = config.Tool(
    module="linear_eval.finetune",
    primary=ROOT / "linear_eval" / "finetune.yaml",
    searched=(ROOT / "vision" / "config",),
    summary="Train a classifier: python -m linear_eval.finetune --encoder runs/x/encoder.safetensors --data fashion_mnist",
    words=FinetuneWords,
)


def main() -> int:
    return config.main(TOOL, partial(command.start, TOOL, check, run))


def check(words) -> None:
    """Refuse what can be refused before anything is loaded or launched."""
    command.check(words)
    flat = config.flat(words)
    at = flat["schedule.at"]
    wrong = {name: "0 or more" for name in ("early_stop", "schedule.patience", "draw", "gradcam") if flat[name] < 0}
    if not 0 < flat["labels"] <= 1:
        wrong["labels"] = "a share of the training labels: more than 0, at most 1"
    if not 0 < flat["schedule.factor"] < 1:
        wrong["schedule.factor"] = "between 0 and 1"
    if not all(0 < share < 1 for share in at) or list(at) != sorted(at):
        wrong["schedule.at"] = "shares of the run, rising, such as [0.6,0.8]"
    for name, known in {"schedule.name": ("cosine", "step", "plateau"), "attention": ("none", "cbam")}.items():
        if flat[name] not in known:
            wrong[name] = " or ".join(known)
    pieces = flat["chunk"] or flat["batch_size"] // flat["devices"] // flat["accumulate"]
    if (flat["method.mixup"] or flat["method.cutmix"]) and pieces % 2:
        wrong["batch_size"] = f"such that pieces are even with mixup or cutmix, which mix pairs: {pieces} images are not"
    if flat["method.trains"] != "all" and flat["chunk"]:
        wrong["chunk"] = f"left out with method.trains={flat['method.trains']}; accumulate is the same here"
    command.refuse(flat, wrong)


def run(words) -> int:
    """One run, from words to report."""
    from core import checkpoint, distributed
    from linear_eval import evidence, report, results
    from linear_eval.fit import fit

    start = time.monotonic()
    with distributed.session(words.device) as world:
        fitted = fit(words, world)
    if fitted is None:
        return 0
    labels = fitted.dataset.test.labels.numpy()[fitted.test]
    row = results.row(fitted.outcome, "encoder", fitted.images, labels, words.labels)
    found = results.document(words, fitted.method.encoder, fitted.dataset, [row], "none: settings as given", {}, [])
    found["seconds"] = round(time.monotonic() - start, 1)
    checkpoint.write(fitted.folder / "results.json", json.dumps(found, indent=1) + "\n")
    report.write(fitted.folder, found, evidence.of_fitted(fitted, words.gradcam))
    print(report.text_table(found))
    for name in ("classifier.safetensors", "encoder.safetensors", "report.html"):
        print(f"{name.split('.')[0] + ':':<12} {fitted.folder / name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
