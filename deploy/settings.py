# ruff: noqa: RUF009 (`option` makes fields)
"""The settings of the deployment tools, beside those of every tool. No torch here."""
from dataclasses import dataclass

from core import image_size
from core.image_size import Size
from core.settings import CommonSettings, Group, Settings, option

FRAMEWORKS = ("torch", "torch.compile", "onnxruntime", "TensorRT")
KINDS = ("structured", "unstructured")
INT8 = ("auto", "static", "channel", "mixed", "dynamic", "torchao", "trained", "none")


@dataclass(frozen=True)
class ExportSettings(CommonSettings):
    encoder: str | None = option(None, "an encoder.safetensors or classifier.safetensors", path="weights")
    augment: Group | None = option(None, "views are not made here; data sets may say how")
    preprocess: bool = option(False, "include resizing and normalization: the file's input is images of any size, as bytes")
    int8: str = option("auto", "static | channel | mixed | dynamic | torchao | trained; auto: the first that passes; none")
    int8_steps: int = option(200, "of 64 training images each, for `trained`")
    calibration: int = option(512, "training images that the ranges of INT8 are measured on")
    most_lost: float = option(1.0, "points of accuracy that INT8 may cost")
    smaller: bool = option(False, "keep INT8 for its size where it is not faster")
    against: str | None = option(
        None, "another file that is measured beside it, such as the one before pruning",
        path="weights",
    )
    gallery: int = option(0, "training images to leave as files, for deploy.serve to look for neighbours among")
    torchscript: bool = option(False, "write TorchScript too, which torch no longer develops")
    mobile: bool = option(False, "write ExecuTorch files (.pte) for phones too: uv sync --group mobile", original_default=False)
    batch: int = option(64, "images of the larger batch that is timed, beside one")
    threads: int = option(0, "of the CPU, for every version; 0: all cores")


@dataclass(frozen=True)
class PruneSettings(CommonSettings):
    encoder: str | None = option(None, "an encoder.safetensors or classifier.safetensors", path="weights")
    augment: Group | None = option(None, "views are not made here; data sets may say how")
    kind: str = option("structured", "structured (whole channels: faster) | unstructured (single weights: zeros, no faster)")
    keep: float = option(0.5, "share of the multiply-adds to keep, at most; of unstructured: of the weights")
    multiple: int = option(8, "keep channels in multiples of this, for vector instructions")


@dataclass(frozen=True)
class LatencySettings(Settings):
    encoders: str = option(
        "small", "small, timm names, encoder.safetensors and classifier.safetensors, by commas",
        path="weights",
    )
    frameworks: str = option("torch,torch.compile,onnxruntime", "of these, and TensorRT where it is installed, by commas")
    batches: str = option("1,8,64", "images at once, by commas")
    threads: str = option("0", "of the CPU, several by commas; 0: all cores")
    image_size: Size = option(
        224, "of encoders by name: pixels a side, or 96x128 (height, width); beside a file, its own unless it is given",
        parse=image_size.parse,
    )
    channels: int = option(3, "of encoders by name, unless a file is beside them: then its own")
    device: str = option("cpu", "cpu | cuda", affects_result=False)
    out: str = option("auto", "folder; auto: runs/latency-…", affects_result=False, path="folder")


@dataclass(frozen=True)
class ServeSettings(Settings):
    model: str | None = option(None, "an ONNX file of deploy.export, which states its input and its classes")
    gallery: str | None = option(None, "folder of images to search for neighbors; its sub-folders are their classes")
    host: str = option("127.0.0.1", "127.0.0.1: this machine only; 0.0.0.0: any machine that reaches it")
    port: int = option(8000, "0: any that is free")
    threads: int = option(0, "of the model; 0: all cores")
    batch: int = option(32, "images in a batch of the model, at most")
    waiting: int = option(256, "images that wait for the model, at most; more are refused with 429")
    megabytes: float = option(10, "of an upload, at most")
    megapixels: float = option(40, "of an image, at most")
    top: int = option(5, "classes in a response")
    count: int = option(8, "neighbors in a response, unless the request has ?count=")


def check_file(settings) -> None:
    """Raises ValueError where settings.encoder is no encoder file."""
    if settings.encoder is None or not settings.encoder.endswith(".safetensors"):
        raise ValueError(f"encoder={settings.encoder}: give a file, such as runs/…/classifier.safetensors")
    if getattr(settings, "normalization", "auto") != "auto":
        raise ValueError(f"normalization={settings.normalization}: the file has its own; leave it out")
    if getattr(settings, "image_fit", "auto") != "auto":
        raise ValueError(f"image_fit={settings.image_fit}: the file has its own; leave it out")
