"""Train a classifier: a pretrained encoder fine-tuned, its features alone, or any encoder from scratch.

    uv run python -m linear_eval.finetune --encoder runs/x/encoder.safetensors --data fashion_mnist
    uv run python -m linear_eval.finetune --method head --encoder resnet50 --pretrained --data folder --data.root ~/photos
    uv run python -m linear_eval.finetune --encoder lenet5 --data mnist

Nothing here imports torch before the settings are checked: a mistyped one is refused at once.
"""
import json
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from core import cli, training
from linear_eval.settings import FINETUNE as TOOL
from linear_eval.settings import FinetuneSettings
from linear_eval.settings import check_finetune as check

if TYPE_CHECKING:
    from collections.abc import Sequence

    from linear_eval.results import Evaluation, Row  # they load numpy

FILES = ("classifier.safetensors", "encoder.safetensors", "report.html")


@dataclass(frozen=True)
class FinetuneResult:
    """What fine-tuning leaves.  folder: the run's, with FILES; evaluation: its results.json, as a record with one row"""

    folder: Path
    evaluation: "Evaluation"


def main() -> int:
    return cli.main(TOOL, partial(training.start, TOOL, check, run))


def run(settings: FinetuneSettings) -> int:
    """Fine-tune and print the table."""
    if (result := finetune(settings)) is None:
        return 0
    from linear_eval.tables import text_table

    print(text_table(result.evaluation))
    for note in result.evaluation.notes:
        print(note)
    for name in FILES:
        print(f"{name.split('.')[0] + ':':<12} {result.folder / name}")
    return 0


def finetune(settings: FinetuneSettings) -> FinetuneResult | None:
    """Train a classifier and score it on the test split.  None on other processes than the main one.

    Raises ValueError where settings or data do not allow it.
    """
    from core import checkpoint, processes
    from linear_eval import report
    from linear_eval.evaluation import build_evaluation
    from linear_eval.fit import fit
    from linear_eval.multilabel.results import multilabel_row
    from linear_eval.report_data import classifier_report_data
    from linear_eval.results import ENCODER
    from linear_eval.rows import result_row

    start = time.monotonic()
    with processes.session(settings.device) as world:
        fitted = fit(settings, world)
    if fitted is None:
        return None
    labels = fitted.dataset.test.labels.numpy()[fitted.test]
    make = multilabel_row if fitted.dataset.multilabel else result_row
    results = [fitted.result, *([fitted.frozen] if fitted.frozen else [])]
    rows = [make(result, ENCODER, fitted.images, labels, settings.labels) for result in results]
    seconds = round(time.monotonic() - start, 1)
    evaluation = build_evaluation(
        settings, fitted.method.encoder, fitted.dataset, rows, seconds=seconds, notes=against_frozen(rows)
    )
    checkpoint.write(fitted.folder / "results.json", json.dumps(evaluation.to_json(), indent=1) + "\n")
    report.write(fitted.folder, evaluation, classifier_report_data(fitted, settings.gradcam))
    return FinetuneResult(fitted.folder, evaluation)


def against_frozen(rows: "Sequence[Row]") -> list[str]:
    """A sentence on whether fine-tuning paid, where the frozen features' probe is the second row."""
    if len(rows) < 2:
        return []
    tuned, frozen = (row.score for row in rows[:2])
    figures = f"{tuned:.1f} % against {frozen:.1f} % of the logistic regression on frozen features"
    if tuned >= frozen:
        return [f"Fine-tuning beats the frozen features on test images: {figures}."]
    return [
        f"Fine-tuning lost on test images: {figures}. Keep the encoder frozen (--method head), or try a lower optim.lr, "
        "--method layerwise, or more labels."
    ]


if __name__ == "__main__":
    sys.exit(main())
