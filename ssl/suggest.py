"""The commands that a report suggests next. They repeat every setting that this run was given."""
import shlex
from pathlib import Path

from core import cli
from core.settings import PretrainSettings

LENGTH = ("epochs", "steps", "pause_at")  # of a run, and where it pauses
OF_DATA = ("data", "image_size")
STREAMED = ("folder",)  # data without labels of which an export can serve a gallery


def train_on(settings: PretrainSettings) -> str:
    """Train for twice as long, in another folder; after digits, try Fashion-MNIST."""
    if settings.data.name == "digits":
        return _train(settings, LENGTH + OF_DATA, "data", "fashion_mnist", "fashion_mnist")
    if settings.steps:
        return _train(settings, LENGTH, "steps", 2 * settings.steps, f"steps-{2 * settings.steps}")
    return _train(settings, LENGTH, "epochs", 2 * settings.epochs, f"epochs-{2 * settings.epochs:g}")


def evaluate(settings: PretrainSettings, encoder: Path | str) -> str:
    """Evaluate the encoder on the same data with the same split."""
    given = cli.arguments(settings, lambda name: name.startswith("data.") or name == "seed")
    words = ["--encoder", str(encoder), "--data", settings.data.name, *given]
    return f"uv run python -m linear_eval.evaluate {shlex.join(words)}"


def gallery(settings: PretrainSettings, encoder: Path | str, bands: bool = False) -> list[str]:
    """Without labels: export the encoder with a gallery of the same images, and serve a page that finds similar ones.

    bands: images are no 8-bit gray or RGB ones, of which the folder itself is the gallery.
    """
    given = cli.arguments(settings, lambda name: name.startswith("data.") or name == "seed")
    folder = Path(encoder).parent / "similar"
    copies = [] if bands else ["--preprocess", "--gallery", "2000"]
    words = ["--encoder", str(encoder), "--data", settings.data.name, *given, *copies, "--out", str(folder)]
    served = ["--model", str(folder / "model.onnx"), "--gallery", str(settings.data.root if bands else folder / "gallery")]
    return [f"uv run python -m deploy.export {shlex.join(words)}", f"uv run python -m deploy.serve {shlex.join(served)}"]


def _train(settings: PretrainSettings, drop: tuple[str, ...], changed: str, value: object, suffix: str) -> str:
    """The command of this run without the settings called `drop`, or beneath them, and with another one in their place."""
    given = cli.arguments(settings, lambda name: name.split(".")[0] not in (*drop, "out"))
    groups = {"method": settings.method.name, "data": settings.data.name}
    usual = [w for name, choice in groups.items() if name != changed and name not in cli.explicit(settings)
             for w in cli.argument(name, choice)]
    out = [] if settings.out == "auto" else ["--out", f"{settings.out}-{suffix}"]
    module = "nas.supernet" if hasattr(settings, "space") else "ssl.pretrain"
    return f"uv run python -m {module} {shlex.join([*usual, *given, *cli.argument(changed, value), *out])}"
