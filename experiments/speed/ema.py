"""A ResNet-50 teacher following its student: lightly's update_momentum, parameter by parameter, against ours (core/method.py).

    uv run python -m experiments.speed.ema --keep

Also which share of a training step it is: BYOL (ssl/method/byol.py) on random 224-pixel images, forward, backward, SGD
and the update itself, at the stated batch. The update costs the same at any batch, so its share falls as batches grow.
"""
import time

import torch

from core import optim
from core.method import Batch, ema_copy, ema_update_
from core.processes import session
from core.settings import OptimSettings
from experiments.speed.side_by_side import arguments, compare, report, spread
from ssl.method.byol import BYOL
from vision import encoders

BAR = 2.0  # % of a step
MOMENTUM = 0.996


def share(method: BYOL, batch: int, size: int, steps: int, device: torch.device) -> dict[str, float]:
    """% of a step that after_step takes, over steps after one that is not counted."""
    optimizer = optim.build(method, OptimSettings(name="sgd", weight_decay=0.0), 0.01)
    views = [torch.randn(batch, 3, size, size, device=device).contiguous(memory_format=torch.channels_last) for _ in "ab"]
    percent = []
    for _ in range(1 + steps):
        start = now(device)
        output = method(Batch(views, torch.arange(batch)), 0.5)
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        updating = now(device)
        method.after_step(output.staged, 0.5)
        end = now(device)
        percent.append(100 * (end - updating) / (end - start))
    return spread(percent[1:])


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    settings = arguments(
        __doc__.splitlines()[0],
        encoder=("resnet50", "timm name", "resnet10t"),
        updates=(20, "updates a round", 2),
        batch=(8, "images of the training step", 2),
        size=(224, "their pixels a side", 32),
    )
    with session(settings.device) as world:
        from lightly.models.utils import update_momentum

        device, batch, size = world.device, settings.batch, settings.size
        encoder = encoders.create(settings.encoder, 3, size).to(device)
        teacher = ema_copy(encoder)

        def repeated(update) -> int:
            for _ in range(settings.updates):
                update()
            now(device)
            return settings.updates

        def peer() -> int:
            return repeated(lambda: update_momentum(encoder, teacher, MOMENTUM))

        def ours() -> int:
            return repeated(lambda: ema_update_(teacher, encoder, MOMENTUM))

        millions = sum(p.numel() for p in encoder.parameters()) / 1e6
        cases = {f"{settings.encoder}, {millions:.1f} M parameters": compare(peer, ours, settings.rounds)}

        method = BYOL(encoder, 4096, 256, 4096, (MOMENTUM, 1.0)).to(device, memory_format=torch.channels_last)
        percent = share(method, batch, size, settings.rounds, device)
    verdict = "under" if percent["median"] < BAR else "over"
    notes = {
        f"share of a BYOL step, {settings.encoder} at {size} px, batch {batch}, fp32": f"{percent['median']:.2f} % "
        f"({percent['min']:.2f} … {percent['max']:.2f}), {verdict} the bar of {BAR:g} %"
    }
    report("ema", "updates/s", cases, settings, notes)


if __name__ == "__main__":
    main()
