"""What is an encoder worth? One table: frozen and fine-tuned, with all labels and few, beside what it must beat.

    uv run python -m linear_eval.evaluate --encoder runs/x/encoder.safetensors --data fashion_mnist
    uv run python -m linear_eval.evaluate --encoder resnet50 --pretrained --suite cifar10,stl10 --parts [knn,linear]

Nothing here imports torch before the settings are understood: a mistyped one is answered at once.
"""
import json
import sys
import time
from functools import partial
from pathlib import Path

from core import cli, training
from linear_eval.settings import CLASSIFIERS, PARTS, EvaluateSettings

ROOT = Path(__file__).resolve().parent.parent
TOOL = cli.Tool(
    module="linear_eval.evaluate",
    primary=ROOT / "linear_eval" / "evaluate.yaml",
    searched=(ROOT / "vision" / "config",),
    summary="Evaluate an encoder: python -m linear_eval.evaluate --encoder runs/x/encoder.safetensors --data fashion_mnist",
    settings=EvaluateSettings,
)


def main() -> int:
    return cli.main(TOOL, partial(training.start, TOOL, check, run))


def check(settings: EvaluateSettings) -> None:
    """Refuse what can be refused before anything is loaded or launched."""
    if settings.encoder is None:
        newest = sorted(Path("runs").glob("*/encoder.safetensors"), key=lambda path: path.stat().st_mtime)
        hint = f"the newest here is {newest[-1]}" if newest else "such as runs/…/encoder.safetensors, or resnet50 --pretrained"
        raise ValueError(f"encoder=…: say which encoder to evaluate; {hint}")
    training.check(settings)
    wrong = {}
    if unknown := [part for part in settings.parts if part not in PARTS]:
        raise ValueError(f"parts={unknown[0]}: there are {', '.join(PARTS)}")
    if settings.attention not in ("none", "cbam"):
        wrong["attention"] = "none or cbam"
    training.refuse(cli.flat(settings), wrong)
    check_protocol(cli.plain(settings.protocol))
    if unknown := [name for name in (settings.suite or "").split(",") if name and name not in TOOL.choices("data")]:
        raise ValueError(f"suite={settings.suite}: there is no {unknown[0]}; there are {', '.join(TOOL.choices('data'))}")


def check_protocol(protocol: dict) -> None:
    """A protocol's numbers have no types of their own: those of v1.yaml show of which kind and sign they are."""
    example = cli.flat(TOOL.example("protocol", "v1"))
    for name, value in cli.flat(protocol).items():
        shown = example[name]
        values = value if isinstance(value, list) else [value]
        kind = type(shown[0] if isinstance(shown, list) else shown)
        alike = all(type(v) is kind or (kind is float and type(v) is int) for v in values)
        if isinstance(value, list) != isinstance(shown, list) or not values or not alike:
            raise ValueError(f"protocol.{name}={value}: must be like {str(shown).replace(' ', '')}")
        if kind is not str and not all(v > 0 for v in values):
            raise ValueError(f"protocol.{name}={value}: must be more than 0")
    if unknown := [name for name in protocol["baselines"]["classifiers"] if name not in CLASSIFIERS]:
        raise ValueError(f"protocol.baselines.classifiers={unknown[0]}: there are {', '.join(CLASSIFIERS)}")
    if not all(share < 1 for share in protocol["labels"]["shares"]):
        raise ValueError(f"protocol.labels.shares={protocol['labels']['shares']}: must be less than 1")


def changes(protocol: dict) -> dict:
    """What differs from the frozen numbers of the protocol's name."""
    frozen = cli.flat(TOOL.example("protocol", protocol["name"]))
    return {name: value for name, value in cli.flat(protocol).items() if frozen.get(name) != value}


def jobs(settings: EvaluateSettings) -> list:
    """The evaluations that these settings ask for: one, or one a data set of the suite, each in a folder of its own."""
    if not settings.suite:
        return [settings]
    out = training.folder(settings, "suite")
    names = settings.suite.split(",")
    return [cli.derive(TOOL, settings, ["suite"], changes={"data": name, "out": out / name}) for name in names]


def run(settings: EvaluateSettings) -> int:
    """From settings to report. All processes extract features and fine-tune; the main one does the rest alone."""
    from core import checkpoint, distributed
    from linear_eval import report
    from linear_eval.gather import gather
    from linear_eval.judge import judge

    everything = []
    with distributed.session(settings.device) as world:
        start = time.monotonic()
        for job in jobs(settings):
            everything.append((job, gather(job, world), time.monotonic() - start))
            start = time.monotonic()
    if world.rank:
        return 0
    results = []
    for job, material, seconds in everything:
        results.append(judge(job, material, changes(cli.plain(job.protocol)), seconds))
        print(report.text_table(results[-1]))
        print(*(f"{name}: {material.run.folder / name}" for name in ("results.json", "report.html")), sep="\n")
    if settings.suite:
        folder = training.folder(settings, "suite")
        table = report.suite_table(results)
        checkpoint.write(folder / "suite.md", table)
        checkpoint.write(folder / "suite.json", json.dumps(results, indent=1) + "\n")
        print(f"\n{table}\nsuite:  {folder / 'suite.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
