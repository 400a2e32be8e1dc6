"""The 15 + 4 corruptions of ImageNet-C at five severities (Hendrycks and Dietterich 2019, arXiv 1903.12261).

A corrupted image is a function of (seed, its index, corruption, severity), whatever the batch. There are two tables of
constants: CIFAR-C's for images of up to SMALL pixels on the shorter side, ImageNet-C's, for 224 pixels, for larger ones.
The images are not those of the published files: the random numbers are others, frost has computed textures in place of
photographs, and nothing is saved as JPEG afterwards, as ImageNet-C's files are.

    uv run python -m vision.corruptions --data digits        # draws every corruption at every severity
"""
import io
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from core import cli
from vision.corruption_blur import defocus_blur, gaussian_blur, glass_blur, motion_blur, zoom_blur
from vision.corruption_digital import contrast, elastic_transform, jpeg, pixelate, saturate
from vision.corruption_draws import Draws
from vision.corruption_noise import gaussian_noise, impulse_noise, shot_noise, speckle_noise
from vision.corruption_weather import brightness, fog, frost, snow, spatter
from vision.pixels import in_unit_range
from vision.raster import shown
from vision.settings import CorruptionSheetSettings
from vision.streamed import threads

SMALL = 64  # pixels of the shorter side, up to which images have CIFAR-C's constants
SEVERITIES = (1, 2, 3, 4, 5)
AT_ONCE = 2**20  # numbers that one thread corrupts at a time
GRAY_OR_RGB, RGB = (1, 3), (3,)


@dataclass(frozen=True)
class Corruption:
    """apply: (x B,C,H,W float32 in [0, 1], constants, draws) → B,C,H,W.

    small, large: the constants of the five severities. channels: what it takes; (): any. extra: none of the 15 that the mean
    corruption error is over.
    """

    family: str  # noise | blur | weather | digital
    apply: Callable[[np.ndarray, Any, Draws], np.ndarray]
    small: tuple
    large: tuple
    channels: tuple[int, ...] = ()
    extra: bool = False


# The order numbers the random streams: new ones are appended.
CORRUPTIONS = {
    "gaussian_noise": Corruption("noise", gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10), (0.08, 0.12, 0.18, 0.26, 0.38)),
    "shot_noise": Corruption("noise", shot_noise, (500, 250, 100, 75, 50), (60, 25, 12, 5, 3)),
    "impulse_noise": Corruption("noise", impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07), (0.03, 0.06, 0.09, 0.17, 0.27)),
    "defocus_blur": Corruption(
        "blur", defocus_blur, ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    ),
    "glass_blur": Corruption(
        "blur", glass_blur, ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
        ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    ),
    "motion_blur": Corruption(
        "blur", motion_blur, ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)), ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    ),
    "zoom_blur": Corruption(
        "blur", zoom_blur, ((1.05, 0.01), (1.1, 0.01), (1.15, 0.01), (1.2, 0.01), (1.25, 0.01)),
        ((1.1, 0.01), (1.15, 0.01), (1.2, 0.02), (1.25, 0.02), (1.3, 0.03)),
    ),
    "snow": Corruption(
        "weather", snow,
        ((0.1, 0.2, 1, 0.6, 8, 3, 0.95), (0.1, 0.2, 1, 0.5, 10, 4, 0.9), (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
         (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85), (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8)),
        ((0.1, 0.3, 3, 0.5, 10, 4, 0.8), (0.2, 0.3, 2, 0.5, 12, 4, 0.7), (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
         (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65), (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55)),
        GRAY_OR_RGB,
    ),
    "frost": Corruption(
        "weather", frost, ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
        ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)), GRAY_OR_RGB,
    ),
    "fog": Corruption(
        "weather", fog, ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
        ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
    ),
    "brightness": Corruption("weather", brightness, (0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": Corruption("digital", contrast, (0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05)),
    "elastic_transform": Corruption(
        "digital", elastic_transform,
        ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
        tuple(tuple(244 / 224 * share for share in shares) for shares in (
            (2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02))),
    ),
    "pixelate": Corruption("digital", pixelate, (0.95, 0.9, 0.85, 0.75, 0.65), (0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg_compression": Corruption("digital", jpeg, (80, 65, 58, 50, 40), (25, 18, 15, 10, 7)),
    "speckle_noise": Corruption(
        "noise", speckle_noise, (0.06, 0.1, 0.12, 0.16, 0.2), (0.15, 0.2, 0.35, 0.45, 0.6), extra=True,
    ),
    "gaussian_blur": Corruption("blur", gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1), (1, 2, 3, 4, 6), extra=True),
    "spatter": Corruption(
        "weather", spatter,
        ((0.62, 0.1, 0.7, 0.7, 0.5, 0), (0.65, 0.1, 0.8, 0.7, 0.5, 0), (0.65, 0.3, 1, 0.69, 0.5, 0),
         (0.65, 0.1, 0.7, 0.69, 0.6, 1), (0.65, 0.1, 0.5, 0.68, 0.6, 1)),
        ((0.65, 0.3, 4, 0.69, 0.6, 0), (0.65, 0.3, 3, 0.68, 0.6, 0), (0.65, 0.3, 2, 0.68, 0.5, 0),
         (0.65, 0.3, 1, 0.65, 1.5, 1), (0.67, 0.4, 1, 0.65, 1.5, 1)),
        GRAY_OR_RGB, extra=True,
    ),
    "saturate": Corruption(
        "digital", saturate, ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
        ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)), RGB, extra=True,
    ),
}  # fmt: skip


def fitting(channels: int) -> list[str]:
    """The corruptions of images of so many channels."""
    return [name for name, one in CORRUPTIONS.items() if not one.channels or channels in one.channels]


def check(name: str, severity: int, channels: int) -> Corruption:
    """Raises ValueError for a corruption that there is not, or not for images of so many channels."""
    if name not in CORRUPTIONS:
        raise ValueError(f"corruption {name}: there are {', '.join(CORRUPTIONS)}")
    if severity not in SEVERITIES:
        raise ValueError(f"severity {severity}: must be 1, 2, 3, 4 or 5")
    found = CORRUPTIONS[name]
    if found.channels and channels not in found.channels:
        needed = "RGB images" if found.channels == RGB else "gray or RGB images"
        raise ValueError(f"corruption {name}: needs {needed}, and these have {channels} channels; there are "
                         f"{', '.join(fitting(channels))}")
    return found


def corrupt(images: Tensor, indices: Tensor, name: str, severity: int, seed: int = 0) -> Tensor:
    """images: B,C,H,W uint8, or float32 in [0, 1]; indices: B int64, of the images in their split → the same shape and type

    Raises ValueError as `check`.
    """
    corruption = check(name, severity, images.shape[1])
    table = corruption.small if min(images.shape[2:]) <= SMALL else corruption.large
    number = list(CORRUPTIONS).index(name)

    def part(rows: Tensor) -> Tensor:
        x = in_unit_range(images[rows]).numpy()
        out = corruption.apply(x, table[severity - 1], Draws(seed, indices[rows], number, severity))
        out = torch.from_numpy(np.ascontiguousarray(out, np.float32)).clamp_(0, 1)
        return out if images.is_floating_point() else (out * 255).round_().to(torch.uint8)

    parts = torch.arange(len(images)).split(max(1, AT_ONCE // max(1, images[0].numel()))) if len(images) else ()
    with ThreadPoolExecutor(threads()) as pool:
        done = list(pool.map(part, parts))
    return torch.cat(done) if done else images


# ---------------------------------------------------------------------------------------------------------------- the sheet

TOOL = cli.Tool(
    module="vision.corruptions",
    primary=Path(__file__).resolve().parent / "config" / "corruption_sheet.yaml",
    searched=(),
    summary="Draw an image under every corruption: python -m vision.corruptions --data digits",
    settings=CorruptionSheetSettings,
)
SHOWN, NAMES, GAP = 64, 130, 4  # pixels: least side of a picture, width of the names, space between pictures


def sheet(image: Tensor, index: int, seed: int = 0) -> bytes:
    """A PNG: a row a corruption, the image itself and the five severities.  image: C,H,W uint8 or float32 in [0, 1]"""
    C, H, W = image.shape
    scale = max(1, -(-SHOWN // min(H, W)))
    wide, high = W * scale + GAP, H * scale + GAP
    names = fitting(C)
    page = Image.new("RGB", (NAMES + 6 * wide, len(names) * high + GAP), "white")
    write = ImageDraw.Draw(page)
    for i, name in enumerate(names):
        write.text((GAP, i * high + high // 2 - 6), name.replace("_", " "), fill="black")
        row = [image, *(corrupt(image[None], torch.tensor([index]), name, s, seed)[0] for s in SEVERITIES)]
        for j, one in enumerate(row):
            pixels = shown(one.numpy()).transpose(1, 2, 0).squeeze()
            picture = Image.fromarray(pixels).resize((W * scale, H * scale), Image.Resampling.NEAREST)
            page.paste(picture, (NAMES + j * wide, i * high + GAP))
    buffer = io.BytesIO()
    page.save(buffer, "PNG")
    return buffer.getvalue()


def draw_sheet(settings: CorruptionSheetSettings) -> None:
    """Of one of the data set's images for pretraining, at `image_size`."""
    from vision.data import build_data

    dataset = build_data(settings)
    if settings.image >= len(dataset.pretrain):
        raise ValueError(f"image={settings.image}: there are {len(dataset.pretrain):,} images, from 0 on")
    path = Path("runs", f"corruptions-{settings.data.name}.png") if settings.out == "auto" else cli.expand(settings.out)
    pixels = dataset.pretrain.resized(torch.tensor([settings.image]), settings.image_size)[0]
    png = sheet(pixels, settings.image, settings.seed)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png)
    except OSError as error:
        raise ValueError(f"out={path} cannot be written: {error.strerror}") from None
    absent = [name for name in CORRUPTIONS if name not in fitting(len(pixels))]
    less = f", without {', '.join(absent)}, which images of {len(pixels)} channels cannot have" if absent else ""
    print(f"{path}: image {settings.image} of {settings.data.name}, then severities 1 to 5{less}")


def main() -> int:
    return cli.main(TOOL, draw_sheet)


if __name__ == "__main__":
    sys.exit(main())
