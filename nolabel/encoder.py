"""Encoder files as torch modules: loading, preprocessing, features."""
import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Union

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor, nn

    from vision.artifact import EncoderHeader

Picture = Union[str, os.PathLike, "Image", np.ndarray]


@dataclass(frozen=True)
class Encoder:
    """An encoder file, read.

    model: B,C,H,W → B,D features, in evaluation mode; any torch module's methods work. Of a classifier's file, its encoder.
    header: what the file states: spec, mean, std, dim, classes, origin (vision/artifact.py).
    """

    model: "nn.Module"
    header: "EncoderHeader"

    def preprocess(self, image: Picture) -> "Tensor":
        """What the model takes for an image: C,H,W float32.

        image: a path; a PIL image; or an array H,W or H,W,3 of 8 bits, RGB. It is turned upright, and transparency is laid over
        white, as in evaluation.  Raises ValueError for what is no image, or not one of the encoder's kind.
        """
        import torch

        how = self.header.preprocessing
        return torch.from_numpy(how.normalized(_pixels(image, how)))

    def encode(self, images: Iterable[Picture], batch_size: int = 64, device: str = "auto") -> np.ndarray:
        """The features of images, in their order: N,D float32.  device: auto | cpu | cuda.  Raises as `preprocess`"""
        import torch

        from core.run import counting

        pictures = [images] if isinstance(images, (str, os.PathLike)) or hasattr(images, "mode") else _listed(images)
        where = torch.device("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else torch.device(device)
        model, rows = self.model.to(where), [np.zeros((0, self.header.dim), np.float32)]
        with counting("features") as progress, torch.inference_mode():
            for start in range(0, len(pictures), batch_size):
                batch = torch.stack([self.preprocess(image) for image in pictures[start : start + batch_size]])
                rows.append(model(batch.to(where)).float().cpu().numpy())
                progress(min(start + batch_size, len(pictures)), len(pictures))
        return np.concatenate(rows)


def load(file: str | os.PathLike[str]) -> Encoder:
    """An encoder.safetensors or classifier.safetensors of nolabel.  Raises ValueError where it is none."""
    from vision import artifact

    return Encoder(*artifact.load(Path(file).expanduser()))


def encode(
    encoder: Encoder | str | os.PathLike[str], images: Iterable[Picture], batch_size: int = 64, device: str = "auto"
) -> np.ndarray:
    """`Encoder.encode`, of a file or a loaded encoder.  → N,D float32"""
    return (encoder if isinstance(encoder, Encoder) else load(encoder)).encode(images, batch_size, device)


def _listed(images: Iterable[Picture]) -> Sequence[Picture]:
    if isinstance(images, np.ndarray) and (images.ndim < 3 or images.shape[2:] == (3,)):
        raise ValueError(f"images: an array of shape {images.shape} is one image; give a list of images")
    return [*images]


def _pixels(image: Picture, how) -> np.ndarray:
    """→ C,H,W as `Preprocessing.normalized` takes it.  how: Preprocessing"""
    from PIL import Image

    from vision.decode import Unreadable

    if isinstance(image, (str, os.PathLike)):
        path = Path(image).expanduser()
        try:
            return how.read(io.BytesIO(path.read_bytes()))
        except (Unreadable, OSError) as error:
            raise ValueError(f"{path}: cannot be used: {getattr(error, 'strerror', None) or error}") from error
    if how.pixels is not None:
        raise ValueError("images: this encoder was trained on bands with a range of their own; give paths of files")
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
            raise ValueError(f"images: an array of {image.dtype} and shape {image.shape}; give 8 bits, H,W or H,W,3")
        image = Image.fromarray(image)
    if not isinstance(image, Image.Image):
        raise ValueError(f"images: a {type(image).__name__} is no path, PIL image or array")
    return how.pixels_of(image)
