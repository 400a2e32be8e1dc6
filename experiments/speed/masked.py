"""MAE's step, whose encoder sees a quarter of the patches, against the same encoder on all of them; same images, same batch.

    uv run python -m experiments.speed.masked --keep

step: all of MAE forward and backward, the decoder on all patches included, against the encoder alone forward and backward.
encoder: the two encoders alone. Figures are per second of the process's CPU time, all threads together on a CPU, so that a busy
machine disturbs them less; on a GPU by the clock.
"""
import os
import time
from functools import partial

import torch
from torch import Tensor

from core.machine import cores
from core.method import Batch
from core.processes import session
from experiments.speed.side_by_side import arguments, compare, report
from ssl.method.mae import MAE
from vision import encoders, tokens


def main() -> None:
    settings = arguments(
        __doc__.splitlines()[0],
        encoder=("vit_small_patch4", "timm or our name of a vision transformer", "vit_tiny_patch4"),
        batch=(8, "images", 4),
        size=(32, "their pixels a side"),
        ratio=(0.75, "share of the patches that MAE leaves out"),
        width=(192, "the decoder's"),
        depth=(4, "the decoder's blocks", 1),
        steps=(1, "a round"),
    )
    with session(settings.device) as world:
        torch.manual_seed(0)
        encoder = encoders.create(settings.encoder, 3, settings.size)
        method = MAE(encoder, settings.ratio, True, settings.width, settings.depth, 3).to(world.device)
        images = torch.randn(settings.batch, 3, settings.size, settings.size, device=world.device)
        batch = Batch([images], torch.arange(settings.batch))
        seen, _ = method.places(batch)

        def repeated(make) -> int:
            for _ in range(settings.steps):
                found: Tensor = make()
                if found.requires_grad:
                    found.backward()
                    method.zero_grad()
            if world.device.type == "cuda":
                torch.cuda.synchronize()
            return settings.steps * settings.batch

        def whole() -> Tensor:
            return tokens.tokens(encoder, images).patches.square().mean()

        @torch.no_grad()
        def forward(keep: Tensor | None) -> Tensor:
            return tokens.tokens(encoder, images, keep=keep).patches

        clock = time.process_time if world.device.type == "cpu" else time.perf_counter
        pairs = {
            "step": (whole, lambda: method(batch, 0.5).loss),
            "encoder": (lambda: forward(None), lambda: forward(seen)),
        }
        label = f"{settings.encoder} at {settings.size} px, batch {settings.batch}, mask ratio {settings.ratio:g}"
        cases = {
            f"{label}; {name}": compare(partial(repeated, peer), partial(repeated, ours), settings.rounds, "all patches", clock)
            for name, (peer, ours) in pairs.items()
        }
    facts = {"decoder": f"{settings.depth} blocks of width {settings.width}"}
    if clock is time.process_time:
        busy = f"{os.getloadavg()[0]:.1f} processes at a time on {cores()} cores, others included"
        facts["clock"] = f"process CPU time; {busy}"
    report("masked", "images/s", cases, settings, facts)


if __name__ == "__main__":
    main()
