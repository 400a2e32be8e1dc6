"""Pruning. Structured: whole channels leave, and what stays is a smaller encoder, faster everywhere, in the same kind of file.

    uv run python -m deploy.prune --encoder runs/y/classifier.safetensors --keep 0.5 --out runs/pruned
    uv run python -m distill.train --method kd --teacher runs/y/classifier.safetensors \\
        --student runs/pruned/classifier.safetensors

What it leaves has lost accuracy: `linear_eval.finetune` or, as above, `distill.train` goes on from its weights, and
`deploy.export` measures what those leave. Nothing here imports torch before the settings are understood.
"""
import json
import sys
from functools import partial
from pathlib import Path

from core import cli, training
from core.identity import identity
from deploy.compare import CLOSE, difference, reason
from deploy.settings import KINDS, PruneSettings, check_file

ROOT = Path(__file__).resolve().parent.parent
TOOL = cli.Tool(
    module="deploy.prune",
    primary=ROOT / "deploy" / "prune.yaml",
    searched=(ROOT / "vision" / "config",),
    summary="Prune an encoder: python -m deploy.prune --encoder runs/y/classifier.safetensors --keep 0.5",
    settings=PruneSettings,
)
WAY_OUT = "use --kind unstructured, or another encoder"
STEPS, MOST = 100, 0.95  # of pruning: how many there may be, and the share of a layer's channels that may leave


def main() -> int:
    return cli.main(TOOL, partial(training.start, TOOL, check, run))


def check(settings: PruneSettings) -> None:
    """Refuse what can be refused before anything is loaded."""
    check_file(settings)
    training.check(settings)
    wrong = {} if 0 < settings.keep < 1 else {"keep": "a share: more than 0, less than 1"}
    wrong |= {} if settings.kind in KINDS else {"kind": " or ".join(KINDS)}
    wrong |= {} if settings.multiple > 0 else {"multiple": "more than 0"}
    wrong |= {} if settings.devices == 1 else {"devices": "1: pruning is one process"}
    training.refuse(cli.flat(settings), wrong)


def structured(model, encoder, keep: float, multiple: int):
    """Channels of the least L2 norm over the group of layers that share them leave, over the whole encoder, until its
    multiply-adds are at most `keep` of what they were (Fang et al. 2023, "DepGraph", arXiv 2301.12900).

    model: the encoder, or a classifier around it, whose outputs stay.  → the encoder, which knows its new spec and `.dim`.
    Raises ValueError for what cannot be pruned so.
    """
    from dataclasses import replace

    import torch
    import torch_pruning
    from torch import nn

    from vision import cost, encoders, pruned

    spec, most = encoder.spec, cost.macs(encoder) * keep
    images = torch.zeros(1, spec.channels, spec.image_size, spec.image_size)
    ends = [m for name, m in model.named_modules() if name == "head" and isinstance(m, nn.Linear)]
    try:
        pruner = torch_pruning.pruner.BasePruner(
            model, images, importance=torch_pruning.importance.GroupMagnitudeImportance(p=2), pruning_ratio=MOST,
            max_pruning_ratio=MOST, global_pruning=True, round_to=multiple, iterative_steps=STEPS, ignored_layers=ends,
        )
        for _ in range(STEPS):
            if cost.macs(encoder) <= most:
                break
            pruner.step()
    except Exception as error:  # torch-pruning follows the graph of any model, and fails in as many ways
        raise ValueError(f"encoder={spec.name} cannot be pruned by channels ({reason(error)}); {WAY_OUT}") from error
    if cost.macs(encoder) > most:
        raise ValueError(f"keep={keep:g}: {spec.name} keeps {cost.macs(encoder) / most * keep:.0%} at the least")
    try:
        unpruned = encoders.build(replace(spec, pruned={}))
        encoder.spec = replace(spec, pruned=pruned.shapes(encoder, unpruned))
        with torch.no_grad():
            encoder.dim = encoder(images).shape[1]
        encoders.build(encoder.spec).load_state_dict(encoder.state_dict())
    except Exception as error:
        raise ValueError(f"encoder={spec.name} is pruned by channels to what no file can hold ({reason(error)}); {WAY_OUT}"
                         ) from error
    return encoder


def unstructured(encoder, keep: float) -> None:
    """The weights of the least magnitude over all convolutions and linear layers become zero (Han et al. 2015, arXiv
    1506.02626). In place.
    """
    from torch import nn
    from torch.nn.utils import prune

    layers = [(m, "weight") for m in encoder.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    prune.global_unstructured(layers, prune.L1Unstructured, amount=1 - keep)
    for layer, name in layers:
        prune.remove(layer, name)


def write_checked(target: Path, content: bytes, model) -> None:
    """Write a file of ours; it gets its name once it was loaded again and gives the same outputs.  model: what it holds.

    Raises RunError where it does not, and leaves nothing.
    """
    import torch

    from core import checkpoint
    from core.errors import RunError
    from vision import artifact

    temporary = target.with_name(f".unchecked.{target.name}")
    spec = artifact.encoder_in(model).spec
    images = torch.randn(4, spec.channels, spec.image_size, spec.image_size, generator=torch.Generator().manual_seed(0))
    try:
        checkpoint.write(temporary, content)
        again, _ = artifact.load_whole(temporary)
        with torch.no_grad():
            by = difference(again(images).numpy(), model.eval()(images).numpy())
        if not by <= CLOSE:
            raise RunError(f"{target} was not written: loaded again, its outputs differ by {by:.1e} of the largest, or are not "
                           "finite")
        temporary.replace(target)
    except ValueError as error:
        raise RunError(f"{target} was not written: it could not be loaded again: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def run(settings: PruneSettings) -> int:
    import torch

    from core import checkpoint
    from core.machine import code, hardware, versions
    from core.run import another
    from vision import artifact, cost

    source, out = cli.expand(settings.encoder), training.folder(settings, f"pruned-{settings.keep:g}")
    model, card = artifact.load_whole(source)
    encoder, head = artifact.encoder_in(model), None if card.classes is None else model.head
    target = out / ("encoder.safetensors" if head is None else "classifier.safetensors")
    if target.exists():
        raise ValueError(f"out={out} holds {target.name} already; {another(out)}")

    def costs() -> dict[str, float]:
        time, there = cost.latency(encoder, torch.device("cpu")), sum(int(p.count_nonzero()) for p in encoder.parameters())
        return {"parameters": cost.parameters(encoder), "weights that are not zero": there / 1e6, "macs": cost.macs(encoder),
                "latency p50": time["p50"], "latency p95": time["p95"]}

    before = costs()
    if settings.kind == "structured":
        structured(model, encoder, settings.keep, settings.multiple)
    else:
        unstructured(encoder, settings.keep)
    after = costs()
    origin = {"tool": TOOL.module, "words": identity(settings), "from": card.origin}
    encoder.eval()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"out={out} cannot be written: {error.strerror}; give another out") from error
    write_checked(target, artifact.dumps(encoder, card, origin, head, card.classes), model)
    kept = {"before": before, "after": after, "words": identity(settings), "hardware": hardware(),
            "versions": versions(("torch", "torch-pruning", "timm")), "code": code()}
    checkpoint.write(out / "pruned.json", json.dumps(kept, indent=1) + "\n")
    print("| | before | after | share |\n|---|---|---|---|")
    for name, value in before.items():
        unit = "ms" if "latency" in name else "M"
        share = f"{after[name] / value:.0%}" if value else "-"
        print(f"| {name}, {unit} | {value:.3g} | {after[name]:.3g} | {share} |")
    print(f"\n{target}: its accuracy is to be won back, by linear_eval.finetune or distill.train --student {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
