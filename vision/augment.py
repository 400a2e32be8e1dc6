"""Augmentation of whole batches on the device: uint8 in, normalized float views out.

An augmentation is a list of views; a view is the SimCLR family's chain (Chen et al. 2020, arXiv 2002.05709, appendix A):

    random resized crop → flip → color jitter → grayscale → Gaussian blur → solarize → normalize

Further operations are off by default: vertical flip, quarter turns, rotation and a policy (RandAugment, TrivialAugment) come
after the flip, each channel's gain and offset, gamma, noise and dropped channels after solarization.

`View.sample_params` turns (seed, epoch, index, view) into parameters, the same whatever the process or worker
(core/counter_rng.py); `render` applies them to the batch (vision/pixels.py). Each image has its own parameters, its own
order of the four jitter operations included, and for given parameters the result is that of torchvision's functional
operations on float tensors.

    uv run python -m vision.augment --data digits        # writes a picture of a batch and its views
"""
import copy
import difflib
import io
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor

from core import cli, counter_rng
from core.image_size import Size, of, sides
from vision import joint, masks
from vision.bands import COLOR, add_noise, adjust_gamma, kept_channels, refuse_color, scale_bands
from vision.color_settings import without_color
from vision.input_sizes import patch_for
from vision.late import LATEST, Late
from vision.pixel_format import PixelFormat
from vision.pixels import color_jitter, gaussian_blur, grayscale, in_unit_range, normalize, resized_crop, solarize, where_
from vision.policy import NONE
from vision.policy import apply as apply_policy
from vision.settings import PictureSettings
from vision.view import PAIRS, View
from vision.view_params import ExtendedParams, ViewParams
from vision.warp import orient, rotation, warp

TOOL = cli.Tool(
    module="vision.augment",
    primary=Path(__file__).resolve().parent / "config" / "augment_picture.yaml",
    searched=(),
    summary="Write a picture of a batch and its views: python -m vision.augment --data digits --augment strong",
    settings=PictureSettings,
)
LOCAL = ("views", "size")  # settings of `local` that a view does not have


class Augmentation:
    """The views of a method's batch, and the data's normalization.

    settings: `View`'s fields. A plain value holds for every view; a list with one entry a view gives each its own.
    local: multi-crop (Caron et al. 2020, arXiv 2006.09882, §3.3): `views` more of them, `size` times as large, with
    settings of their own where `local` has them, else the first view's.
    size: of the images, pixels a side, or height and width. view_size: that of the views as a share of it; an encoder trained
    at somewhat smaller views is better at the images' size (Touvron et al. 2019, arXiv 1906.06423). multiple: views smaller
    than `size` are a multiple of so many pixels a side, as transformers need.
    `clean` and `high_resolution`, among the settings, are of later stages of a run (vision/late.py): `staged` makes those.
    mean, std: one figure a channel, for images in [0, 1]. `pixels`, an attribute: how files are read that are no 8-bit gray
    or RGB ones; the encoder's header keeps the three.
    """

    def __init__(
        self,
        size: Size,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        views: int = 2,
        local: dict | None = None,
        multiple: int = 1,
        view_size: float = 1.0,
        **settings,
    ):
        local_views({"local": local})
        local = {"views": 0, "size": 1.0} | (local or {})
        self.late = Late.of({name: settings.pop(name, None) for name in LATEST})
        self.clean_size: Size | None = None  # of clean views; None: there are none
        self.whole, self.multiple = views, multiple
        names = [f.name for f in fields(View) if f.name != "size"]
        _refuse_unknown("augment", settings, ["views", "local", "view_size", *names])
        _refuse_unknown("augment.local", local, [*LOCAL, *names])
        if not isinstance(views, int) or views < 1:
            raise ValueError(f"augment.views={views}: a whole number, 1 or more")
        for name, share in (("view_size", view_size), ("local.size", local["size"])):
            if type(share) not in (int, float) or not 0 < share <= 1:
                raise ValueError(f"augment.{name}={share}: a share of image_size, more than 0 and at most 1")
        self.size = size if view_size == 1 else _share_of(size, view_size, multiple)
        self.local_size = _share_of(size, local["size"], multiple)
        self.views = [
            View(self.size, **{name: _of_view(name, value, i, views) for name, value in settings.items()})
            for i in range(views)
        ]
        own = {name: value for name, value in local.items() if name not in LOCAL and value is not None}
        own = {name: _of_view(f"local.{name}", value, 0, 1) for name, value in own.items()}
        self.views += [replace(self.views[0], size=self.local_size, **own)] * local["views"]
        self.mean, self.std = torch.tensor(mean), torch.tensor(std)
        self.pixels: PixelFormat | None = None
        for view in self.views:
            refuse_color(len(self.mean), view.color)
            if view.drop_channel and len(self.mean) == 1:
                raise ValueError(f"augment.drop_channel={view.drop_channel}: these images have one channel: set it to 0")
        if self.late.clean and (named := next((v.policy for v in self.views[:views] if v.policy != NONE), None)):
            raise ValueError(f"augment.clean.size={self.late.clean:g}: augment.policy={named} bends crops, so that clean ones "
                             "do not match; set one of the two to its default")

    def staged(self, larger: bool, clean: bool) -> "Augmentation":
        """A copy for a stage of a run: with the larger crops of `high_resolution`, and with clean views."""
        made, factor = copy.copy(self), self.late.size if larger else 1.0
        if larger:
            made.size, made.local_size = (_share_of(size, factor, self.multiple) for size in (self.size, self.local_size))
            made.views = [replace(view, size=_share_of(view.size, factor, self.multiple)) for view in self.views]
        made.clean_size = _share_of(made.size, self.late.clean, self.multiple) if clean and self.late.clean else None
        return made

    @property
    def crops(self) -> list[tuple[Size, int]]:
        """(size, number of the view whose box it has) of all that is cut from an image: the views, then clean ones."""
        clean = [(self.clean_size, i) for i in range(self.whole)] if self.clean_size else []
        return [*((view.size, i) for i, view in enumerate(self.views)), *clean]

    def sample_params(self, seed: int, epoch: int, indices: Tensor, height, width) -> list[ViewParams]:
        """One `ViewParams` a view for the images at `indices` (B int64), `height` and `width` (B, or scalars) large."""
        return [view.sample_params(seed, epoch, indices, i, height, width) for i, view in enumerate(self.views)]

    def render(self, images: Tensor | list[Tensor], params: list[ViewParams]) -> list[Tensor]:
        """Whole images (B,C,H,W uint8), or a list of each view's crops (B,C,h,w uint8) → B,C,h,w float a view.

        h and w are `size`, and `local_size` for local crops.
        """
        cropped = isinstance(images, list)
        sources = images if cropped else [images] * len(params)
        sizes = [view.size for view in self.views]
        if sources[0].device.type != "cpu":
            return joint.render(render_by_torch, sources, params, sizes, (self.mean, self.std), cropped)
        drawn = zip(sources, params, sizes, strict=True)
        return [render(source, p, size, self.mean, self.std, cropped) for source, p, size in drawn]

    def render_clean(self, images: Tensor | list[Tensor], params: list[ViewParams]) -> list[Tensor]:
        """Clean views: each global crop's box, flip and turns, and nothing else of its parameters.

        images: whole ones, or a list of crops of `clean_size` → B,C,S,S float a global crop; none where there is no such size
        """
        if self.clean_size is None:
            return []
        cropped = isinstance(images, list)
        sources = images if cropped else [images] * self.whole
        return [
            render(source, p.clean(), self.clean_size, self.mean, self.std, cropped)
            for source, p in zip(sources, params[: self.whole], strict=True)
        ]


def _share_of(size: Size, share: float, multiple: int) -> Size:
    return of(*(max(multiple, round(side * share / multiple) * multiple) for side in sides(size)))


def several_sizes(settings: dict) -> bool:
    """Does an encoder see views of other sizes than its own, by the settings of an augmentation?"""
    late = Late.of(settings)
    return local_views(settings) > 0 or settings.get("view_size", 1.0) != 1 or late.clean not in (0, 1) or late.larger


def local_views(settings: dict) -> int:
    """The number of local crops in the settings of an augmentation."""
    local = settings.get("local") or {}
    if not isinstance(local, dict):
        raise ValueError(f"augment.local={local}: settings such as {{views: 6, size: 0.43}}")
    count = local.get("views", 0)
    if type(count) is not int or count < 0:
        raise ValueError(f"augment.local.views={count}: a whole number, 0 or more")
    return count


def _refuse_unknown(where: str, settings: dict, names: list[str]) -> None:
    if unknown := sorted(set(settings) - set(names)):
        near = difflib.get_close_matches(unknown[0], names, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
        raise ValueError(f"{where}.{unknown[0]} is not a setting; {hint}")


def _of_view(name: str, value, view: int, views: int):
    """A setting for one of the views: a list gives each its own; a pair such as `crop` nests one level deeper."""
    is_pair = name.removeprefix("local.") in PAIRS
    nested = (list, tuple)
    if isinstance(value, nested) and (not is_pair or any(isinstance(v, nested) for v in value)):
        if len(value) != views:
            raise ValueError(f"augment.{name} lists {len(value)} values for {views} views: give one, or one a view")
        value = value[view]
    numbers = value if is_pair and isinstance(value, nested) else [value]
    if name.removeprefix("local.") == "policy":
        return value  # a text, which `policy.check` looks at
    if len(numbers) != 1 + is_pair or not all(type(v) in (int, float) for v in numbers):
        needed = "two numbers, [smallest, largest]" if is_pair else "a number"
        raise ValueError(f"augment.{name}={value}: needs {needed}")
    return tuple(numbers) if is_pair else value


def render(
    images: Tensor, params: ViewParams, size: Size, mean: Tensor, std: Tensor, cropped: bool = False
) -> Tensor:
    """One view of a batch.  images: B,C,H,W uint8, or float32 in 0..1 → B,C,h,w float32, normalized, channels-last.

    size: h and w. cropped: the images are the crops already, resized to it, and only the flip is left to do of the geometry.
    """
    if images.device.type == "cpu" and not images.is_floating_point():  # on first use: half a second, more to compile
        if isinstance(params, ExtendedParams) or images.shape[1] not in COLOR:
            from vision import kernels_extended as kernels
        else:
            from vision import kernels
        return kernels.render(images, params, size, mean, std, cropped)
    device = images.device
    return render_by_torch(images, params.to(device), size, mean.to(device), std.to(device), cropped)


def render_by_torch(
    images: Tensor, params: ViewParams, size: Size, mean: Tensor, std: Tensor, cropped: bool = False
) -> Tensor:
    """`render` by whole-batch operations: what a GPU runs, and what the compiled kernel is tested against."""
    if cropped:
        own = images.clone() if images.is_floating_point() else in_unit_range(images)  # where_ changes its input
        x = where_(params.flip, lambda x: x.flip(-1), own)
    else:
        x = resized_crop(images, params.box, params.flip, size)
    extended = isinstance(params, ExtendedParams)
    x = _reshaped(x, params) if extended else x
    x = color_jitter(x, params.jitter, params.order, params.factors)
    if x.shape[1] == 3:
        x = where_(params.grey, grayscale, x)
    x = where_(params.blur, gaussian_blur, x, params.sigma)
    x = where_(params.solarize, solarize, x)
    x = _with_other_levels(x, params) if extended else x
    x = normalize(x, mean, std)
    if extended and params.drop_margin.shape[1]:
        x = x * kept_channels(params.drop_margin, x.shape[1])[:, :, None, None]
    return x.contiguous(memory_format=torch.channels_last)


def _reshaped(x: Tensor, params: ExtendedParams) -> Tensor:
    """Vertical flip, quarter turns, rotation and a policy.  x: B,C,h,w in [0, 1] → the same"""
    x = orient(x, params.vflip, params.turns)
    if params.angle.shape[1]:
        x = warp(x, rotation(params.angle[:, 0]))
    return apply_policy(x, params.ops, params.magnitudes)


def _with_other_levels(x: Tensor, params: ExtendedParams) -> Tensor:
    """Gain and offset of each channel, gamma and noise.  x: B,C,h,w in [0, 1] → the same"""
    if params.gain.shape[1]:
        x = scale_bands(x, params.gain, params.offset)
    if params.gamma.shape[1]:
        x = adjust_gamma(x, params.gamma)
    if params.noise.shape[1]:
        x = add_noise(x, params.noise, params.noise_key)
    return x


ABOUT_PICTURE = "Images above, and views of each below, as the method sees them in the first epoch"


def picture(
    images: Tensor, augmentation: Augmentation, seed: int = 0, indices: Tensor | None = None,
    veiled: Callable[[Tensor, Tensor, int], Tensor] = lambda view, indices, number: view,
) -> bytes:
    """A PNG: images in the first row, their views of epoch 0 below.  images: B,C,H,W uint8; indices: B, else 0, 1, …

    veiled(view in [0, 1], indices, its number) → the view as it is to be drawn.
    """
    from PIL import Image

    indices = torch.arange(len(images)) if indices is None else indices
    views = augmentation.render(images, augmentation.sample_params(seed, 0, indices, *images.shape[2:]))
    mean, std = augmentation.mean[:, None, None], augmentation.std[:, None, None]
    views = [veiled((view * std + mean).clamp(0, 1), indices, i) for i, view in enumerate(views)]
    views = [torch.nn.functional.interpolate(view, images.shape[2:]) for view in views]  # local crops as large
    grid = torch.stack([in_unit_range(images), *views])  # rows,B,C,S,S
    grid = grid[:, :, : 3 if grid.shape[2] >= 3 else 1]  # of more bands, the first three
    grid = torch.nn.functional.pad(grid, (1, 1, 1, 1), value=1.0)
    grid = rearrange(grid, "rows b c h w -> (rows h) (b w) c")
    array = (grid * 255).round().to(torch.uint8).expand(-1, -1, 3).numpy()
    scale = max(1, 96 // max(sides(augmentation.size)))
    image = Image.fromarray(array).resize((array.shape[1] * scale, array.shape[0] * scale), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def main() -> int:
    return cli.main(TOOL, draw_picture)


def mask_veil(settings: PictureSettings) -> Callable[[Tensor, Tensor, int], Tensor]:
    """A function that fades the patches of a view which a method of these masks would hide.  Raises ValueError"""
    patch = settings.patch or patch_for(settings.image_size)

    def veiled(view: Tensor, indices: Tensor, number: int) -> Tensor:
        height, width = view.shape[2:]
        grid = height // patch, width // patch
        if min(grid) < 2:
            raise ValueError(f"patch={patch}: a view of {height}×{width} px must have 2×2 patches at least; take a smaller one")
        words = masks.words(settings.seed, 0, indices, number, masks.words_needed(grid[0] * grid[1]))
        sizes = masks.block_sizes(settings.seed, 0, grid)
        mask = masks.example(settings.masks, words, grid, settings.mask_ratio, sizes)
        hidden = mask.view(-1, 1, *grid).float().repeat_interleave(patch, 2).repeat_interleave(patch, 3)
        rim = width - grid[1] * patch, height - grid[0] * patch  # which no patch covers
        hidden = torch.nn.functional.pad(hidden, (0, rim[0], 0, rim[1]))
        return torch.where(hidden > 0, 0.5 + 0.2 * (view - 0.5), view)

    return veiled if settings.masks != "none" else lambda view, indices, number: view


def draw_picture(settings: PictureSettings) -> None:
    """The first `batch_size` images that a run of these settings sees, and their views."""
    from vision.data import build_data

    dataset = build_data(settings)
    augment = without_color(cli.plain(settings.augment), dataset.channels)
    augmentation = Augmentation(settings.image_size, dataset.mean, dataset.std, **augment)
    indices = counter_rng.permutation(settings.seed, 0, len(dataset.pretrain))[: settings.batch_size]
    path = Path("runs", f"augment-{settings.data.name}.png") if settings.out == "auto" else cli.expand(settings.out)
    resized = dataset.pretrain.resized(indices, augmentation.size)
    png = picture(resized, augmentation, settings.seed, indices, mask_veil(settings))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png)
    except OSError as error:
        raise ValueError(f"out={path} cannot be written: {error.strerror}") from None
    shown = "" if settings.masks == "none" else f", with patches of {settings.masks} masks faint"
    print(f"{path}: {len(indices)} images of {settings.data.name} above their {len(augmentation.views)} views{shown}")


if __name__ == "__main__":
    sys.exit(main())
