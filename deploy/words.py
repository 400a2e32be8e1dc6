# ruff: noqa: RUF009 (`word` makes fields)
"""What the tools of this room understand beside what every tool does. No torch here."""
from dataclasses import dataclass
from typing import Any

from core.words import Common, word

FRAMEWORKS = ("torch", "torch.compile", "onnxruntime", "TensorRT")
KINDS = ("structured", "unstructured")
INT8 = ("auto", "static", "channel", "mixed", "dynamic", "torchao", "trained", "none")


@dataclass
class ExportWords(Common):
    encoder: str | None = word(None, "an encoder.safetensors or classifier.safetensors")
    augment: Any = word(None, "views are not made here; data sets may say how")
    preprocess: bool = word(False, "resizing and normalisation inside: the file takes bytes, images of any size")
    int8: str = word("auto", "static | channel | mixed | dynamic | torchao | trained; auto: the first that passes; none")
    int8_steps: int = word(200, "of 64 training images each, that `trained` goes on for")
    calibration: int = word(512, "training images that INT8 ranges are taken from")
    most_lost: float = word(1.0, "points of accuracy that INT8 may cost")
    smaller: bool = word(False, "keep INT8 for its size where it is not faster")
    against: str | None = word(None, "another file that is measured beside it, such as the one before pruning")
    gallery: int = word(0, "training images to leave as files, for deploy.serve to look for neighbours among")
    torchscript: bool = word(False, "a TorchScript file too, which torch no longer develops")
    batch: int = word(64, "images of the larger batch that is timed, beside one")
    threads: int = word(0, "of the CPU, for each version alike; 0: all cores")


@dataclass
class PruneWords(Common):
    encoder: str | None = word(None, "an encoder.safetensors or classifier.safetensors")
    augment: Any = word(None, "views are not made here; data sets may say how")
    kind: str = word("structured", "structured (whole channels: faster) | unstructured (single weights: zeros, no faster)")
    keep: float = word(0.5, "share of the multiply-adds that stays, at most; of unstructured, of the weights")
    multiple: int = word(8, "channels stay in multiples of this, as vectors are wide")


@dataclass
class LatencyWords:
    encoders: str = word("small", "small, timm names, encoder.safetensors and classifier.safetensors, by commas")
    frameworks: str = word("torch,torch.compile,onnxruntime", "of these, and TensorRT where it is installed, by commas")
    batches: str = word("1,8,64", "images at once, by commas")
    threads: str = word("0", "of the CPU, several by commas; 0: all cores")
    image_size: int = word(224, "pixels a side of encoders by name; files have their own")
    channels: int = word(3, "of encoders by name")
    device: str = word("cpu", "cpu | cuda")
    out: str = word("auto", "folder; auto: runs/latency-…")


@dataclass
class ServeWords:
    model: str | None = word(None, "an ONNX file of deploy.export: it tells what it takes and its classes")
    gallery: str | None = word(None, "folder of images to find neighbours in; a folder a class inside gives them classes")
    host: str = word("127.0.0.1", "127.0.0.1: this machine alone; 0.0.0.0: whoever reaches it")
    port: int = word(8000, "0: any that is free")
    threads: int = word(0, "of the model; 0: all cores")
    batch: int = word(32, "images at most that the model sees at once")
    waiting: int = word(256, "images at most that wait for it; more are told to try again")
    megabytes: float = word(10, "of an upload, at most")
    megapixels: float = word(40, "of an image, at most")
    top: int = word(5, "classes in an answer")
    count: int = word(8, "neighbours in an answer, unless it is asked for others")


def check_file(words) -> None:
    """Raises ValueError where no file of ours is named."""
    if words.encoder is None or not words.encoder.endswith(".safetensors"):
        raise ValueError(f"encoder={words.encoder}: say which file, such as runs/…/classifier.safetensors")
