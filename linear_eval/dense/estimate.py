"""How long an evaluation will take and how much it keeps on disk: from a few images and a small search, before it begins."""
import time

import numpy as np
import torch

from linear_eval.dense.patch_features import PatchSource, Split
from linear_eval.dense.settings import DenseSettings
from linear_eval.estimate import duration
from linear_eval.features import images_of
from linear_eval.knn import neighbors

IMAGES, BANK, QUERIES = 4, 2_048, 1_024  # that are timed


def estimate(settings: DenseSettings, sources: list[PatchSource], counts: dict[str, int], train: Split) -> str:
    """A line for the user.  counts: split → images. Fits, and reading what is on disk already, are not in it."""
    disk = sum(one.image_bytes for one in sources) * sum(counts.values()) / 1e9
    extraction = sum(_seconds_an_image(one, train) for one in sources) * sum(counts.values())
    parts = [f"{duration(extraction)} for the patches of {len(sources)} sources where they are not cached"]
    if "dense_knn" in settings.parts:
        protocol = settings.protocol
        queries = (min(counts["validation"], protocol.validation.images) + counts["test"]) * sources[0].patches
        search = sum(_seconds_a_product(one.dim) for one in sources) * queries * protocol.knn.bank
        parts.append(f"{duration(search)} for retrieval among {protocol.knn.bank:,}")
    return f"about {', '.join(parts)}; up to {min(disk, settings.budget * len(sources)):.2g} GB on disk"


def _seconds_an_image(patches: PatchSource, train: Split) -> float:
    source = patches.source
    images = images_of(train, torch.arange(min(IMAGES, len(train))), source.size, source.channels)
    source.describe(images[:1])  # what the first call sets up
    began = time.perf_counter()
    source.describe(images)
    return (time.perf_counter() - began) / len(images)


def _seconds_a_product(dim: int) -> float:
    """Of one query with one row of the bank."""
    x = np.random.default_rng(0).standard_normal((BANK, dim)).astype(np.float16)
    neighbors(x[:64], x[:64], 10)
    began = time.perf_counter()
    neighbors(x, x[:QUERIES], 10)
    return (time.perf_counter() - began) / (BANK * QUERIES)
