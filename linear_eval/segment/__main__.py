"""Train a segmenter: a pretrained encoder with a decoder, fine-tuned on masks, or the decoder alone.

    uv run python -m linear_eval.segment --encoder runs/x/encoder.safetensors --data scenes
    uv run python -m linear_eval.segment --method unet --encoder resnet18 --data segmentation_folder --data.root ~/scans

Nothing here imports torch before the settings are checked: a mistyped one is refused at once.
"""
import json
import sys
import time
from functools import partial
from typing import TYPE_CHECKING

from core import cli, training
from linear_eval.segment.settings import TOOL, SegmentSettings, check

if TYPE_CHECKING:
    from linear_eval.segment.results import SegmentationResult

FILES = ("encoder.safetensors", "decoder.safetensors", "results.json", "report.html")


def main() -> int:
    return cli.main(TOOL, partial(training.start, TOOL, check, run))


def run(settings: SegmentSettings) -> int:
    """Train and print the table."""
    segment(settings)
    return 0


def segment(settings: SegmentSettings) -> "SegmentationResult | None":
    """Train a segmenter and score it on the test split.  None on other processes than the main one.

    Raises ValueError where settings or data do not allow it.
    """
    from core import checkpoint, processes
    from linear_eval.dense.constant import COMMON
    from linear_eval.dense.metrics import class_rows, figures, global_miou
    from linear_eval.evaluation import encoder_facts
    from linear_eval.provenance import provenance
    from linear_eval.results import ENCODER
    from linear_eval.segment import report
    from linear_eval.segment.fit import fit
    from linear_eval.segment.results import SegmentationResult, SegmentationRow

    start = time.monotonic()
    with processes.session(settings.device) as world:
        fitted = fit(settings, world)
    if fitted is None:
        return None
    data, encoder = fitted.data, fitted.method.encoder
    both = ((ENCODER, settings.method.name, fitted.counts), (COMMON, "–", fitted.trivial))
    rows = [SegmentationRow(source, method, figures(counts, settings.seed)) for source, method, counts in both]
    ignored, notes = fitted.counts.all_ignored, list[str]()
    if global_miou(fitted.counts) <= global_miou(fitted.trivial):
        notes.append("the most common class everywhere has no lower mIoU than the segmenter: train longer (epochs, steps), or "
                     "see if validation_miou in metrics.jsonl still rises")
    if len(ignored):
        notes.append(f"{len(ignored)} test images have no labelled pixel, or cannot be read, and count nowhere (first: "
                     f"{data.test.images.name(int(ignored[0]))})")
    result = SegmentationResult(
        encoder=encoder_facts(settings, encoder),
        data=settings.data.name, train=len(data.train), validation_images=len(data.validation), test=len(data.test), rows=rows,
        classes=class_rows(fitted.counts, data.test.classes), validation=fitted.validation, chosen_at=fitted.chosen_at,
        steps=fitted.steps, seed=settings.seed, seconds=round(time.monotonic() - start, 1),
        notes=notes, **provenance(),
    )
    checkpoint.write(fitted.folder / "results.json", json.dumps(result.to_json(), indent=1) + "\n")
    report.write(fitted.folder, result, fitted.seen, data.test)
    print(report.text_table(result))
    for note in result.notes:
        print(f"note: {note}")
    for name in FILES:
        print(f"{name.split('.')[0] + ':':<9} {fitted.folder / name}")
    return result


if __name__ == "__main__":
    sys.exit(main())
