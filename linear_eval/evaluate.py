"""How good is an encoder? One table: frozen and fine-tuned, with all labels and few, next to what it must beat.

    uv run python -m linear_eval.evaluate --encoder runs/x/encoder.safetensors --data fashion_mnist
    uv run python -m linear_eval.evaluate --encoder resnet50 --pretrained --suite cifar10,stl10 --parts [knn,linear]
    uv run python -m linear_eval.evaluate --encoder runs/x/encoder.safetensors --protocol v2 --parts [knn,retrieval,few_shot]

Nothing here imports torch before the settings are checked: a mistyped one is refused at once.
"""
import json
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from core import cli, training
from linear_eval.constants import changed_constants, check_constants
from linear_eval.settings import CLASSIFIERS, MAPS, MEASURES, PARTS, EvaluateSettings
from linear_eval.suites import named_suites, read_suite

if TYPE_CHECKING:
    from linear_eval.results import Evaluation  # loads numpy

ROOT = Path(__file__).resolve().parent.parent
TOOL = cli.Tool(
    module="linear_eval.evaluate",
    primary=ROOT / "linear_eval" / "evaluate.yaml",
    searched=(ROOT / "vision" / "config",),
    summary="Evaluate an encoder: python -m linear_eval.evaluate --encoder runs/x/encoder.safetensors --data fashion_mnist",
    settings=EvaluateSettings,
)


@dataclass(frozen=True)
class EvaluateResult:
    """What an evaluation leaves.

    evaluations: run folder → its results.json, as a record (linear_eval/results.py); one for each data set of a suite.
    suite: the folder of a suite's own table, suite.md and suite.json.
    """

    evaluations: dict[Path, "Evaluation"]
    suite: Path | None = None


def main() -> int:
    return cli.main(TOOL, partial(training.start, TOOL, check, run))


def run(settings: EvaluateSettings) -> int:
    """Evaluate and print the tables."""
    if (result := evaluate(settings)) is None:
        return 0
    from linear_eval.measures.report import measure_line
    from linear_eval.tables import text_table

    for folder, evaluation in result.evaluations.items():
        print(text_table(evaluation), *map(measure_line, evaluation.measures), sep="\n")
        print(*(f"{name}: {folder / name}" for name in ("results.json", "report.html")), sep="\n")
    if result.suite:
        print(f"\n{(result.suite / 'suite.md').read_text()}\nsuite:  {result.suite / 'suite.md'}")
    return 0


def evaluate(settings: EvaluateSettings) -> EvaluateResult | None:
    """Evaluate an encoder on one data set, or on each of a suite.  None on other processes than the main one.

    All processes extract features and fine-tune; the main one scores them, and writes results.json and the report.
    Raises ValueError where settings or data do not allow it.
    """
    from core import checkpoint, processes
    from linear_eval.inputs import open_inputs
    from linear_eval.scoring import score
    from linear_eval.tables import suite_table

    with processes.session(settings.device) as world:
        opened = [(job, open_inputs(job, world)) for job in jobs(settings)]
        if world.size > 1:  # together; one process computes them when they are asked for
            for _, inputs in opened:
                inputs.collect()
    if world.rank:
        return None
    evaluations = {}
    for job, inputs in opened:
        evaluations[inputs.run.folder] = score(job, inputs, changed_constants(TOOL, cli.plain(job.protocol)))
    if not settings.suite:
        return EvaluateResult(evaluations)
    folder, results = training.folder(settings, "suite"), list(evaluations.values())
    if settings.suite in named_suites():
        from linear_eval.suite_page import suite_page

        table = suite_page(read_suite(settings.suite), settings.data.get("root"), results)
    else:
        table = suite_table(results)
    checkpoint.write(folder / "suite.md", table)
    checkpoint.write(folder / "suite.json", json.dumps([one.to_json() for one in results], indent=1) + "\n")
    return EvaluateResult(evaluations, folder)


def jobs(settings: EvaluateSettings) -> list[EvaluateSettings]:
    """The evaluations that these settings ask for: one, or one a data set of the suite, each in a folder of its own."""
    if not settings.suite:
        return [settings]
    out = training.folder(settings, "suite")
    if settings.suite in named_suites():
        changes = {one.name: one.changes for one in read_suite(settings.suite).present(settings.data.get("root"))}
    else:
        changes = {name: {"data": name} for name in settings.suite.split(",")}
    return [cli.derive(TOOL, settings, ["suite"], changes=own | {"out": out / name}) for name, own in changes.items()]


def check(settings: EvaluateSettings) -> None:
    """Refuse what can be refused before anything is loaded or launched."""
    if settings.encoder is None:
        newest = sorted(Path("runs").glob("*/encoder.safetensors"), key=lambda path: path.stat().st_mtime)
        hint = f"the newest here is {newest[-1]}" if newest else "such as runs/…/encoder.safetensors, or resnet50 --pretrained"
        raise ValueError(f"encoder=…: name the encoder to evaluate; {hint}")
    training.check(settings)
    if unknown := [part for part in settings.parts if part not in (*PARTS, *MEASURES)]:
        raise ValueError(f"parts={unknown[0]}: there are {', '.join((*PARTS, *MEASURES))}")
    if unknown := [name for name in settings.maps if name not in MAPS]:
        raise ValueError(f"maps={unknown[0]}: there are {', '.join(MAPS)}")
    if missing := [part for part in settings.parts if part in MEASURES and part not in settings.protocol]:
        raise ValueError(f"parts={missing[0]}: protocol={settings.protocol['name']} has no constants of it; give protocol=v2")
    if settings.unknown and "open_set" not in settings.parts:
        raise ValueError(f"unknown={settings.unknown} is of open_set, which parts does not name: add it, with protocol=v2")
    if settings.unknown and settings.unknown not in TOOL.choices("data"):
        raise ValueError(f"unknown={settings.unknown}: there is no such data; there are {', '.join(TOOL.choices('data'))}")
    check_protocol(cli.plain(settings.protocol))
    known = [*TOOL.choices("data"), *([settings.suite] if settings.suite in named_suites() else [])]
    if unknown := [name for name in (settings.suite or "").split(",") if name and name not in known]:
        raise ValueError(f"suite={settings.suite}: there is no {unknown[0]}; there are {', '.join(TOOL.choices('data'))}, "
                         f"and the suites {', '.join(named_suites())}")


def check_protocol(protocol: dict) -> None:
    """Raises ValueError for the first constant that is wrong."""
    check_constants(TOOL, "v2", protocol)
    if unknown := [name for name in protocol["baselines"]["classifiers"] if name not in CLASSIFIERS]:
        raise ValueError(f"protocol.baselines.classifiers={unknown[0]}: there are {', '.join(CLASSIFIERS)}")
    if not all(share < 1 for share in protocol["labels"]["shares"]):
        raise ValueError(f"protocol.labels.shares={protocol['labels']['shares']}: must be less than 1")


if __name__ == "__main__":
    sys.exit(main())
