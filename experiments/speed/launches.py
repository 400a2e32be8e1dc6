"""How many operations a training step asks of torch, by part: on a GPU each is a kernel or more, and small steps wait for them.

    uv run python -m experiments.speed.launches --keep

Counted by torch's dispatcher over the code that a GPU runs: the augmentation on the meta device, whose tensors have no values,
so that nothing there can wait for one; the rest on the CPU, with fused optimizers. Views and allocations launch nothing and do
not count; a fused or foreach call counts once. Crops and jitter are drawn for many steps at once; that is left out. `waits` are
operations whose result goes back to Python, for which a GPU's queue runs empty. The count depends neither on the batch nor on
the machine, but on the version of torch. With `--graph` (core/graph.py) forward and backward are one launch, as is rendering.
"""
import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from core import checkpoint, cli, optim
from core.machine import provenance_of
from core.method import Batch, Method
from core.processes import World
from core.settings import PretrainSettings
from core.training import build_method
from experiments.speed.augment import MEAN, STD, STRONG
from experiments.speed.side_by_side import arguments
from ssl.pretrain import TOOL
from vision import encoders
from vision.augment import Augmentation
from vision.loaders import BatchSampler, MemoryLoader
from vision.splits import Images

FREE = ("detach", "empty", "new_empty", "_unsafe_view", "resize_", "set_", "lift_fresh")  # and what begins so
WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "equal")
BATCH = 16


class Operations(TorchDispatchMode):
    """The operations of what runs inside."""

    def __init__(self):
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if not func.is_view and not name.startswith(FREE):
            self.counts[name] += 1
        return func(*args, **kwargs or {})

    @property
    def total(self) -> int:
        return self.counts.total()

    @property
    def waits(self) -> int:
        return sum(self.counts[name] for name in WAITS)


def counted(work: Callable[[], object]) -> Operations:
    with Operations() as found:
        work()
    return found


def parts(method: Method, settings: PretrainSettings, size: int) -> dict[str, Operations]:
    """The operations of one step of a method, the second of its run, by part."""
    method.prepare(8 * BATCH, BATCH)
    here = World(0, 1, 0, 1, torch.device("meta"))
    images = Images(torch.zeros(4 * BATCH, 3, size, size, dtype=torch.uint8))
    deal = BatchSampler(4 * BATCH, BATCH, 0, here)
    batches = MemoryLoader(images, Augmentation(size, MEAN, STD, **STRONG), deal, 3).batches(0, 4)
    views = [torch.randn(BATCH, 3, size, size) for _ in range(2)]
    optimizer = optim.build(method, settings.optim, 0.01)
    params = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict = {}

    def render() -> None:
        next(batches)

    def forward() -> None:
        state["output"] = method(Batch(views, torch.arange(BATCH)), 0.5)

    def clip() -> None:
        torch.nn.utils.clip_grad_norm_(params, 1.0)

    work = {
        "augmentation": render,
        "forward": forward,
        "backward": lambda: state["output"].loss.backward(),
        "clipping": clip,
        "optimizer": optimizer.step,
        "after the step": lambda: method.after_step(state["output"].staged, 0.5),
    }
    for _ in range(2):  # an optimizer makes its state at the first step
        found = {name: counted(step) for name, step in work.items()}
        optimizer.zero_grad()
    return found


def encoder_alone(encoder: torch.nn.Module, size: int, views: int) -> int:
    """Operations of the encoder's own forward and backward, once a view."""
    images = torch.randn(BATCH, 3, size, size)
    return views * counted(lambda: encoder(images).square().mean().backward()).total


def table(rows: Mapping[str, Mapping[str, int]]) -> str:
    columns = [*next(iter(rows.values()))]
    head = f"| | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}\n"
    return head + "".join(f"| {name} | {' | '.join(str(row[c]) for c in columns)} |\n" for name, row in rows.items())


def main() -> None:
    options = arguments(
        __doc__.splitlines()[0],
        methods=("simclr,moco_v2,byol", "by comma", "simclr"),
        encoders=("small,resnet18,vit_tiny_patch4", "timm's or our names, by comma", "small"),
        size=(32, "pixels a side"),
    )
    rows = {}
    for name in options.encoders.split(","):
        for kind in options.methods.split(","):
            settings = cli.from_arguments(TOOL, [f"--method={kind}", f"--encoder={name}"])
            torch.manual_seed(0)
            encoder = encoders.create(name, 3, options.size, "small").train()
            found = parts(build_method(settings, encoder), settings, options.size)
            rows[f"{kind}, {name}"] = {part: one.total for part, one in found.items()} | {
                "step": sum(one.total for one in found.values()),
                "waits": sum(one.waits for one in found.values()),
                "encoder alone, two views": encoder_alone(encoder, options.size, 2),
            }
    print(table(rows), end="")
    if options.keep:
        path = Path(options.results, "launches.json")
        checkpoint.write(path, json.dumps(provenance_of([0]) | {"operations a step": rows}, indent=1) + "\n")
        print(f"kept in {path}")


if __name__ == "__main__":
    main()
