"""A linear probe of 100 epochs: features extracted once, against the encoder run again every epoch.

    uv run python -m experiments.speed.probe --keep

Both sides are ours and train the same heads on the same images without augmentation: one head on the encoder's output, or the
52 of linear_eval.evaluate on its maps. Extraction counts on both sides; the cache of features, with which it falls away from
the second evaluation on, does not help here. The share that heads take of ours bounds the ratio, so it grows with the encoder.
"""
import numpy as np
import torch

from core.processes import session
from experiments.speed.side_by_side import arguments, compare, report
from linear_eval.evaluate import TOOL
from linear_eval.features import collect, of_encoder
from linear_eval.heads import HeadsConfig, fit_heads
from linear_eval.probe_data import Labeled
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
                parts = source.parts if heads > 1 else {"pooled": source.parts["pooled"]}
                rates = RATES if heads > 1 else [0.1]

                def train(epochs: int, seed: int = 0, source=source, split=split, labels=labels, parts=parts, rates=rates):
                    features = Labeled(collect(source, split, world.device).x, labels)
                    fit_heads(features, settings.classes, parts, HeadsConfig(rates, epochs, BATCH, seed=seed), world.device)

                def again(train=train) -> int:
                    for epoch in range(settings.epochs):
                        train(1, epoch)
                    return settings.epochs

                def once(train=train) -> int:
                    train(settings.epochs)
                    return settings.epochs

                label = f"{name}, {count:,} images of {settings.size} px, {heads} head(s), {settings.epochs} epochs"
                cases[label] = compare(again, once, settings.rounds, "the encoder every epoch")
    report("probe", "epochs/s", cases, settings)


if __name__ == "__main__":
    main()
