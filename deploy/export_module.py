"""The module that is exported: a trained file's model, from images to logits and features."""
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from core.image_size import Size
from deploy import resize_graph
from linear_eval.features import images_of
from vision import artifact, encoders
from vision.pixels import normalize_images
from vision.splits import Images


class ExportModule(nn.Module):
    """B,C,h,w float32, normalized → logits B,K and features B,D of a classifier, features B,D of an encoder.

    includes_preprocessing: the input is B,C,H,W uint8 of any size instead. The module then brings it to the
    input's shape as evaluation does (deploy/resize_graph.py) and normalizes it.
    """

    def __init__(self, model: nn.Module, header: artifact.EncoderHeader, includes_preprocessing: bool):
        super().__init__()
        self.model, self.header, self.includes_preprocessing = model, header, includes_preprocessing
        self.register_buffer("mean", torch.tensor(header.mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(header.std).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        if self.includes_preprocessing:
            images = resize_graph.fitted(images, self.header.spec.geometry) / 255
            images = (images - self.mean) / self.std
        features = artifact.encoder_in(self.model)(images)
        return (features,) if self.header.classes is None else (self.model.head(features), features)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs. Accuracy is measured on the first."""
        return ("features",) if self.header.classes is None else ("logits", "features")

    @property
    def metadata(self) -> dict:
        """What an exported file states: how its input is made, and the names of its classes."""
        spec, header = self.header.spec, self.header
        return {"encoder": spec.name, "preprocess": self.includes_preprocessing, "size": spec.image_size,
                "channels": spec.channels, "mean": list(header.mean), "std": list(header.std),
                "classes": header.classes and list(header.classes), "preprocessing": header.preprocessing.json,
                **({"threshold": header.threshold} if header.multilabel else {})}

    def example(self, count: int) -> Tensor:
        """An input of `count` images of noise, the same in each call."""
        spec, generator = self.header.spec, torch.Generator().manual_seed(0)
        shape = count, *spec.shape
        if self.includes_preprocessing:
            return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        return torch.randn(shape, generator=generator)

    def preprocess(self, split: Images, indices: Tensor) -> np.ndarray:
        """Images of a split as the module's input."""
        images = images_of(split, indices, self.header.spec.geometry, self.header.spec.channels)
        images = images if self.includes_preprocessing else normalize_images(images, self.mean.flatten(), self.std.flatten())
        return images.contiguous().numpy()

    takes = preprocess  # the former name

    def random_batches(self, split: Images, seed: int, size: int = 64) -> Iterator[np.ndarray]:
        """Inputs of `size` images of a split without end, each epoch in a new random order."""
        generator = torch.Generator().manual_seed(seed)
        while True:
            for indices in torch.randperm(len(split), generator=generator).split(size):
                yield self.preprocess(split, indices)


def load(path: str | Path, preprocess: bool = False) -> ExportModule:
    """An encoder file, with its classifier where it has one, in evaluation mode.  Raises ValueError."""
    model, header = artifact.load_whole(path)
    return ExportModule(model, header, preprocess).eval().to(memory_format=torch.channels_last)


def named(name: str, channels: int, size: Size) -> ExportModule:
    """An encoder file, or an encoder by its timm name with random weights.  Raises ValueError."""
    if name.endswith(".safetensors"):
        return load(name)
    torch.manual_seed(0)
    return of_encoder(encoders.create(name, channels, size))


def of_encoder(encoder: nn.Module) -> ExportModule:
    """An encoder without a file, such as one with random weights; its images are normalized already."""
    channels = encoder.spec.channels
    header = artifact.EncoderHeader(encoder.spec, (0.0,) * channels, (1.0,) * channels, encoder.dim, {})
    return ExportModule(encoder.eval(), header, includes_preprocessing=False).to(memory_format=torch.channels_last)
