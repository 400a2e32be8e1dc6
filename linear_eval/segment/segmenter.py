"""An encoder with a decoder, trained on masks by the loop of all methods."""
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.method import Batch, Method, Output, Record, Traits, at_least_fp32, check_natural
from linear_eval.segment.decoders import DECODERS, GROUPS, build, last_map, pyramid, resized
from vision.layers import rates
from vision.segmentation import IGNORED, Masks
from vision.streamed import threads
from vision.tokens import abilities, grid

TRAINS = ("all", "decoder")
PROBE = 256  # pixels a side of the image that shows a convolutional encoder's stride
BORDER = 1e-4  # pixels: more than the rounding of a box
SMOOTH = 1.0  # pixels added above and below a Dice coefficient, so that it is defined


@dataclass(frozen=True)
class PixelLabels(Record):
    labels: Tensor  # B,h,w int64, IGNORED where there is none


class Segmenter(Method):
    """Cross-entropy over the labelled pixels, and `dice` times the Dice loss, both of each image by itself, then their mean.

    masks: of the images to train on; a view's mask is cut out of them by the view's box. decoder: of DECODERS; width: its
    channels (of fpn and unet). trains: "all", or "decoder" with the encoder frozen in evaluation mode. layer_decay: each
    layer's learning rate as a share of the next one's (Clark et al. 2020, arXiv 2003.10555).
    """

    traits = Traits(views=1, per_image=True, local_crops=False)

    def __init__(
        self, encoder: nn.Module, masks: Masks, classes: int, decoder: str = "linear", width: int = 64, dice: float = 0.0,
        trains: str = "all", layer_decay: float = 1.0,
    ):
        super().__init__()
        _check(decoder, width, trains, layer_decay)
        check_natural(dice=dice)
        self.encoder, self.masks, self.dice, self.trains = encoder, masks, dice, trains
        self.maps_of = last_map if decoder == "linear" else pyramid
        self.stride = _stride(encoder)
        dims = [x.shape[1] for x in self._shapes()]
        self.decoder = build(decoder, dims, width, classes, encoder.spec.channels)
        scales = {}
        if trains == "decoder":
            encoder.requires_grad_(False)
        elif layer_decay < 1:
            scales = {f"encoder.{name}": share for name, share in rates(encoder, layer_decay).items()}
        self.traits = replace(self.traits, lr_scale=scales)
        self.train()

    def train(self, mode: bool = True) -> "Segmenter":
        super().train(mode)
        if self.trains == "decoder":
            self.encoder.eval()
        return self

    def logits(self, images: Tensor) -> Tensor:
        """Scores of the classes, bilinear up to the images' size.  B,C,h,w normalized → B,K,h,w

        A convolutional encoder whose stride does not divide a side gets the image with that side continued by reflection.
        """
        h, w = images.shape[2:]
        wide = _padded(images, self.stride)
        with torch.set_grad_enabled(self.trains == "all" and torch.is_grad_enabled()):
            maps = self.maps_of(self.encoder, wide)
        return resized(self.decoder(maps, wide), wide.shape[2:])[:, :, :h, :w]

    def embed(self, batch: Batch) -> Tensor:
        return self.logits(batch.views[0])  # B,K,h,w

    def targets(self, batch: Batch) -> PixelLabels:
        indices, boxes, size = batch.indices.tolist(), batch.boxes[0].tolist(), batch.views[0].shape[2:]
        with ThreadPoolExecutor(threads()) as pool:
            labels = list(pool.map(lambda index, box: cut_mask(self.masks[index], box, size), indices, boxes))
        return PixelLabels(torch.from_numpy(np.stack(labels)).long().to(batch.views[0].device))

    def objective(self, features: Tensor, targets: PixelLabels, progress: float) -> Output:
        logits, labels = at_least_fp32(features), targets.labels
        loss = cross_entropy(logits, labels)
        if self.dice:
            loss = loss + self.dice * dice_loss(logits, labels)
        has_label = labels != IGNORED
        right = ((logits.argmax(1) == labels) & has_label).sum((1, 2)) / has_label.sum((1, 2)).clamp(min=1)
        return Output(loss, {"train_pixel_accuracy": right.mean() * 100})  # of images, so that processes add up

    @torch.no_grad()
    def _shapes(self) -> list[Tensor]:
        modes = {module: module.training for module in self.encoder.modules()}
        self.encoder.eval()
        try:
            like = next(self.encoder.parameters())
            return self.maps_of(self.encoder, _padded(like.new_zeros(1, *self.encoder.spec.shape), self.stride))
        finally:
            for module, mode in modes.items():
                module.training = mode


def cut_mask(mask: np.ndarray, box: Sequence[float], size: Sequence[int]) -> np.ndarray:
    """The labels of a view's pixels: those at their centers.  mask: H,W; box: as `Batch.boxes`; size: h,w → h,w

    A center on the border of two pixels has the label of the latter, as in torchvision's NEAREST_EXACT, whatever the rounding.
    """
    top, left, height, width, flip = box
    rows, columns = (
        np.clip(np.floor((start + (np.arange(count) + 0.5) / count * length) * side + BORDER), 0, side - 1).astype(int)
        for start, length, count, side in zip((top, left), (height, width), size, mask.shape, strict=True)
    )
    return mask[rows][:, columns[::-1] if flip else columns]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over an image's labelled pixels, then over images; 0 of an image without any.  B,K,h,w and B,h,w"""
    each = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none")  # 0 at ignored pixels
    return (each.sum((1, 2)) / (labels != IGNORED).sum((1, 2)).clamp(min=1)).mean()


def dice_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """1 − 2·Σ p·t / (Σ p + Σ t) of the classes that an image shows, their mean, then that of images (Milletari et al. 2016,
    arXiv 1606.04797, without squares).  Ignored pixels are in no sum; an image without labels has 0.  B,K,h,w and B,h,w"""
    has_label = (labels != IGNORED)[:, None]
    p = logits.softmax(1) * has_label
    t = F.one_hot(labels.where(labels != IGNORED, 0), logits.shape[1]).permute(0, 3, 1, 2) * has_label
    true = t.sum((2, 3))  # B,K
    dice = (2 * (p * t).sum((2, 3)) + SMOOTH) / (p.sum((2, 3)) + true + SMOOTH)
    shown = true > 0
    return (((1 - dice) * shown).sum(1) / shown.sum(1).clamp(min=1)).mean()


@torch.no_grad()
def _stride(encoder: nn.Module) -> int:
    """Pixels of the image that a cell of the coarsest map covers; 1 for encoders whose image size is fixed."""
    if "tokens" in abilities(encoder):
        return 1
    try:
        return max(1, PROBE // grid(encoder, PROBE)[0])
    except (AssertionError, RuntimeError, ValueError):  # a window transformer refuses other sizes
        return 1


def _padded(images: Tensor, multiple: int) -> Tensor:
    """Continued to the right and below by reflection; by repetition where less than the padding is there."""
    h, w = images.shape[2:]
    padding = (0, -w % multiple, 0, -h % multiple)
    if not any(padding):
        return images
    return F.pad(images, padding, mode="reflect" if padding[1] < w and padding[3] < h else "replicate")


def _check(decoder: str, width: int, trains: str, layer_decay: float) -> None:
    wrong = {}
    if decoder not in DECODERS:
        wrong[f"decoder={decoder}"] = f"one of {', '.join(DECODERS)}"
    if not (isinstance(width, int) and width > 0 and width % (2 * GROUPS) == 0):
        wrong[f"width={width}"] = f"a multiple of {2 * GROUPS}"
    if trains not in TRAINS:
        wrong[f"trains={trains}"] = f"one of {', '.join(TRAINS)}"
    if not 0 < layer_decay <= 1:
        wrong[f"layer_decay={layer_decay}"] = "more than 0, at most 1 (1: all layers alike)"
    if layer_decay < 1 and trains == "decoder":
        wrong[f"layer_decay={layer_decay}"] = "1 with trains=decoder: no layer of the encoder learns"
    for setting, right in wrong.items():
        raise ValueError(f"method.{setting}: must be {right}")
