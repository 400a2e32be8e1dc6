"""A folder of images that are no 8-bit gray or RGB ones → a data set, with range, mean and deviation of its training images."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import torch
from PIL import Image

from vision import decode
from vision.decode import Unreadable
from vision.pixel_format import PERCENTILES, PixelFormat, PixelRequest
from vision.preprocess import Preprocessing
from vision.raster import SUFFIXES
from vision.raster_split import RasterFiles
from vision.raster_stats import Moments, moments, needs_percentiles, percentiles, probe
from vision.splits import Collection, Dataset, assemble
from vision.streamed import Files, Progress, Streamed

LOOKED_AT = 16  # files of a folder that are looked at, to see whether they are read as gray or RGB


def assemble_rasters(
    collection: Collection, request: PixelRequest | Preprocessing, max_corrupt: float, validation: float, seed: int,
    progress: Progress | None = None,
) -> Dataset:
    """The data set of what was collected, float32 in 0..1.

    request: the data settings; or an encoder's preprocessing, whose figures then hold, so that nothing is measured. Range, mean
    and standard deviation are those of the training images alone. Raises ValueError, one line, with the fix.
    """
    if isinstance(request, Preprocessing):
        known = request.pixels
    else:
        bare = PixelFormat(1, (0.0,), (1.0,), (0.0,), reading=request.reading)
        known = probe(RasterFiles.of(collection.splits["train"], bare), request)
    splits = {role: RasterFiles.of(split, known) for role, split in collection.splits.items()}
    dataset = assemble(replace(collection, splits=splits), max_corrupt, validation, seed, progress)
    if isinstance(request, Preprocessing):
        note = f"images of {_bands(known)} are read as the encoder's file says: scaled to 0..1 {_scale(known)}"
        return _with_format(dataset, known, Moments(request.mean, request.std, ()), (note,))
    measured = needs_percentiles(request, known)
    if measured:
        known = percentiles(RasterFiles.of(dataset.train, known))
    figures = moments(RasterFiles.of(dataset.train, known))
    known = replace(known, fill=figures.mean)
    return _with_format(dataset, known, figures, _notes(request, known, figures, measured))


def _with_format(dataset: Dataset, how: PixelFormat, figures: Moments, notes: tuple[str, ...]) -> Dataset:
    def of(split: Streamed) -> RasterFiles:
        return RasterFiles.of(split, how)

    train = of(dataset.train)
    pretrain = train if dataset.pretrain is dataset.train else of(dataset.pretrain)  # with images that have no label
    return replace(
        dataset, pretrain=pretrain, train=train, validation=of(dataset.validation), test=of(dataset.test),
        channels=how.channels, mean=figures.mean, std=figures.std, pixels=how, notes=[*dataset.notes, *notes],
    )


def _bands(how: PixelFormat) -> str:
    return "1 band" if how.channels == 1 else f"{how.channels} bands"


def _scale(how: PixelFormat) -> str:
    if how.reading.window:
        return "by each file's own window"
    pairs = [f"{low:g} to {high:g}" for low, high in zip(how.low, how.high, strict=True)]
    if len({*pairs}) == 1:
        return f"from {pairs[0]}"
    return f"per band, from {', '.join(pairs[:3])}{', …' if len(pairs) > 3 else ''}"


def _notes(request: PixelRequest, how: PixelFormat, figures: Moments, measured: bool) -> tuple[str, ...]:
    if measured:
        low, high = PERCENTILES
        scale = f"{_scale(how)}, the {low:g} and {high:g} percentiles of the training images"
        scale += "" if request.range else "; data.range=[low,high] declares a range"
    else:
        scale = _scale(how) + ("; data.range=[low,high] declares one in the modality's units" if how.reading.window else "")
    notes = [f"images of {_bands(how)} are read as numbers and scaled to 0..1 {scale}"]
    if figures.constant:
        which = ("channel " if len(figures.constant) == 1 else "channels ") + ", ".join(map(str, figures.constant))
        notes.append(f"{which} of the input: the same value in all training images")
    return tuple(notes)


# -------------------------------------------------------------------------------------------------- gray and RGB, or not


def unreadable_otherwise(split: Streamed, max_corrupt: float) -> bool:
    """Whether more TIFFs of a split than may be left out cannot be read as gray or RGB, but have bands that can be."""
    if not isinstance(split, Files):
        return False
    looked = torch.linspace(0, len(split) - 1, min(LOOKED_AT, len(split))).long().tolist()
    plain = RasterFiles.of(split, PixelFormat(1, (0.0,), (1.0,), (0.0,)))

    def only_as_bands(index: int) -> bool:
        if split.path(index).suffix.lower() not in (".tif", ".tiff"):
            return False
        try:
            split.read(index, at_least=1)
        except Unreadable:
            try:
                return plain.raster(index).pixels.shape[2] > 1
            except Unreadable:
                return False
        return False

    return sum(map(only_as_bands, looked)) > max_corrupt * len(looked)


def with_notes(dataset: Dataset) -> Dataset:
    """The data set, with a note where reading 8 bits of gray or RGB leaves something out of its files."""
    split = dataset.train
    if not isinstance(split, Files) or isinstance(split, RasterFiles):
        return dataset
    lost = Counter()
    for index in torch.linspace(0, len(split) - 1, min(LOOKED_AT, len(split))).long().tolist():
        lost[_left_out(split, index)] += 1
    lost.pop("", None)
    others = Counter({kind: n for kind, n in dataset.ignored.items() if kind.encode() in SUFFIXES - decode.SUFFIXES})
    notes = [what for what, _ in lost.most_common()]
    if others:
        kinds = ", ".join(f"{n:,} {kind}" for kind, n in others.items())
        notes.append(f"{kinds} left out beside other images; data.range or data.bands takes all of them, as numbers")
    return replace(dataset, notes=[*dataset.notes, *notes])


def _left_out(split: Files, index: int) -> str:
    """What reading 8 bits of gray or RGB leaves out of a file; "" where nothing."""
    try:
        with split.open(index) as file:
            head = file.read(26)
            file.seek(0)
            image = decode.identify(file)
            deep_png = head[:4] == b"\x89PNG" and head[24:25] == b"\x10"
            deep = deep_png or image.mode == "F" or image.mode.startswith("I")
            pages = getattr(image, "n_frames", 1) if image.format == "TIFF" else 1
    except (OSError, Unreadable, ValueError, SyntaxError, Image.DecompressionBombError):
        return ""
    if deep:
        return "some images have more than 8 bits a channel, of which 8 are kept: data.range=[low,high] or percentile keeps all"
    if pages > 1:
        return "some TIFFs have several pages, of which the first is used: data.bands takes pages as bands"
    return ""
