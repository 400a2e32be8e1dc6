"""How good are an encoder's patch features? Segmentation from frozen patches, next to what it must beat.

    uv run python -m linear_eval.dense --encoder runs/x/encoder.safetensors --data scenes
    uv run python -m linear_eval.dense --encoder vit_small_patch16_224 --pretrained --data scenes --parts dense_knn
    uv run python -m linear_eval.dense --encoder runs/x/encoder.safetensors --data digits --parts attentive

Nothing here imports torch before the settings are checked: a mistyped one is refused at once.
"""
import json
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from core import cli, training
from linear_eval.constants import changed_constants
from linear_eval.dense.settings import MASKS, TOOL, DenseSettings, check

if TYPE_CHECKING:
    from linear_eval.dense.inputs import DenseInputs  # they load numpy
    from linear_eval.dense.results import DenseEvaluation
    from linear_eval.results import Evaluation


@dataclass(frozen=True)
class DenseResult:
    """What a dense evaluation leaves.  folder: the run's; evaluation: its results.json, as a record; text: its table"""

    folder: Path
    evaluation: "DenseEvaluation | Evaluation"
    text: str


def main() -> int:
    return cli.main(TOOL, partial(training.start, TOOL, check, run))


def run(settings: DenseSettings) -> int:
    """Evaluate and print the table."""
    if (result := evaluate_dense(settings)) is None:
        return 0
    print(result.text)
    print(*(f"{name}: {result.folder / name}" for name in ("results.json", "report.html")), sep="\n")
    return 0


def evaluate_dense(settings: DenseSettings) -> DenseResult | None:
    """Evaluate an encoder's patch features.  None on other processes than the main one.

    All processes extract features; the main one scores them, and writes results.json and the report.
    Raises ValueError where settings or data do not allow it.
    """
    from core import processes
    from linear_eval.dense.inputs import collect_inputs

    start = time.monotonic()
    with processes.session(settings.device) as world:
        inputs = collect_inputs(settings, world)
    if world.rank:
        return None
    if set(settings.parts) & set(MASKS):
        return _segmentation(settings, inputs, start)
    return _image_labels(settings, inputs, start)


def _segmentation(settings: DenseSettings, inputs: "DenseInputs", start: float) -> DenseResult:
    from linear_eval.dense import report, tables
    from linear_eval.dense.results import DenseEvaluation
    from linear_eval.dense.scoring import score_sources
    from linear_eval.evaluation import encoder_facts
    from linear_eval.provenance import provenance
    from linear_eval.results import DataFacts

    scored = list(score_sources(settings, inputs))
    sizes = {name: len(split) for name, split in inputs.splits.items()}
    evaluation = DenseEvaluation(
        protocol=settings.protocol["name"],
        protocol_changes=changed_constants(TOOL, cli.plain(settings.protocol)),
        encoder=encoder_facts(settings, inputs.encoder),
        data=DataFacts(inputs.dataset.name, list(inputs.data.test.classes), **sizes),
        grid=inputs.grid,
        seed=settings.seed,
        seconds=round(time.monotonic() - start, 1),
        notes=inputs.notes,
        rows=[row for one in scored for row in one.rows],
        **provenance(),
    )
    inputs.run.write("results.json", json.dumps(evaluation.to_json(), indent=1) + "\n")
    report.write(inputs.run.folder, evaluation, report.pictures_of(inputs, scored[0]) if settings.picture else [])
    return DenseResult(inputs.run.folder, evaluation, tables.text_table(evaluation))


def _image_labels(settings: DenseSettings, inputs: "DenseInputs", start: float) -> DenseResult:
    from linear_eval import report, tables
    from linear_eval.dense.image_labels import attentive_rows
    from linear_eval.evaluation import build_evaluation

    rows = list(attentive_rows(settings, inputs))
    evaluation = build_evaluation(
        settings, inputs.encoder, inputs.dataset, rows, protocol=settings.protocol["name"],
        protocol_changes=changed_constants(TOOL, cli.plain(settings.protocol)), notes=inputs.notes,
        seconds=round(time.monotonic() - start, 1),
    )
    inputs.run.write("results.json", json.dumps(evaluation.to_json(), indent=1) + "\n")
    report.write(inputs.run.folder, evaluation, None)
    return DenseResult(inputs.run.folder, evaluation, tables.text_table(evaluation))
