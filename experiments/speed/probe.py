"""A linear probe of 100 epochs: features extracted once, against the encoder run again every epoch.

    uv run python -m experiments.speed.probe --keep

Both sides are ours and train the same heads on the same images without augmentation: one head on the encoder's output, or the
52 of linear_eval.evaluate on its maps. Extraction counts on both sides; the cache of features, with which it falls away from
the second evaluation on, does not help here. The share that heads take of ours bounds the ratio, so it grows with the encoder.
"""
import numpy as np
import torch

from core.distributed import session
from experiments.speed.side_by_side import arguments, compare, report
from linear_eval.evaluate import TOOL
from linear_eval.features import collect, of_encoder
from linear_eval.heads import fitted
from vision import encoders
from vision.splits import Images

BATCH = 256
RATES = TOOL.example("protocol", "v1")["linear"]["rates"]


def main() -> None:
    settings = arguments(
        __doc__.splitlines()[0], epochs=(100, "of the probe", 2), size=(28, "pixels a side"), classes=(10, "to tell apart")
    )
    cases = {}
    with session(settings.device) as world:
        for name, count in (("small", 256), ("resnet18", 32)):
            count = min(count, 16) if settings.quick else count
            split = Images(torch.randint(256, (count, 3, settings.size, settings.size), dtype=torch.uint8))
            labels = np.arange(count) % settings.classes
            encoder = encoders.create(name, 3, settings.size).eval()
            source = of_encoder(name, encoder, torch.zeros(3), torch.ones(3), world.device)
            for heads in (1, 52):
                parts = source.parts if heads > 1 else {"last": source.parts["last"]}
                given = labels, settings.classes, parts, RATES if heads > 1 else [0.1]

                def again(source=source, split=split, given=given) -> int:
                    for epoch in range(settings.epochs):
                        fitted(collect(source, split, world.device).x, *given, 1, BATCH, seed=epoch, device=world.device)
                    return settings.epochs

                def once(source=source, split=split, given=given) -> int:
                    fitted(collect(source, split, world.device).x, *given, settings.epochs, BATCH, device=world.device)
                    return settings.epochs

                label = f"{name}, {count:,} images of {settings.size} px, {heads} head(s), {settings.epochs} epochs"
                cases[label] = compare(again, once, settings.rounds, "the encoder every epoch")
    report("probe", "epochs/s", cases, settings)


if __name__ == "__main__":
    main()
