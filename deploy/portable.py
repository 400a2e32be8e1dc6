"""A trained file as one module that can leave: images in, logits or features out."""
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from core.errors import RunError
from deploy import resize_graph
from linear_eval.features import evenly, images_of, normalize_images
from linear_eval.knn import knn_accuracy
from vision import artifact, encoders
from vision.splits import Dataset, Images

BLOCK = 250  # images an answer
BANK = 10_000  # training images whose features vote, for an encoder


class Portable(nn.Module):
    """B,C,S,S float32, normalised → logits B,K and features B,D of a classifier, features B,D of an encoder.

    preprocess: B,C,H,W uint8 of any size instead; the center square is taken as for evaluation (deploy/resize_graph.py).
    """

    def __init__(self, model: nn.Module, card: artifact.Card, preprocess: bool):
        super().__init__()
        self.model, self.card, self.preprocess = model, card, preprocess
        self.register_buffer("mean", torch.tensor(card.mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(card.std).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        if self.preprocess:
            images = resize_graph.center_square(images, self.card.spec.image_size) / 255
            images = (images - self.mean) / self.std
        features = artifact.encoder_in(self.model)(images)
        return (features,) if self.card.classes is None else (self.model.head(features), features)

    @property
    def answers(self) -> tuple[str, ...]:
        """What its outputs are; the first is what it is judged by."""
        return ("features",) if self.card.classes is None else ("logits", "features")

    @property
    def says(self) -> dict:
        """What whoever runs its file must know: how the input is made, and the classes' names."""
        spec, card = self.card.spec, self.card
        return {"encoder": spec.name, "preprocess": self.preprocess, "size": spec.image_size, "channels": spec.channels,
                "mean": list(card.mean), "std": list(card.std), "classes": card.classes and list(card.classes),
                "preprocessing": card.preprocessing.json}

    def example(self, count: int) -> Tensor:
        """Noise of the shape that it takes, the same each time."""
        spec, dice = self.card.spec, torch.Generator().manual_seed(0)
        shape = count, spec.channels, spec.image_size, spec.image_size
        if self.preprocess:
            return torch.randint(0, 256, shape, dtype=torch.uint8, generator=dice)
        return torch.randn(shape, generator=dice)

    def takes(self, split: Images, indices: Tensor) -> np.ndarray:
        """A split's images as it takes them."""
        images = images_of(split, indices, self.card.spec.image_size, self.card.spec.channels)
        images = images if self.preprocess else normalize_images(images, self.mean.flatten(), self.std.flatten())
        return images.contiguous().numpy()

    def drawn(self, split: Images, seed: int, count: int = 64) -> Iterator[np.ndarray]:
        """`count` images of a split at a time, in random order, again and again."""
        dice = torch.Generator().manual_seed(seed)
        while True:
            for part in torch.randperm(len(split), generator=dice).split(count):
                yield self.takes(split, part)


def load(path: str | Path, preprocess: bool = False) -> Portable:
    """A file of ours, with its classifier where it has one, in evaluation mode.  Raises ValueError."""
    model, card = artifact.load_whole(path)
    return Portable(model, card, preprocess).eval().to(memory_format=torch.channels_last)


def named(name: str, channels: int, size: int) -> Portable:
    """A file of ours, or an encoder by its timm name with random weights.  Raises ValueError."""
    if name.endswith(".safetensors"):
        return load(name)
    torch.manual_seed(0)
    encoder = encoders.create(name, channels, size).eval()
    card = artifact.Card(encoder.spec, (0.0,) * channels, (1.0,) * channels, encoder.dim, {})
    return Portable(encoder, card, preprocess=False).to(memory_format=torch.channels_last)


def outputs(answer, portable: Portable, split: Images, indices: Tensor | None = None) -> np.ndarray:
    """What a version answers to a split's images, or to some of them.  → N,K or N,D.  ValueError where it is not finite."""
    indices = torch.arange(len(split)) if indices is None else indices
    found = np.concatenate([answer(portable.takes(split, part)) for part in indices.split(BLOCK)])
    if not np.isfinite(found).all():
        raise ValueError(f"encoder={portable.card.spec.name}: its outputs are not finite")
    return found


def accuracy(answer, portable: Portable, data: Dataset, split: Images) -> float:
    """Per cent: of a classifier its own, of an encoder kNN's."""
    found = outputs(answer, portable, split)
    if portable.card.classes is not None:
        return float((found.argmax(1) == split.labels.numpy()).mean() * 100)
    bank = data.train.select(evenly(len(data.train), BANK))
    known = torch.from_numpy(outputs(answer, portable, bank))
    return knn_accuracy(known, bank.labels, torch.from_numpy(found), split.labels, len(data.classes))


def write_gallery(data: Dataset, folder: Path, count: int, size: int | None = None) -> None:
    """`count` training images, evenly drawn, as PNG files in a folder a class: what `deploy.serve --gallery` looks among.

    size: the encoder's input in pixels; a file of that size is taken as it is, so that its features are those of evaluation.
    None: the data's own.  Files are read again before the folder gets its name.  Raises RunError where one is not what it was.
    """
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        for index in evenly(len(data.train), count):
            pixels = data.train.resized(index[None], size or data.image_size)[0].permute(1, 2, 0).numpy()  # H,W,C
            name = data.classes[int(data.train.labels[index])].replace("/", "-")
            path = temporary / name / f"{int(index):06d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(path)
            with Image.open(path) as image:
                if not np.array_equal(np.asarray(image).reshape(pixels.shape), pixels):
                    raise RunError(f"{folder}: {path.name} was not read as it was written; is the disk in order?")
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
