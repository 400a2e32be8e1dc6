"""Corrupted test images → which of them each head gets right, corruption by corruption, each kept when it is done."""
import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core import checkpoint
from core.image_size import Size
from core.run import counting
from linear_eval.features import BLOCK, Source
from linear_eval.robustness.heads import Head
from vision.corruptions import SEVERITIES, corrupt
from vision.encoders import fit_channels
from vision.geometry import Geometry
from vision.splits import Images
from vision.streamed import Streamed

AT_ONCE = 4 * BLOCK  # images whose features, at all severities, are in memory


@dataclass(frozen=True)
class SplitToCorrupt:
    """Test images to corrupt. They are read at `size`, where they are corrupted, and then made to fit each source.

    indices: N, of those that could be read, in the split; labels: N
    """

    split: Images | Streamed
    indices: Tensor
    labels: np.ndarray
    size: Size | Geometry


def corruption_hits(
    images: SplitToCorrupt, names: Sequence[str], sources: Sequence[Source], heads: Sequence[Head], seed: int, kept: Path
) -> dict[str, np.ndarray]:
    """→ name → heads,5,N bool.  kept: a folder, where each corruption's are written when they are complete, and read again"""
    hits, N = {}, len(images.indices)
    kept.mkdir(parents=True, exist_ok=True)
    with counting("corruptions") as progress:
        for number, name in enumerate(names):
            path, shape = kept / f"{name}.npy", (len(heads), len(SEVERITIES), N)
            found = _read(path, shape)
            if found is None:

                def done(count: int, before: int = number * N) -> None:
                    progress(before + count, len(names) * N)

                found = _hits(images, name, sources, heads, seed, done)
                buffer = io.BytesIO()
                np.save(buffer, found)
                checkpoint.write(path, buffer.getvalue())
            progress((number + 1) * N, len(names) * N)
            hits[name] = found
    return hits


def _read(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, EOFError, ValueError):
        return None
    return found if found.shape == shape and found.dtype == bool else None


def _hits(
    images: SplitToCorrupt, name: str, sources: Sequence[Source], heads: Sequence[Head], seed: int, done: Callable[[int], None]
) -> np.ndarray:
    """heads,5,N bool"""
    parts = []
    with ThreadPoolExecutor(1) as reader:
        for chunk in torch.arange(len(images.indices)).split(AT_ONCE):
            rows = {source.name: [[] for _ in SEVERITIES] for source in sources}
            blocks = chunk.split(BLOCK)
            following = reader.submit(images.split.resized, images.indices[blocks[0]], images.size)
            for number, block in enumerate(blocks):
                clean = following.result()
                if number + 1 < len(blocks):
                    following = reader.submit(images.split.resized, images.indices[blocks[number + 1]], images.size)
                for severity in SEVERITIES:
                    corrupted = corrupt(clean, images.indices[block], name, severity, seed)
                    for source in sources:
                        described = torch.as_tensor(source.describe(fitting(corrupted, source))).float().cpu().numpy()
                        rows[source.name][severity - 1].append(described.astype(source.dtype))
                done(int(block[-1]) + 1)
            labels, found = images.labels[chunk], []
            for head in heads:
                predicted = head.predict(np.concatenate([part for parts_ in rows[head.source] for part in parts_]))
                found.append(predicted.reshape(len(SEVERITIES), -1) == labels)
            parts.append(np.stack(found))
    return np.concatenate(parts, axis=2)


def fitting(images: Tensor, source: Source) -> Tensor:
    """Corrupted images as a source takes them.  B,C,H,W → B,C',height,width"""
    geometry = Geometry.of(source.size)
    if images.shape[2:] != (geometry.height, geometry.width):
        images = Images(images).resized(torch.arange(len(images)), source.size)
    return images if source.channels is None else fit_channels(images, source.channels)
