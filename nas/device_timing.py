"""Times networks one by one on this device, each in turn with a reference network, so that a slow moment hits both.

The ratio to the reference is what a profile models (nas/profile.py): it moves less than milliseconds with whatever else runs.
"""
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from core.image_size import Size
from deploy import export_module, int8_network, runtime
from deploy.timing import STEADY, interleaved
from nas.settings import LATENCY_BATCH
from vision import cost, encoders

REFERENCE = "small"  # the default encoder, at the same image size
TRIES = 3  # of a network whose times vary too much


@dataclass(frozen=True)
class Timed:
    """Milliseconds: median and 95th percentile of the network, median of the reference in the same moments."""

    p50: float
    p95: float
    reference: float

    @property
    def ratio(self) -> float:
        return self.p50 / self.reference

    @property
    def steady(self) -> bool:
        return self.p95 <= STEADY * self.p50

    @property
    def json(self) -> dict[str, float]:
        return asdict(self)


@dataclass(frozen=True)
class Place:
    """Where networks are timed.  device: of torch; INT8 always runs on the CPU"""

    device: torch.device
    threads: int


class DeviceTimer:
    """names: of nas.settings.TIMED; channels, size: of the images.  Sets torch's threads."""

    def __init__(self, names: Sequence[str], place: Place, channels: int, size: Size):
        self.names, self.place = names, place
        torch.set_num_threads(place.threads)
        torch.manual_seed(0)
        self.reference = self.calls(encoders.create(REFERENCE, channels, size))

    def calls(self, encoder: nn.Module) -> dict[str, Callable[[], object]]:
        """What is timed, by name; latency_p95 is the other percentile of latency.  Raises NotQuantizable."""
        kinds = {kind_of(name) for name in self.names}
        calls: dict[str, Callable[[], object]] = {}
        if "int8_latency" in kinds:
            module = export_module.of_encoder(encoder)
            with tempfile.TemporaryDirectory() as folder:
                files = int8_network.write(module, Path(folder), [module.example(32).numpy()])
                calls["int8_latency"] = partial(runtime.onnx_file(files.int8, self.place.threads), module.example(1).numpy())
        if "latency" in kinds:
            calls["latency"] = cost.one_image(encoder, self.place.device)
        if "latency_batch" in kinds:
            calls["latency_batch"] = cost.one_image(encoder, self.place.device, LATENCY_BATCH)
        return calls

    def __call__(self, encoder: nn.Module) -> dict[str, Timed]:
        """By what is timed.  Raises NotQuantizable."""
        return {name: self.timed(name, call) for name, call in self.calls(encoder).items()}

    def timed(self, name: str, call: Callable[[], object]) -> Timed:
        tries: list[Timed] = []
        while not tries or (not tries[-1].steady and len(tries) < TRIES):
            found = interleaved({"reference": self.reference[name], "network": call}, 1)
            tries.append(Timed(found["network"].p50, found["network"].p95, found["reference"].p50))
        return min(tries, key=lambda t: t.p95 / t.p50)


def kind_of(name: str) -> str:
    return "latency" if name == "latency_p95" else name


def figures(names: Sequence[str], timed: dict[str, Timed]) -> dict[str, float]:
    """Milliseconds by name, as objectives and limits have them."""
    found = {name: timed[kind_of(name)] for name in names}
    return {name: one.p95 if name == "latency_p95" else one.p50 for name, one in found.items()}
