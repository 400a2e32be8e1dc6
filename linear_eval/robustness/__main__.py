"""How well do an encoder's features stand corruption? 15 + 4 corruptions at five severities, and another data set.

    uv run python -m linear_eval.robustness --encoder runs/x/encoder.safetensors --data fashion_mnist

Nothing here imports torch before the settings are checked: a mistyped one is refused at once.
"""
import sys
from functools import partial

from core import cli, training
from linear_eval.constants import check_constants
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
    check_constants(TOOL, "r1", cli.plain(settings.protocol))


def run(settings: RobustnessSettings) -> int:
    from linear_eval.robustness.evaluation import evaluate_robustness
    from linear_eval.robustness.report import text_table

    result = evaluate_robustness(settings)
    print(text_table(result.robustness))
    print(*(f"{name}: {result.folder / name}" for name in ("results.json", "report.html")), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
