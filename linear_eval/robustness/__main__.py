"""How well do an encoder's features stand corruption? 15 + 4 corruptions at five severities, and another data set.

    uv run python -m linear_eval.robustness --encoder runs/x/encoder.safetensors --data fashion_mnist

Nothing here imports torch before the settings are checked: a mistyped one is refused at once.
"""
import sys
from functools import partial

from core import cli, training
from linear_eval.robustness.settings import TOOL, RobustnessSettings


def main() -> int:
    return cli.main(TOOL, partial(training.start, TOOL, check, run))


def check(settings: RobustnessSettings) -> None:
    """Refuse what can be refused before anything is loaded."""
    if settings.encoder is None:
        raise ValueError("encoder=…: name the encoder to test, such as runs/…/encoder.safetensors, or resnet50 --pretrained")
    training.check(settings)
    if settings.devices > 1:
        raise ValueError(f"devices={settings.devices}: linear_eval.robustness runs in one process; leave it out")
    check_protocol(cli.flat(settings.protocol))


def check_protocol(protocol: dict) -> None:
    """The protocol's numbers have no types of their own: those of r1.yaml show of which kind they are."""
    for name, example in cli.flat(TOOL.example("protocol", "r1")).items():
        value = protocol[name]
        values = value if isinstance(value, list) else [value]
        kind = type(example[0] if isinstance(example, list) else example)
        alike = all(type(v) is kind or (kind is float and type(v) is int) for v in values) and values
        if isinstance(value, list) != isinstance(example, list) or not alike or (kind is not str and min(values) <= 0):
            shape = f"numbers like {str(example).replace(' ', '')}" if kind is not str else "text"
            raise ValueError(f"protocol.{name}={value}: must be {shape}, more than 0")


def run(settings: RobustnessSettings) -> int:
    from linear_eval.robustness.evaluation import evaluate_robustness
    from linear_eval.robustness.report import text_table

    result = evaluate_robustness(settings)
    print(text_table(result.robustness))
    print(*(f"{name}: {result.folder / name}" for name in ("results.json", "report.html")), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
