"""The size that a number of the settings may have: far above any real use, so that what lies beyond it is a slip of the pen.

Checked when a configuration is composed, for every tool and before anything is loaded. Lower ends, and ranges that depend on
other settings, are each tool's to check.
"""
from collections.abc import Iterator
from typing import Any

IMAGES = 2**31  # a count of images: the data limits it
COUNT = 2**20  # any other whole number: sizes of layers and queues, processes, rounds
NUMBER = 1e9  # any other number: rates, weights, temperatures
SIZES = {
    # of a run
    "epochs": 1e6, "pause_at": 1e6, "supernet_epochs": 1e6, "steps": 10**9, "evals": 10**5, "log_every": 10**9,
    "save_minutes": 1e6, "optim.lr": 1e30, "batch_size": COUNT, "seed": 2**63 - 1, "draw": 2**31, "node": 2**31,
    # of images and encoders
    "image_size": 8192, "channels": 4096, "method.projector_layers": 100, "method.iterations": 10**5,
    "augment.views": 256, "augment.local.views": 256,
    # of a search: factor to the power of rungs must be a number
    "rungs": 64, "factor": 1000, "subnets": 1000, "interval": 1e6,
    # of deployment
    "batch": 65536, "calibration": IMAGES, "gallery": IMAGES, "int8_steps": 10**9, "most_lost": 100.0, "megabytes": 1e6,
    "megapixels": 1e6, "threads": 1024, "batches": 65536,
    # of evaluation
    "protocol.linear.batch_size": IMAGES, "protocol.baselines.sample": IMAGES, "protocol.baselines.images": IMAGES,
    "protocol.curve.per_class": IMAGES, "protocol.finetune.least_steps": 10**9, "protocol.finetune.epochs": 1e6,
    "protocol.linear.epochs": 10**6, "protocol.labels.draws": 10**4, "protocol.curve.draws": 10**4,
    "protocol.logistic.iterations": 10**6,
}


def check(flat: dict[str, Any]) -> None:
    """Raises ValueError for a number that is not finite, or beyond its size.  flat: dotted setting → value"""
    for name, value in flat.items():
        for number in _numbers(value):
            most = largest(name, number)
            if not -most <= number <= most:  # nan is neither
                raise ValueError(f"{name}={_text(value)}: must be a finite number of at most {shown(most)} in size")


def largest(name: str, number: float = 0.0) -> float:
    """The largest size of a setting; where none is known by its name, that of numbers of this one's type."""
    return SIZES.get(name, COUNT if isinstance(number, int) else NUMBER)


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, list):
        for part in value:
            yield from _numbers(part)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield value


def shown(most: float) -> str:
    return f"{most:,}" if isinstance(most, int) else f"{most:,.0f}" if most < 1e12 else f"{most:g}"


def _text(value: Any) -> str:
    return str(value).replace(" ", "")
