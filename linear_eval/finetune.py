"""Train a classifier: a pretrained encoder fine-tuned, its features alone, or any encoder from scratch.

    uv run python -m linear_eval.finetune --encoder runs/x/encoder.safetensors --data fashion_mnist
    uv run python -m linear_eval.finetune --method head --encoder resnet50 --pretrained --data folder --data.root ~/photos
    uv run python -m linear_eval.finetune --encoder lenet5 --data mnist

Nothing here imports torch before the settings are understood: a mistyped one is answered at once.
"""
import json
import sys
import time
from functools import partial

from core import cli, training
from linear_eval.settings import FINETUNE as TOOL
from linear_eval.settings import FinetuneSettings
from linear_eval.settings import check_finetune as check


def main() -> int:
    return cli.main(TOOL, partial(training.start, TOOL, check, run))


def run(settings: FinetuneSettings) -> int:
    """One run, from settings to report."""
    from core import checkpoint, distributed
    from linear_eval import evidence, report, results
    from linear_eval.fit import fit

    start = time.monotonic()
    with distributed.session(settings.device) as world:
        fitted = fit(settings, world)
    if fitted is None:
        return 0
    labels = fitted.dataset.test.labels.numpy()[fitted.test]
    row = results.row(fitted.outcome, "encoder", fitted.images, labels, settings.labels)
    found = results.document(settings, fitted.method.encoder, fitted.dataset, [row], "none: settings as given", {}, [])
    found["seconds"] = round(time.monotonic() - start, 1)
    checkpoint.write(fitted.folder / "results.json", json.dumps(found, indent=1) + "\n")
    report.write(fitted.folder, found, evidence.of_fitted(fitted, settings.gradcam))
    print(report.text_table(found))
    for name in ("classifier.safetensors", "encoder.safetensors", "report.html"):
        print(f"{name.split('.')[0] + ':':<12} {fitted.folder / name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
