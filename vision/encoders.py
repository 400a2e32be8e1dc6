"""Encoders: a timm name, one of our small ones, or an encoder.safetensors → a module B,C,H,W → B,D with `.dim`.

Every encoder is a timm model without its classifier, so its weights carry timm's names and plain timm can load them;
`vision.classic` adds LeNet-5 and AlexNet to timm's registry, `vision.cifar` the small networks of the distillation
literature, `vision.searched` networks of many shapes, `vision.attention` a CBAM behind each stage (attention="cbam").
Inputs of up to 64 pixels get a small-image stem: the first convolution 3×3 with stride 1, and no pooling after it, so
the first stage sees the image at its own resolution. Transformers get patches an eighth of the image long instead. Ours
halve images over 16 pixels in their stem ("half"), with which two CPU cores train on four times the images an hour.
Published weights come by timm's names for them, by `hf-hub:owner/model` or by `local-dir:path`.
"""
import difflib
import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace

import timm
import torch
from timm.models._hub import load_model_config_from_hf, load_model_config_from_path
from torch import nn

from core.errors import SettingError
from core.image_size import Size, sides, size_text
from vision import attention as attentions
from vision import cifar, classic, pruned, searched  # noqa: F401, registers their models
from vision.geometry import CROP, Geometry
from vision.input_sizes import cut_patches, is_small, patch_for, smaller_sizes
from vision.pixels import LUMA
from vision.stems import small_stem, stem_convolution

STEMS = ("auto", "small", "half", "full")
PATCHED = ("vit_", "deit", "eva", "beit", "mixer_", "flexivit")  # timm families whose patch size is an argument

SOURCES = {  # where timm finds a folder of config.json and weights
    "hf-hub": load_model_config_from_hf, "hf_hub": load_model_config_from_hf, "local-dir": load_model_config_from_path,
}

# ResNet-D (He et al. 2019, arXiv 1812.01187) with one block a stage and half of ResNet-18's width (our default), or a quarter;
# DeiT's tiny and small transformer (Touvron et al. 2021, arXiv 2012.12877) with patches of 4 pixels, for images of 28 to 64
# (2 for smaller ones); four of its twelve blocks, for minutes of a CPU.
NAMED = {
    "small": ("resnet18d", {"layers": (1, 1, 1, 1), "channels": (32, 64, 128, 256), "stem_width": 16}),
    "tiny": ("resnet18d", {"layers": (1, 1, 1, 1), "channels": (16, 32, 64, 128), "stem_width": 8}),
    "vit_tiny_patch4": ("vit_tiny_patch16_224", {"patch_size": 4}),
    "vit_tiny_patch4_depth4": ("vit_tiny_patch16_224", {"patch_size": 4, "depth": 4}),
    "vit_small_patch4": ("vit_small_patch16_224", {"patch_size": 4}),
}


@dataclass(frozen=True)
class Spec:
    """How to build an encoder again, anywhere."""

    name: str  # as timm knows it
    channels: int = 3
    image_size: Size = 224  # pixels a side, or height and width
    stem: str = "full"  # small | half | full
    arguments: dict = field(default_factory=dict)  # for timm.create_model
    attention: str = "none"  # none | cbam, behind each stage
    pruned: dict = field(default_factory=dict)  # layer → its weight's shape, where pruning made it narrower
    fit: str = CROP  # how images become its input: of `vision.geometry.Geometry`
    fill: tuple[float, ...] = ()  # of a letterbox, a value a channel

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of an input: channels, height, width."""
        return self.channels, *sides(self.image_size)

    @property
    def geometry(self) -> Geometry:
        return Geometry(*sides(self.image_size), self.fit, self.fill)

    @property
    def json(self) -> dict:
        """Without attention, pruning and fit where there is none: files of before they had a name stay the same bytes."""
        absent = ("attention", "none"), ("pruned", {}), ("fit", CROP), ("fill", ())
        return {name: value for name, value in asdict(self).items() if (name, value) not in absent}

    @staticmethod
    def of(stated: dict) -> "Spec":
        """From its `json`, on which JSON may have left lists for tuples."""
        found = {name: tuples(stated[name]) for name in ("arguments", "pruned") if name in stated}
        return Spec(**stated | found | {name: _tuple(stated[name]) for name in ("image_size", "fill") if name in stated})


def create(
    name: str, channels: int, image_size: Size, stem: str = "auto", pretrained: bool = False, several_sizes: bool = False,
    attention: str = "none",
) -> nn.Module:
    """The encoder that `name` means at this input.

    With stem="auto", small inputs get the small stem where the model works with it; pretrained weights keep their own.
    several_sizes: it is to take other sizes than image_size too (multi-crop); a transformer interpolates its positions.
    attention="cbam": a CBAM behind each stage of a convolutional encoder, untrained also where the rest is pretrained.
    """
    if stem not in STEMS:
        raise ValueError(f"stem={stem}: there are {', '.join(STEMS)}")
    if ":" in name and not pretrained:
        raise SettingError("encoder", f"{name} names published weights; add pretrained=true to use them")
    if pretrained and name in NAMED:
        raise SettingError("encoder", f"{name} has no published weights; use pretrained=false or a timm name")
    if stem == "auto" and is_small(image_size) and not pretrained:
        try:
            transformer = name.startswith(PATCHED)
            small = "half" if name in NAMED and not transformer and max(sides(image_size)) > 16 else "small"
            return build_resizable(specify(name, channels, image_size, small, several_sizes, attention))
        except Unfit:
            pass  # a stem of several branches, say: leave it whole
    spec = specify(name, channels, image_size, "full" if stem == "auto" else stem, several_sizes, attention)
    return build_resizable(spec, name if pretrained else None)


class Unfit(SettingError):
    """The model exists but does not work with this input or stem."""


def specify(
    name: str, channels: int, image_size: Size, stem: str, several_sizes: bool = False, attention: str = "none"
) -> Spec:
    """Name, input and stem → spec.  Raises ValueError with the nearest names when timm has no such model."""
    ours = name in NAMED
    if ":" in name:
        _, name, arguments = _published(name)
    else:
        name, arguments = NAMED.get(name, (name, {}))
    architecture = name.split(".")[0]  # a pretrained tag may follow
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, [*NAMED, *timm.list_models()], 3, 0.5)
        hint = f"did you mean {', '.join(near)}?" if near else "any timm model name works"
        raise SettingError("encoder", f"{name}: no such timm model or file; {hint}")
    arguments = dict(arguments)
    config = timm.get_pretrained_cfg(architecture)
    if (config is not None and config.fixed_input_size) or "img_size" in arguments:
        arguments["img_size"] = image_size
        if stem == "small" and architecture.startswith(PATCHED):
            arguments["patch_size"] = min(4, max(2, min(sides(image_size)) // 4)) if ours else patch_for(image_size)
        if several_sizes:
            arguments["dynamic_img_size"] = True
    return Spec(name, channels, image_size, stem, arguments, attention)


def _published(name: str) -> tuple[dict, str, dict]:
    """hf-hub:… or local-dir:… → the contents of its config.json: (the weights' input, timm's name of the model, arguments)."""
    source, _, place = name.partition(":")
    if source not in SOURCES:
        raise SettingError("encoder", f"{name}: timm's sources are hf-hub:owner/model and local-dir:path")
    try:
        config, architecture, arguments = SOURCES[source](place)
    except Exception as error:  # no network, no file, no JSON, or not timm's
        raise SettingError("encoder", f"{name}: cannot read its config.json: {_line(error)}") from error
    ours = ("num_classes", "in_chans")  # `build` gives them
    return config, architecture, tuples({name: value for name, value in arguments.items() if name not in ours})


def tuples(arguments: dict) -> dict:
    """As JSON gave them → as Python takes them: lists, in lists too, are tuples."""
    return {name: _tuple(value) for name, value in arguments.items()}


def _tuple(value):
    return tuple(map(_tuple, value)) if isinstance(value, list) else value


def pretrained_input(name: str) -> tuple[tuple[float, ...], tuple[float, ...], int] | None:
    """The input that a name's published weights were trained with: (mean and std of its channels, pixels a side).

    None where there are no weights.  Raises ValueError for a tag or a folder that timm does not know.
    """
    if ":" in name:
        config = timm.models.PretrainedCfg(**_published(name)[0])
    elif name in NAMED or not timm.models.is_model_pretrained(name.split(".")[0]):
        return None
    else:
        try:
            config = timm.get_pretrained_cfg(name)
        except RuntimeError as error:
            tags = ", ".join(timm.list_pretrained(name.split(".")[0]))
            raise SettingError("encoder", f"{name}: timm has no such weights; there are {tags}") from error
    return tuple(config.mean), tuple(config.std), config.input_size[-1]


def build(spec: Spec, weights: str | None = None) -> nn.Module:
    """The encoder, with random weights or those that timm finds under a name.  It knows its `.spec` and `.dim` (features
    an image).
    """
    if spec.attention not in attentions.KINDS:
        raise ValueError(f"attention={spec.attention}: there are {', '.join(attentions.KINDS)}")
    model = timm_model(spec, weights)
    if spec.stem != "full":
        try:
            small_stem(model, spec.channels, min(sides(spec.image_size)), stride=2 if spec.stem == "half" else 1)
        except Exception as error:  # a stem of another construction
            raise Unfit("encoder", f"{spec.name} has a stem that stem={spec.stem} cannot replace: {_line(error)}") from error
    model.spec = spec
    if why := cut_patches(spec.image_size, patch_size(model)):
        raise Unfit("image_size", f"{size_text(spec.image_size)}: encoder={spec.name} {why}")
    model.dim = _features(model, spec)
    if spec.attention == "cbam":
        attentions.attach(model, torch.zeros(1, *spec.shape))
    if spec.pruned:
        pruned.reshape(model, spec.pruned)
        model.dim = _features(model, spec)
    return model


def build_resizable(spec: Spec, weights: str | None = None) -> nn.Module:
    """`build`; where a model does not know the spec's `dynamic_img_size`, without it.

    Raises Unfit where the model then takes its own size alone.
    """
    try:
        return build(spec, weights)
    except Unfit:
        if "dynamic_img_size" not in spec.arguments:
            raise
    arguments = {name: value for name, value in spec.arguments.items() if name != "dynamic_img_size"}
    model = build(replace(spec, arguments=arguments), weights)
    if not any(unfit_reason(model, size) is None for size in smaller_sizes(model.spec.image_size, patch_size(model))):
        raise Unfit(
            "encoder", f"{spec.name} takes images of {size_text(spec.image_size)} px alone, and local crops are smaller; set "
            "augment.local.views=0, or use an encoder that takes several sizes, such as resnet18 or vit_tiny_patch16_224"
        )
    return model


@torch.no_grad()
def unfit_reason(model: nn.Module, size: Size) -> str | None:
    """Why an encoder does not take images of this size; None where it does."""
    was_training, like = model.training, next(model.parameters())
    try:
        model.eval()(torch.zeros(2, model.spec.channels, *sides(size), device=like.device))
    except Exception as error:  # timm's models fail in many ways
        return _line(error)
    finally:
        model.train(was_training)
    return None


def timm_model(spec: Spec, weights: str | None = None) -> nn.Module:
    """The spec's model as timm makes it, before any change to its stem."""
    logging.getLogger("timm").setLevel(logging.ERROR)
    try:
        return timm.create_model(
            weights or spec.name, pretrained=weights is not None, num_classes=0, in_chans=spec.channels, **spec.arguments
        )
    except Exception as error:  # timm's constructors and its downloads fail in many ways
        what = "fetch or build it" if weights else "build it"
        size = size_text(spec.image_size)
        raise Unfit("encoder", f"{spec.name}: timm cannot {what} for {size} px: {_line(error)}") from error


def has_new_stem(model: nn.Module) -> bool:
    """Has `small_stem` put a convolution of random weights in place of timm's first one?"""
    if model.spec.stem == "full" or (now := stem_convolution(model)) is None:
        return False
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        before = stem_convolution(timm_model(model.spec))
    return before is not None and repr(before[1]) != repr(now[1])


def _features(model: nn.Module, spec: Spec) -> int:
    was_training = model.training
    try:
        with torch.no_grad():
            shape = model.eval()(torch.zeros(2, *spec.shape)).shape
    except Exception as error:  # IndexError, ZeroDivisionError, TypeError …: as many ways as timm has models
        raise Unfit("encoder", f"{spec.name} does not take {size_text(spec.image_size)} px images: {_line(error)}") from error
    finally:
        model.train(was_training)
    if len(shape) != 2:
        raise SettingError("encoder", f"{spec.name} gives features of shape {tuple(shape[1:])}, not one vector an image")
    return shape[1]


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__


def patch_size(model: nn.Module) -> int:
    """Pixels that an input's sides are a multiple of: a transformer's patch, 1 for others."""
    size = getattr(getattr(model, "patch_embed", None), "patch_size", 1)
    return size[0] if isinstance(size, (tuple, list)) else size


def has_depthwise(model: nn.Module) -> bool:
    return any(isinstance(m, nn.Conv2d) and m.groups > 1 for m in model.modules())


@torch.no_grad()
def has_unreached_weights(model: nn.Module, sizes: Iterable[Size]) -> bool:
    """Whether a convolution has weights that no pixel reaches at one of these image sizes, as 3×3 on a map of one pixel has.

    Their gradient is 0. oneDNN's kernel for bf16 on CPUs leaves it unset instead: what was in memory before, NaN at times
    (torch 2.15; 3×3 of stride 2 on one pixel, the memory filled with NaN first: 20 of 30 backward passes).
    """
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    if not layers:
        return False
    unreached: list[bool] = []
    handles = [layer.register_forward_hook(lambda *call: unreached.append(_leaves_weights(*call))) for layer in layers]
    training, like = model.training, layers[0].weight
    model.eval()
    try:
        for size in sizes:
            model(torch.zeros(1, layers[0].in_channels, *sides(size), device=like.device, dtype=like.dtype))
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return any(unreached)


def _leaves_weights(layer: nn.Conv2d, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> bool:
    """Whether some row or column of the kernel lies outside this input at every place of the output."""
    for i in (0, 1):
        side, count = inputs[0].shape[2 + i], output.shape[2 + i]
        pad = layer.padding[i] if isinstance(layer.padding, tuple) else 0
        starts = [o * layer.stride[i] - pad for o in range(count)]
        offsets = [k * layer.dilation[i] for k in range(layer.kernel_size[i])]
        if any(all(not 0 <= start + offset < side for start in starts) for offset in offsets):
            return True
    return False


def fit_channels(images: torch.Tensor, channels: int) -> torch.Tensor:
    """Gray images for a color encoder are repeated; color ones for a gray encoder become luma.  uint8 or float in and out."""
    if images.shape[1] == channels:
        return images
    if channels == 3:
        return images.expand(-1, 3, -1, -1)
    dtype = images.dtype if images.is_floating_point() else torch.float32
    gray = (images * torch.tensor(LUMA, dtype=dtype, device=images.device)[:, None, None]).sum(1, keepdim=True)
    return gray if images.is_floating_point() else gray.round().to(torch.uint8)
