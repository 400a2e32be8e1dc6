"""encoder.safetensors: an encoder's weights and how to rebuild it, in one file. The only thing the tools exchange.

The tensors carry timm's names. The header holds one JSON text under "nolabel": the encoder's spec, how images are made
into its input (vision/preprocess.py; files without that entry mean the same way), its features, and where it came from.
Loading is strict and runs no pickle. A fine-tuned classifier is the same file with its last layer in it too: it loads as an
encoder wherever one is needed, and as a whole by `load_classifier`.
"""
import json
from dataclasses import dataclass, replace
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from core.errors import SettingError
from core.shard import gathered
from vision import attention, cifar, classic, encoders, searched
from vision.augment import Augmentation
from vision.geometry import LETTERBOX, SQUASH, Geometry
from vision.listing import class_name
from vision.pixel_format import PixelFormat
from vision.preprocess import Preprocessing, check_known

FORMAT = 1
HEAD = ".classifier."  # torch refuses modules and parameters without a name, so no model's own name starts with a dot
OURS = {"classic": classic.__all__, "cifar": cifar.__all__, "searched": searched.__all__}  # what a file adds to timm's registry


@dataclass(frozen=True)
class EncoderHeader:
    """What the header of an encoder file states."""

    spec: encoders.Spec
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dim: int
    origin: dict
    classes: tuple[str, ...] | None = None  # of the classifier that the file holds too
    pixels: PixelFormat | None = None  # how files are read that are no 8-bit gray or RGB ones
    threshold: float | None = None  # of a classifier of images with several labels: the probability that names a class

    @property
    def multilabel(self) -> bool:
        """Does the classifier give an image several labels, each class by a probability of its own?"""
        return self.threshold is not None

    @property
    def preprocessing(self) -> Preprocessing:
        """What makes an image into the encoder's input."""
        return _preprocessing(self.spec, self)


Card = EncoderHeader  # its name in older programs


class Classifier(nn.Module):
    """B,C,H,W → B,K: logits over classes."""

    def __init__(self, encoder: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(images))


def dumps(
    encoder: nn.Module, moments: Augmentation | EncoderHeader, origin: dict, head: nn.Linear | None = None,
    classes: tuple[str, ...] | None = None, threshold: float | None = None,
) -> bytes:
    """The file's bytes: a function of weights and arguments alone, so equal runs leave equal files.  As `contents`"""
    return safetensors.torch.save(*contents(encoder, moments, origin, head, classes, threshold))


def contents(
    encoder: nn.Module, moments: Augmentation | EncoderHeader, origin: dict, head: nn.Linear | None = None,
    classes: tuple[str, ...] | None = None, threshold: float | None = None,
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The file's tensors and header.  Collective where the encoder is sharded; then the main process alone has the tensors.

    moments: its `mean` and `std` normalize the encoder's input, which is read by its `pixels`.
    head, classes: a classifier on the encoder's features, and its classes' names in the order of its outputs.
    threshold: where an image may have several labels, the probability (sigmoid of an output) from which on a class is named.
    """
    header = {
        "format": FORMAT,
        "encoder": encoder.spec.json,
        "mean": _rounded(moments.mean),
        "std": _rounded(moments.std),
        "dim": encoder.dim,
        "origin": origin | ({"weights": loaded.json} if (loaded := getattr(encoder, "loaded", None)) else {}),
        "preprocessing": _preprocessing(encoder.spec, moments).json,
    }
    state = encoder.state_dict()
    if head is not None:
        assert (head.in_features, head.out_features) == (encoder.dim, len(classes))
        header["classes"] = list(classes)
        header |= {} if threshold is None else {"threshold": float(threshold)}
        state = state | {HEAD + name: t for name, t in head.state_dict().items()}
    return gathered(state), {"nolabel": json.dumps(header, sort_keys=True)}


def _preprocessing(spec: encoders.Spec, moments: Augmentation | EncoderHeader) -> Preprocessing:
    mean, std = tuple(_rounded(moments.mean)), tuple(_rounded(moments.std))
    return Preprocessing(spec.image_size, spec.channels, mean, std, getattr(moments, "pixels", None), spec.fit)


def fill_of(fit: str, mean) -> tuple[float, ...]:
    """The padding of images that are fitted so: of a letterbox the mean, as files state it."""
    return tuple(_rounded(mean)) if fit == LETTERBOX else ()


def _rounded(values) -> list[float]:
    return [round(float(value), 6) for value in values]


def read_header(path: str | Path) -> EncoderHeader:
    """The header alone.  Raises ValueError when the file is not one of ours."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise SettingError("encoder", f"{path}: no such file")
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {})["nolabel"])
        if header["format"] != FORMAT:
            raise ValueError(f"format {header['format']}, this version reads {FORMAT}")
        check_known(stated := header.get("preprocessing", {}))
        pixels = PixelFormat.of(stated["pixels"]) if "pixels" in stated else None
        spec = encoders.Spec.of(header["encoder"])
        classes = tuple(map(class_name, header["classes"])) if "classes" in header else None  # older files': as on their disk
        mean, std = tuple(header["mean"]), tuple(header["std"])
        return EncoderHeader(spec, mean, std, header["dim"], header["origin"], classes, pixels, header.get("threshold"))
    except (SafetensorError, KeyError, TypeError, AttributeError, ValueError, OSError) as error:
        raise SettingError("encoder", f"{path} is not an encoder.safetensors of nolabel: {_line(error)}") from error


def load(path: str | Path, several_sizes: bool = False) -> tuple[nn.Module, EncoderHeader]:
    """The encoder in evaluation mode, and its header.  Strict: every weight must be there and fit. A classifier's last layer
    is left out.

    several_sizes: it is to take other sizes than its own too (`encoders.create`).
    """
    header = read_header(path)
    if several_sizes and "img_size" in header.spec.arguments:
        header = replace(header, spec=replace(header.spec, arguments=header.spec.arguments | {"dynamic_img_size": True}))
    encoder = encoders.build_resizable(header.spec)
    header = replace(header, spec=encoder.spec)
    weights, _ = _tensors(path, header)
    _fill(encoder, weights, path, header)
    return encoder.eval(), header


def load_classifier(path: str | Path) -> tuple[Classifier, EncoderHeader]:
    """The whole classifier in evaluation mode, and its header.  Raises ValueError where the file holds an encoder alone."""
    encoder, header = load(path)
    if header.classes is None:
        raise SettingError("encoder", f"{path} holds an encoder without a classifier; fine-tune it first")
    _, weights = _tensors(path, header)
    head = nn.Linear(header.dim, len(header.classes), bias="bias" in weights)
    _fill(head, weights, path, header)
    return Classifier(encoder, head).eval(), header


def load_whole(path: str | Path) -> tuple[nn.Module, EncoderHeader]:
    """The classifier where the file holds one, else the encoder, in evaluation mode, and its header."""
    return load(path) if read_header(path).classes is None else load_classifier(path)


def encoder_in(model: nn.Module) -> nn.Module:
    """Of what `load_whole` gives, the encoder."""
    return model.encoder if isinstance(model, Classifier) else model


def _tensors(path: str | Path, header: EncoderHeader) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The encoder's weights, and its classifier's where the header names classes."""
    try:
        weights = safetensors.torch.load_file(Path(path).expanduser())
    except (SafetensorError, OSError) as error:
        raise _misfit(path, header, error) from error
    of_head = [name for name in weights if header.classes is not None and name.startswith(HEAD)]
    head = {name.removeprefix(HEAD): weights.pop(name) for name in of_head}
    return weights, head


def _fill(module: nn.Module, tensors: dict[str, torch.Tensor], path: str | Path, header: EncoderHeader) -> None:
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise _misfit(path, header, error) from error


def _misfit(path: str | Path, header: EncoderHeader, error: Exception) -> ValueError:
    return SettingError("encoder", f"{path}: its weights do not fit {header.spec.name}: {_line(error)}")


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def snippet(header: EncoderHeader, path: str) -> str:
    """A few lines of plain timm that load the file and make its input: what report.md and the README show.

    They leave `model` and `prepare`: a PIL image, or an open file of an image with bands, → 1,C,S,S.  Models that timm lacks
    need one line of ours more, which puts them into its registry.
    """
    spec = header.spec
    extra = "".join(f", {k}={v!r}" for k, v in spec.arguments.items())
    weights = f"safetensors.torch.load_file({path!r})"
    if header.classes is not None:  # without the classifier
        weights = f"{{name: t for name, t in {weights}.items() if name[0] != '.'}}"
    lines = [
        *(f"from vision import {module}" for module, models in OURS.items() if spec.name.split(".")[0] in models),
        f"model = timm.create_model({spec.name!r}, num_classes=0, in_chans={spec.channels}{extra}).eval()",
        *_surgery(spec),
        f"model.load_state_dict({weights})",
        *(_input(header.preprocessing) if header.pixels is None else _bands(path)),
    ]
    return "\n".join(line for line in lines if line)


def _input(how: Preprocessing) -> list[str]:
    """The lines that make the encoder's input, in torchvision, which timm needs anyway, and Pillow."""
    mode, size = ("L" if how.channels == 1 else "RGB"), how.size
    normalize = f"v2.ToDtype(torch.float32, scale=True), v2.Normalize({list(how.mean)}, {list(how.std)})"
    if not how.geometry.is_center_square:
        return [
            "from torchvision.transforms import v2; from PIL import Image, ImageOps",
            f"steps = v2.Compose([v2.PILToTensor(), {normalize}])",
            f"shape = lambda image: {_shaped(how.geometry)}",
            f"prepare = lambda image: steps(shape(ImageOps.exif_transpose(image).convert({mode!r})))[None]",
        ]
    return [
        "from torchvision.transforms import v2; from PIL import ImageOps",
        f"steps = v2.Compose([v2.Resize({size}), v2.CenterCrop({size}), v2.PILToTensor(), {normalize}])",
        f"prepare = lambda image: steps(ImageOps.exif_transpose(image).convert({mode!r}))[None]",
    ]


def _bands(path: str) -> list[str]:
    """The same for images that are no 8-bit gray or RGB ones: their reader is ours.  They leave `prepare`, of an open file."""
    return [
        f"from vision.preprocess import preprocessing_in; how = preprocessing_in({path!r})",
        "prepare = lambda file: torch.from_numpy(how.normalized(how.read(file)))[None]  # of an open file",
    ]


def _shaped(geometry: Geometry) -> str:
    """What brings a Pillow image to the input's shape, in Pillow."""
    size = f"({geometry.width}, {geometry.height}), Image.Resampling.BILINEAR"
    if geometry.fit == LETTERBOX:
        levels = [round(255 * value) for value in geometry.fill]
        return f"ImageOps.pad(image, {size}, color={levels[0] if len(levels) == 1 else tuple(levels)})"
    return f"image.resize({size})" if geometry.fit == SQUASH else f"ImageOps.fit(image, {size})"


def has_surgery(spec: encoders.Spec) -> bool:
    """Is the model another than the one that timm builds from the spec's name and arguments?"""
    return any(_surgery(spec))


def _surgery(spec: encoders.Spec) -> list[str]:
    """What `stems.small_stem` and `attention.attach` changed in timm's model, as Python."""
    before = dict(encoders.timm_model(spec).named_modules())
    stemmed = encoders.build(replace(spec, attention="none", pruned={}))
    changed = []
    for name, module in stemmed.named_modules():
        if repr(module) == repr(before[name]):
            continue
        if isinstance(module, nn.Identity):
            changed.append((name, "torch.nn.Identity()"))
        elif type(module) is nn.Conv2d:
            stride = "" if module.stride == (1, 1) else f", stride={module.stride[0]}"
            bias = "" if module.bias is not None else ", bias=False"
            new = f"torch.nn.Conv2d({module.in_channels}, {module.out_channels}, 3{stride}, padding=1{bias})"
            changed.append((name, new))
    stem = "; ".join(f"model.set_submodule({name!r}, {new})" for name, new in changed)
    narrower = [f"from vision.pruned import reshape; reshape(model, {spec.pruned!r})"] if spec.pruned else []
    return [stem, *(attention.lines(stemmed) if spec.attention == "cbam" else []), *narrower]
