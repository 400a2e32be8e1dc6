"""Images → features, once: one pass over a split, on any number of processes, kept in a memory-mapped cache.

A `Source` turns blocks of images into rows: a frozen encoder (`of_encoder`), or any other description of an image
(linear_eval/baselines.py). Rows do not depend on who computes them, so one process and many leave the same file.
"""
import contextlib
import copy
import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core import checkpoint
from core.batchnorm import SplitBatchNorm, has_batchnorm
from core.image_size import Size
from core.processes import broadcast_object, gather, gather_objects, is_main, rank, world_size
from core.run import counting
from vision import encoders
from vision.encoders import fit_channels
from vision.geometry import Geometry
from vision.pixels import in_unit_range, normalize_images
from vision.splits import Images
from vision.streamed import Streamed
from vision.tokens import pooling_of

FORMAT = 1  # of cached files: another number computes all of them again
BLOCK = 512  # images a forward pass
BLOCKS = 4  # an encoder's last feature maps that are pooled, as DINOv2 takes them (arXiv 2304.07193, appendix B.3)
CALIBRATED = 2_000  # images that an untrained encoder's BatchNorm sees
PIXELS = 32  # a side, at most, of images that are their own features


@dataclass(frozen=True)
class Source:
    """A way of turning images into features."""

    name: str  # "encoder", "untrained", "raw pixels", …
    key: str  # all that its rows depend on, besides the images
    describe: Callable[[Tensor], Tensor | np.ndarray]  # B,C,h,w uint8 → B,D
    size: Size | Geometry  # h and w, and how images get that shape
    channels: int | None = None  # C; None: as they come
    dtype: str = "float16"  # as cached: half of float32's memory, with a relative error of 2⁻¹¹ at most
    parts: dict[str, list[slice]] | None = None  # name → columns; None: all of them, as "pooled"
    block: int | None = None  # images a forward pass; None: BLOCK


@dataclass(frozen=True)
class Features:
    """A split as features. Images that could not be read are not in it."""

    x: np.ndarray  # N,D in the source's dtype, memory-mapped where it is cached
    indices: np.ndarray  # N int64: which image of the split a row is
    labels: np.ndarray | None  # N int64
    parts: dict[str, list[slice]]

    @property
    def pooled(self) -> np.ndarray:
        """The encoder's own output, without its maps.  → N,d, a view"""
        return self.x[:, self.parts["pooled"][0]]

    @property
    def tensors(self) -> tuple[Tensor, Tensor]:
        """N,D float32 and N labels, as kNN and probes take them."""
        return torch.from_numpy(self.x).float(), torch.from_numpy(self.labels)

    def rows(self, positions: np.ndarray) -> "Features":
        return Features(self.x[positions], self.indices[positions], self.labels[positions], self.parts)


# ---------------------------------------------------------------------------------------------------------- encoders


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """In evaluation mode and without gradients; then every module's mode is as it was."""
    modes = {child: child.training for child in module.modules()}
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for child, mode in modes.items():
            child.training = mode


def of_encoder(name: str, encoder: nn.Module, mean: Tensor, std: Tensor, device: torch.device, maps: bool = True) -> Source:
    """A frozen encoder's output and, with `maps`, its last feature maps pooled in two ways, all in one pass.

    parts: "pooled" (the output), "pooled+max" (and the last map's maximum), "last4" (the means of the maps before it too),
    "last4+max". A transformer with a class token has tokens for means and means for maxima.
    """
    encoder = encoder.to(device).eval()
    count = min(BLOCKS, len(getattr(encoder, "feature_info", ()))) if maps else 0
    columns = _columns if count and _gives_maps(encoder, count) else _output

    def describe(images: Tensor) -> Tensor:
        with evaluating(encoder):
            return torch.cat(columns(encoder, normalize_images(images.to(device), mean, std), count), dim=1).float()

    with evaluating(encoder):
        widths = [c.shape[1] for c in columns(encoder, _noise(encoder), count)]
    key = json.dumps([fingerprint(encoder), mean.tolist(), std.tolist(), widths])
    return Source(name, key, describe, encoder.spec.geometry, encoder.spec.channels, parts=_parts(widths))


def _output(encoder: nn.Module, x: Tensor, count: int) -> list[Tensor]:
    return [encoder(x)]


def _columns(encoder: nn.Module, x: Tensor, count: int) -> list[Tensor]:
    """The output, the first pooling of the maps before the last, and the second pooling of all maps; last maps first.

    Class token and mean; of an encoder without one, or whose features are the mean by its spec, mean and maximum.
    """
    tokens = getattr(encoder, "num_prefix_tokens", 0) > 0 and pooling_of(encoder) != "mean"
    extra = {"return_prefix_tokens": True} if tokens else {}
    out, maps = encoder.forward_intermediates(x, indices=count, output_fmt="NCHW", norm=True, **extra)
    maps = maps[::-1]
    if tokens:
        first, second = [prefix[:, 0] for _, prefix in maps], [patches.mean((2, 3)) for patches, _ in maps]
    else:
        first, second = [m.mean((2, 3)) for m in maps], [m.amax((2, 3)) for m in maps]
    return [encoder.forward_head(out), *first[1:], *second]


def _gives_maps(encoder: nn.Module, count: int) -> bool:
    """Whether the encoder returns maps, with the same output as without them. Decided by running it."""
    with evaluating(encoder):
        x = _noise(encoder)
        try:
            return torch.equal(_columns(encoder, x, count)[0], encoder(x))
        except (AttributeError, TypeError, ValueError, RuntimeError, AssertionError, IndexError, KeyError):
            return False


def _noise(encoder: nn.Module) -> Tensor:
    """Two images, the same each time."""
    shape = (2, *encoder.spec.shape)
    x = torch.linspace(0, 1000, math.prod(shape)).sin().view(shape)
    return x.to(next(encoder.parameters()).device, memory_format=torch.channels_last)


def _parts(widths: list[int]) -> dict[str, list[slice]]:
    """Widths of `_columns` → the four unions of them that a probe may use."""
    ends = np.cumsum([0, *widths]).tolist()
    columns = [slice(a, b) for a, b in itertools.pairwise(ends)]
    if len(columns) == 1:
        return {"pooled": columns}
    maps = len(columns) // 2
    first = slice(0, ends[maps])  # the output and the means before it lie side by side
    return {
        "pooled": columns[:1],
        "pooled+max": [columns[0], columns[maps]],
        "last4": [first],
        "last4+max": [slice(0, ends[-1])],
    }


def fingerprint(encoder: nn.Module) -> str:
    """Of weights, statistics and how the module is built."""
    digest = hashlib.sha256(json.dumps(encoder.spec.json, sort_keys=True).encode())
    for name, value in sorted(encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


@torch.no_grad()
def recompute_batchnorm(
    encoder: nn.Module, images: Tensor | Iterable[Tensor], mean: Tensor, std: Tensor, device: torch.device
) -> nn.Module:
    """A copy with BatchNorm statistics of the data, so that an untrained encoder is not scored with its initial ones.

    images: N,C,S,S uint8, some thousands, or blocks of them that can be iterated over again (linear_eval/samples.py).
    """
    encoder = copy.deepcopy(encoder).train()
    if not has_batchnorm(encoder):
        return encoder
    for module in encoder.modules():
        if isinstance(module, SplitBatchNorm):
            module.splits = 1
    blocks_of_images = [images] if isinstance(images, Tensor) else images
    for _ in range(10):
        for block in blocks_of_images:
            for part in block.split(256):
                encoder(normalize_images(part.to(device), mean, std))
    return encoder


def untrained_encoder(
    spec: encoders.Spec, train: Images | Streamed, moments: tuple[Tensor, Tensor], device: torch.device, seed: int,
    geometry: Size | Geometry | None = None,
) -> nn.Module:
    """An encoder with the random weights of a seed, and BatchNorm statistics of CALIBRATED training images, evenly spaced.

    moments: mean and standard deviation of the pixels; geometry: how images become its input; None: as its spec says
    """
    torch.manual_seed(seed)
    encoder = encoders.build(spec).to(device)
    if not has_batchnorm(encoder):
        return encoder
    some = images_of(train, evenly(len(train), CALIBRATED), geometry or spec.geometry, spec.channels)
    return recompute_batchnorm(encoder, some, *moments, device)


def pixels_of(images: Tensor) -> Tensor:
    """Grey levels as they are, averaged to `PIXELS` a side where there are more.  N,C,h,w uint8 → N,D float32"""
    if max(images.shape[-2:]) <= PIXELS:
        return in_unit_range(images).flatten(1)
    return torch.cat([F.adaptive_avg_pool2d(in_unit_range(part), PIXELS).flatten(1) for part in images.split(BLOCK)])


def spectrum(z: Tensor) -> Tensor:
    """Singular values of centered features, the largest first.  N,D → min(N,D) float64"""
    return torch.linalg.svdvals(z.double() - z.double().mean(0))


def rankme(z: Tensor) -> float:
    """exp of the entropy of the singular values' shares: how many dimensions the features use, from 1 to D.

    Of centred features, unlike the paper's: a mean that all images share is no information about them.
    """
    return effective_rank(spectrum(z))


def effective_rank(sigma: Tensor) -> float:
    """RankMe of singular values."""
    p = sigma / sigma.sum().clamp(min=1e-12) + 1e-12
    return float(torch.exp(-(p * p.log()).sum()))


# ---------------------------------------------------------------------------------------------------------- the pass


def evenly(length: int, count: int) -> Tensor:
    """At most `count` indices, evenly spaced."""
    return torch.linspace(0, length - 1, min(count, length)).long()


def images_of(split: Images | Streamed, indices: Tensor, size: Size | Geometry, channels: int | None) -> Tensor:
    """Images as a source takes them.  indices: B; size: alone, cropped → B,C,height,width uint8"""
    images = split.resized(indices, size)
    return images if channels is None else fit_channels(images, channels)


def feature_blocks(
    source: Source, split: Images | Streamed, device: torch.device, title: str, first: int = 0
) -> Iterator[np.ndarray]:
    """The split's features in its order from image `first` on, a block at a time, on the main process. The others compute
    their share and yield nothing. While one block is described the next one is read.
    """
    size = source.block or BLOCK
    starts, W = list(range(first, len(split), size)), world_size()

    def read(turn: int) -> Tensor:
        start = starts[min(turn * W + rank(), len(starts) - 1)]  # a process that has none left repeats the last
        return images_of(split, torch.arange(start, min(start + size, len(split))), source.size, source.channels)

    turns = range(-(-len(starts) // W))
    with counting(title) as progress, ThreadPoolExecutor(1) as reader:
        following = reader.submit(read, 0)
        for turn in turns:
            images = following.result()
            if turn + 1 < len(turns):
                following = reader.submit(read, turn + 1)
            rows = torch.as_tensor(source.describe(images)).float().to(device)
            if W > 1:
                rows = gather(F.pad(rows, (0, 0, 0, size - len(rows)))).unflatten(0, (W, size))
            for w, start in enumerate(starts[turn * W : (turn + 1) * W]) if is_main() else ():
                done = min(start + size, len(split))
                yield (rows if W == 1 else rows[w, : done - start]).cpu().numpy().astype(source.dtype)
                progress(done, len(split))


def collect(
    source: Source, split: Images | Streamed, device: torch.device, cache: Path | None = None, title: str = "features"
) -> Features | None:
    """A split's features, read from the cache where they are in it.  None on other processes than the main one.

    Raises ValueError where the split has no image.
    """
    if not len(split):
        raise ValueError(f"{title}: there is no image")
    path = cache and cache / f"{_key(source, split)}.npy"
    cached = _read(path) if path and is_main() else None
    if path and is_main():
        path.parent.mkdir(parents=True, exist_ok=True)
    if broadcast_object(cached is not None):
        rows, skipped = cached or (None, [])
    else:
        chunks = feature_blocks(source, split, device, title)
        rows = _written(path, chunks, len(split), source.dtype) if path and is_main() else np.concatenate([*chunks] or [[]])
        skipped = _skipped(split)
        if path and is_main():
            checkpoint.write(path.with_suffix(".json"), json.dumps({"source": source.name, "skipped": skipped}))
    if not is_main():
        return None
    kept = np.setdiff1d(np.arange(len(split)), skipped)
    labels = None if split.labels is None else split.labels.numpy()[kept]
    return Features(rows[kept] if skipped else rows, kept, labels, source.parts or {"pooled": [slice(0, rows.shape[1])]})


def _key(source: Source, split: Images | Streamed) -> str:
    what = [FORMAT, source.name, source.key, Geometry.of(source.size).key, source.channels, source.dtype, split.fingerprint()]
    return f"{source.name.replace(' ', '_')}-{hashlib.sha256(json.dumps(what).encode()).hexdigest()[:20]}"


def _skipped(split: Images | Streamed) -> list[int]:
    """Images that some process could not read: a neighbor replaced them, so their rows do not count."""
    if not isinstance(split, Streamed):
        return []
    names = {name for skipped in gather_objects(split.skipped) for name in skipped}
    return [i for i in range(len(split)) if split.where(i) in names] if names else []


def _read(path: Path) -> tuple[np.ndarray, list[int]] | None:
    """The cached features; None where a file is missing or not whole."""
    try:
        return np.load(path, mmap_mode="r"), json.loads(path.with_suffix(".json").read_text())["skipped"]
    except (OSError, EOFError, ValueError, KeyError):
        return None


def _written(path: Path, chunks: Iterator[np.ndarray], count: int, dtype: str) -> np.ndarray:
    """Blocks one after the other into the cache's file, which is there when it is whole; memory holds one block."""
    with checkpoint.writing(path) as file:
        for i, rows in enumerate(chunks):
            if i == 0:
                header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": (count, rows.shape[1])}
                np.lib.format.write_array_header_1_0(file, header)
            file.write(rows.tobytes())
    return np.load(path, mmap_mode="r")
