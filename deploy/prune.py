"""Prune an encoder or a classifier. Structured pruning removes whole channels: the same kind of file, smaller and faster.

    uv run python -m deploy.prune --encoder runs/y/classifier.safetensors --keep 0.5 --out runs/pruned
    uv run python -m distill.train --method kd --teacher runs/y/classifier.safetensors \\
        --student runs/pruned/classifier.safetensors

The pruned file has lost accuracy. `linear_eval.finetune` or, as above, `distill.train` trains its weights further, and
`deploy.export` measures the result. Nothing here imports torch before the settings are checked.
"""
import copy
import json
import sys
from functools import partial
from pathlib import Path

from core import cli, training
from core.identity import identity
from deploy.compare import TOLERANCE, difference
from deploy.prune_report import PruneResult
from deploy.settings import KINDS, PruneSettings, check_file
from deploy.timing import interleaved

ROOT = Path(__file__).resolve().parent.parent
TOOL = cli.Tool(
    module="deploy.prune",
    primary=ROOT / "deploy" / "prune.yaml",
    searched=(ROOT / "vision" / "config",),
    summary="Prune an encoder: python -m deploy.prune --encoder runs/y/classifier.safetensors --keep 0.5",
    settings=PruneSettings,
)


def main() -> int:
    return cli.main(TOOL, partial(training.start, TOOL, check, run))


def run(settings: PruneSettings) -> int:
    """The command: prune, and print the costs."""
    result = prune(settings)
    print(result.text)
    print(f"{result.file}: recover its accuracy by linear_eval.finetune or distill.train --student {result.file}")
    return 0


def check(settings: PruneSettings) -> None:
    """Refuse what can be refused before anything is loaded."""
    check_file(settings)
    training.check(settings)
    wrong = {} if 0 < settings.keep < 1 else {"keep": "a share: more than 0, less than 1"}
    wrong |= {} if settings.kind in KINDS else {"kind": " or ".join(KINDS)}
    wrong |= {} if settings.multiple > 0 else {"multiple": "more than 0"}
    wrong |= {} if settings.devices == 1 else {"devices": "1: pruning is one process"}
    training.refuse(cli.flat(settings), wrong)


def prune(settings: PruneSettings) -> PruneResult:
    """Write the pruned file, pruned.json with the costs, and the report into the run's folder.  Raises ValueError, RunError."""
    check(settings)

    from core import checkpoint
    from core.machine import provenance_of
    from core.measured import Configured
    from core.page import write_report
    from core.run import another
    from deploy.pruning import prune_channels, prune_weights
    from vision import artifact

    source, out = cli.expand(settings.encoder), training.folder(settings, f"pruned-{settings.keep:g}")
    model, header = artifact.load_whole(source)
    encoder, head = artifact.encoder_in(model), None if header.classes is None else model.head
    file = out / ("encoder.safetensors" if head is None else "classifier.safetensors")
    if file.exists():
        raise ValueError(f"out={out} holds {file.name} already; {another(out)}")
    unpruned = copy.deepcopy(encoder.eval())
    if settings.kind == "structured":
        prune_channels(model, encoder, settings.keep, settings.multiple)
    else:
        prune_weights(encoder, settings.keep)
    result = PruneResult(file, *costs(unpruned, encoder))
    origin = {"tool": TOOL.module, "words": identity(settings), "from": header.origin}
    encoder.eval()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"out={out} cannot be written: {error.strerror}; give another out") from error
    write_checked(file, artifact.dumps(encoder, header, origin, head, header.classes, header.threshold), model)
    content = {"before": result.before, "after": result.after, "words": identity(settings)}
    made = provenance_of([settings.seed], ("torch", "torch-pruning", "timm"))
    checkpoint.write(out / "pruned.json", json.dumps(content | made, indent=1) + "\n")
    write_report(lambda name, text: checkpoint.write(out / name, text), lambda: result.page(made, Configured(TOOL, settings)))
    return result


def costs(*encoders) -> list[dict[str, float]]:
    """Of each encoder; they are timed in turn, on one image."""
    from vision import cost

    times = interleaved({str(i): cost.one_image(encoder) for i, encoder in enumerate(encoders)}, 1)
    return [
        {"parameters": cost.parameters(encoder), "weights that are not zero": nonzero(encoder), "macs": cost.macs(encoder),
         "latency p50": times[str(i)].p50, "latency p95": times[str(i)].p95}
        for i, encoder in enumerate(encoders)
    ]


def nonzero(encoder) -> float:
    """In millions."""
    return sum(int(p.count_nonzero()) for p in encoder.parameters()) / 1e6


def write_checked(target: Path, content: bytes, model) -> None:
    """Write an encoder file under its name once it was loaded again and gives the outputs of `model`, which it holds.

    Raises RunError where it does not, and leaves nothing.
    """
    import torch

    from core import checkpoint
    from core.errors import RunError
    from vision import artifact

    temporary = target.with_name(f".unchecked.{target.name}")
    spec = artifact.encoder_in(model).spec
    images = torch.randn(4, *spec.shape, generator=torch.Generator().manual_seed(0))
    try:
        checkpoint.write(temporary, content)
        again, _ = artifact.load_whole(temporary)
        with torch.no_grad():
            by = difference(again(images).numpy(), model.eval()(images).numpy())
        if not by <= TOLERANCE:
            raise RunError(f"{target} was not written: loaded again, its outputs differ by {by:.1e} of the largest, or are not "
                           "finite")
        temporary.replace(target)
    except ValueError as error:
        raise RunError(f"{target} was not written: it could not be loaded again: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
