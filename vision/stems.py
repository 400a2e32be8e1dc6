"""Surgery on the first layers of timm models, in place: stems for small images, fixed patch embeddings."""
from collections.abc import Iterable

import torch
from timm.models import adapt_input_conv
from torch import Tensor, nn


def stem_convolution(model: nn.Module) -> tuple[str, nn.Conv2d] | None:
    """The first convolution, by timm's own note of it, where it is a plain one."""
    name = model.default_cfg.get("first_conv")
    name = name[0] if isinstance(name, (list, tuple)) else name
    module = dict(model.named_modules()).get(name)
    return (name, module) if isinstance(module, nn.Conv2d) else None


def stem_weights(model: nn.Module) -> tuple[str, ...]:
    """The names of an encoder's weights that see the image, by timm's own note: several in models that begin with branches.

    Those of a plain convolution on the image's channels alone.
    """
    first = model.default_cfg.get("first_conv") or ()
    modules, names = dict(model.named_modules()), (first,) if isinstance(first, str) else tuple(first)
    plain = {name: module for name in names if isinstance(module := modules.get(name), nn.Conv2d)}
    return tuple(f"{name}.weight" for name, module in plain.items() if module.in_channels == model.spec.channels)


def adapted_stem(tensors: dict[str, Tensor], names: Iterable[str], base: int, channels: int) -> dict[str, Tensor]:
    """Weights for `base` input channels → for `channels` ones: repeated in turn and scaled by base/channels, so that the sum
    over channels stays what it is; for one channel, their sum. timm's rule (`adapt_input_conv`).

    names: the stem's weights among the tensors.  Raises ValueError where a stem is of another construction.
    """
    out = dict(tensors)
    for name in names:
        try:
            out[name] = adapt_input_conv(channels, tensors[name], base_chans=base)
        except (NotImplementedError, AssertionError) as error:
            shape = tuple(tensors[name].shape)
            raise ValueError(f"{name} of shape {shape} cannot be adapted to {channels} channels") from error
    return out


def adaptation(base: int, channels: int) -> str:
    """What `adapted_stem` does, for the user."""
    if channels == 1:
        return f"stem: the weights of its {base} input channels are added up for the one of these images"
    return (f"stem: channel i of these images' {channels} has the weights of channel i mod {base} of the published {base}, "
            f"times {base}/{channels}")


def small_stem(model: nn.Module, channels: int, image_size: int, stride: int = 1) -> None:
    """Let the first stage see small images whole: stem 3×3, stride 1 (or 2), and no pooling behind it. In place.

    Models whose first layer cuts patches (transformers) keep it: `specify` chose its patch. One whose stem sees every
    pixel anyway (VGG) keeps it too, and loses the last pools where they would leave no pixel.
    """
    stem = stem_convolution(model)
    if stem is None or "patch_embed" in stem[0]:
        return
    name, old = stem
    if old.stride != (1, 1):
        new = nn.Conv2d(channels, old.out_channels, 3, stride=stride, padding=1, bias=old.bias is not None)
        model.set_submodule(name, new)
    if isinstance(getattr(model, "features", None), nn.Sequential):
        _spare_pools(model.features, image_size)
    for pool in ("maxpool", "features.pool0", "stem.pool", "stem_pool"):
        parent, _, last = pool.rpartition(".")
        owner = dict(model.named_modules()).get(parent)
        if owner is not None and isinstance(getattr(owner, last, None), (nn.MaxPool2d, nn.Sequential)):
            setattr(owner, last, nn.Identity())


def _spare_pools(chain: nn.Sequential, side: int) -> None:
    """Out of a chain of plain layers, take the pools wider than what is left of an image of `side` pixels. In place.

    28 → 14 → 7 → 3 → 1: VGG keeps four of its five pools.
    """
    if any(list(layer.children()) for layer in chain):
        return  # blocks, which pad and stride as they like
    for i, layer in enumerate(chain):
        if isinstance(layer, nn.MaxPool2d) and side < layer.kernel_size:
            chain[i] = nn.Identity()
        elif isinstance(layer, nn.MaxPool2d):
            side = (side - layer.kernel_size) // layer.stride + 1
        elif isinstance(layer, nn.Conv2d):
            side = (side + 2 * layer.padding[0] - layer.kernel_size[0]) // layer.stride[0] + 1


def fix_patch_embedding(encoder: nn.Module) -> None:
    """Freeze a ViT's patch embedding and give it fixed 2-D sine-cosine positions (MoCo v3, arXiv 2104.02057, §4.1)."""
    patches = getattr(encoder, "patch_embed", None)
    if patches is None or not hasattr(patches, "proj"):
        raise ValueError(
            f"method=moco_v3_vit needs a vision transformer, not {encoder.spec.name}; "
            "use method=moco_v3 or encoder=vit_…"
        )
    patches.requires_grad_(False)
    fix_positions(encoder)


def fix_positions(encoder: nn.Module) -> None:
    """Give a vision transformer fixed 2-D sine-cosine positions, where it adds positions to its tokens. In place."""
    grid, positions = getattr(getattr(encoder, "patch_embed", None), "grid_size", None), getattr(encoder, "pos_embed", None)
    if grid and isinstance(positions, nn.Parameter) and positions.ndim == 3 and positions.shape[-1] % 4 == 0:
        table = sincos(grid, positions.shape[-1])  # patches,D
        with torch.no_grad():
            positions.zero_()  # class and register tokens stand nowhere
            positions[0, -len(table) :] = table
        positions.requires_grad_(False)


def sincos(grid: tuple[int, int], dim: int) -> torch.Tensor:
    """Sine and cosine of row and column at dim/4 geometric frequencies, 1 … 1/10000.  → rows·columns,dim."""
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    omega = 10000.0 ** -(torch.arange(dim // 4) / (dim // 4))
    y, x = rows.flatten()[:, None] * omega, columns.flatten()[:, None] * omega
    return torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], dim=1)
