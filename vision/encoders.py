"""Encoders: a timm name, our small default, or an encoder.safetensors → a module B,C,H,W → B,D with `.dim`.

Every encoder is a timm model without its classifier, so its weights carry timm's names and plain timm can load them.
Inputs of up to 64 pixels get a small-image stem: the first convolution 3×3 with stride 1, and no pooling after it, so
the first stage sees the image at its own resolution. Transformers get patches an eighth of the image long instead. Our
default encoder halves images over 16 pixels in its stem ("half"): on two CPU cores four times the images an hour are
worth more.
"""
import difflib
import logging
from dataclasses import asdict, dataclass, field

import timm
import torch
from torch import nn

SMALL_IMAGE = 64  # pixels; up to here stem="auto" means "small"
STEMS = ("auto", "small", "half", "full")
PATCHED = ("vit_", "deit", "eva", "beit", "mixer_", "flexivit")  # timm families whose patch size is an argument

# Our default: ResNet-D (He et al. 2019, arXiv 1812.01187) with one block a stage and half of ResNet-18's width.
NAMED = {
    "small": ("resnet18d", {"layers": (1, 1, 1, 1), "channels": (32, 64, 128, 256), "stem_width": 16}),
}


@dataclass(frozen=True)
class Spec:
    """How to build an encoder again, anywhere."""

    name: str  # as timm knows it
    channels: int = 3
    image_size: int = 224  # pixels a side
    stem: str = "full"  # small | half | full
    arguments: dict = field(default_factory=dict)  # for timm.create_model

    @property
    def json(self) -> dict:
        return asdict(self)


def create(
    name: str, channels: int, image_size: int, stem: str = "auto", pretrained: bool = False, several_sizes: bool = False
) -> nn.Module:
    """The encoder that `name` means at this input.

    With stem="auto", small inputs get the small stem where the model works with it; pretrained weights keep their own.
    several_sizes: a transformer is to take other sizes than image_size too (multi-crop), its positions interpolated.
    """
    if stem not in STEMS:
        raise ValueError(f"stem={stem}: there are {', '.join(STEMS)}")
    if stem == "auto" and image_size <= SMALL_IMAGE and not pretrained:
        try:
            small = "half" if name in NAMED and image_size > 16 else "small"
            return build(specify(name, channels, image_size, small, several_sizes))
        except Unfit:
            pass  # a stem of several branches, say: leave it whole
    return build(specify(name, channels, image_size, "full" if stem == "auto" else stem, several_sizes), pretrained)


class Unfit(ValueError):
    """The model exists but does not work with this input or stem."""


def specify(name: str, channels: int, image_size: int, stem: str, several_sizes: bool = False) -> Spec:
    """Name, input and stem → spec.  Raises ValueError with the nearest names when timm has no such model."""
    name, arguments = NAMED.get(name, (name, {}))
    architecture = name.split(".")[0]  # a pretrained tag may follow
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, [*NAMED, *timm.list_models()], 3, 0.5)
        hint = f"did you mean {', '.join(near)}?" if near else "any timm model name works"
        raise ValueError(f"encoder={name}: no such timm model or file; {hint}")
    arguments = dict(arguments)
    config = timm.get_pretrained_cfg(architecture)
    if config is not None and config.fixed_input_size:
        arguments["img_size"] = image_size
        if stem == "small" and architecture.startswith(PATCHED):
            arguments["patch_size"] = _patch(image_size)
        if several_sizes:
            arguments["dynamic_img_size"] = True
    return Spec(name, channels, image_size, stem, arguments)


def _patch(size: int) -> int:
    """The patch that tiles the image and comes nearest to an eighth of it; where none comes near, an eighth, and the
    embedding leaves out a rim of a few pixels.  28 → 4, 32 → 4, 31 → 3
    """
    tiles = [p for p in range(1, size) if size % p == 0 and size / 16 <= p <= size / 4]
    return min(tiles, key=lambda p: abs(p - size / 8), default=max(1, size // 8))


def build(spec: Spec, pretrained: bool = False) -> nn.Module:
    """The encoder, with random weights or timm's own.  The module knows its `.spec` and `.dim` (features an image)."""
    logging.getLogger("timm").setLevel(logging.ERROR)
    try:
        model = timm.create_model(
            spec.name, pretrained=pretrained, num_classes=0, in_chans=spec.channels, **spec.arguments
        )
    except Exception as error:  # timm's constructors and its downloads fail in many ways
        what = "fetch or build it" if pretrained else "build it"
        raise Unfit(f"encoder={spec.name}: timm cannot {what} for {spec.image_size} px: {_line(error)}") from error
    if spec.stem != "full":
        small_stem(model, spec.channels, stride=2 if spec.stem == "half" else 1)
    model.spec = spec
    model.dim = _features(model, spec)
    return model


def _features(model: nn.Module, spec: Spec) -> int:
    was_training = model.training
    try:
        with torch.no_grad():
            shape = model.eval()(torch.zeros(2, spec.channels, spec.image_size, spec.image_size)).shape
    except (RuntimeError, AssertionError, ValueError) as error:
        raise Unfit(f"encoder={spec.name} does not take {spec.image_size} px images: {_line(error)}") from error
    finally:
        model.train(was_training)
    if len(shape) != 2:
        raise ValueError(f"encoder={spec.name} gives features of shape {tuple(shape[1:])}, not one vector an image")
    return shape[1]


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__


def stem_convolution(model: nn.Module) -> tuple[str, nn.Conv2d] | None:
    """The first convolution, by timm's own note of it, where it is a plain one."""
    name = model.default_cfg.get("first_conv")
    name = name[0] if isinstance(name, (list, tuple)) else name
    module = dict(model.named_modules()).get(name)
    return (name, module) if isinstance(module, nn.Conv2d) else None


def small_stem(model: nn.Module, channels: int, stride: int = 1) -> None:
    """Let the first stage see small images whole: stem 3×3, stride 1 (or 2), and no pooling behind it. In place.

    Models whose first layer cuts patches (transformers) keep it: `specify` chose its patch.
    """
    found = stem_convolution(model)
    if found is None or "patch_embed" in found[0]:
        return
    name, old = found
    if old.stride != (1, 1):
        new = nn.Conv2d(channels, old.out_channels, 3, stride=stride, padding=1, bias=old.bias is not None)
        model.set_submodule(name, new)
    for pool in ("maxpool", "features.pool0", "stem.pool", "stem_pool"):
        parent, _, last = pool.rpartition(".")
        owner = dict(model.named_modules()).get(parent)
        if owner is not None and isinstance(getattr(owner, last, None), (nn.MaxPool2d, nn.Sequential)):
            setattr(owner, last, nn.Identity())


def patch_size(model: nn.Module) -> int:
    """Pixels that an input's sides are a multiple of: a transformer's patch, 1 for others."""
    size = getattr(getattr(model, "patch_embed", None), "patch_size", 1)
    return size[0] if isinstance(size, (tuple, list)) else size


def has_depthwise(model: nn.Module) -> bool:
    return any(isinstance(m, nn.Conv2d) and m.groups > 1 for m in model.modules())


def fix_patch_embedding(encoder: nn.Module) -> None:
    """Freeze a ViT's patch embedding and give it fixed 2-D sine-cosine positions (MoCo v3, arXiv 2104.02057, §4.1)."""
    patches = getattr(encoder, "patch_embed", None)
    if patches is None or not hasattr(patches, "proj"):
        raise ValueError(
            f"method=moco_v3_vit needs a vision transformer, not {encoder.spec.name}; "
            "use method=moco_v3 or encoder=vit_…"
        )
    patches.requires_grad_(False)
    positions = getattr(encoder, "pos_embed", None)
    if isinstance(positions, nn.Parameter) and positions.shape[-1] % 4 == 0:
        table = _sincos(patches.grid_size, positions.shape[-1])  # patches,D
        with torch.no_grad():
            positions.zero_()  # class and register tokens stand nowhere
            positions[0, -len(table) :] = table
        positions.requires_grad_(False)


def _sincos(grid: tuple[int, int], dim: int) -> torch.Tensor:
    """Sine and cosine of row and column at dim/4 geometric frequencies, 1 … 1/10000.  → rows·columns,dim."""
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    omega = 10000.0 ** -(torch.arange(dim // 4) / (dim // 4))
    y, x = rows.flatten()[:, None] * omega, columns.flatten()[:, None] * omega
    return torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], dim=1)


def fit_channels(images: torch.Tensor, channels: int) -> torch.Tensor:
    """Grey images for a colour encoder are repeated; colour ones for a grey encoder become luma.  uint8 in and out."""
    if images.shape[1] == channels:
        return images
    if channels == 3:
        return images.expand(-1, 3, -1, -1)
    weights = torch.tensor([0.2989, 0.587, 0.114], device=images.device)[:, None, None]
    return (images * weights).sum(1, keepdim=True).round().to(torch.uint8)
