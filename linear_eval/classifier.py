"""An encoder with a linear layer on top, trained with labels: all of it, the layer alone, or from the top down."""
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from core.method import Batch, Method, Output, Record, Traits
from linear_eval.losses import class_weights, classification_loss, multilabel_loss, positive_weights
from vision.layers import depths, rates
from vision.mix import blend, masks

TRAINS = ("all", "head", "staged")


@dataclass(frozen=True)
class SoftLabels(Record):
    labels: Tensor  # B,K: one-hot or several of 0 and 1, or mixed as the images are


class Classifier(Method):
    """Cross-entropy and its relatives on the encoder's features.

    trains: "all"; "head", with the encoder frozen in evaluation mode; "staged", where the head comes first and the
        encoder's stages follow from the top, the last at `until` of the run (gradual unfreezing: Howard and Ruder 2018,
        arXiv 1801.06146, §3.3). A stage that waits has learning rate 0 and BatchNorm in evaluation mode: nothing in it moves.
    layer_decay: each layer's learning rate as a share of the next one's (Clark et al. 2020, arXiv 2003.10555).
    weighting: "balanced" lets every class count as much; "none".
    counts: images of each class among those to train on.
    prevalence: where an image may have several labels, each class's share of those images, K: then it is binary
        cross-entropy of each class; None where an image has one.
    """

    traits = Traits(views=1, needs_labels=True)

    def __init__(
        self,
        encoder: nn.Module,
        counts: Tensor,
        seed: int,
        trains: str = "all",
        until: float = 0.5,
        layer_decay: float = 1.0,
        dropout: float = 0.0,
        smoothing: float = 0.0,
        weighting: str = "none",
        gamma: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        prevalence: Tensor | None = None,
    ):
        super().__init__()
        _check(trains, until, layer_decay, dropout, smoothing, weighting, gamma, mixup, cutmix)
        self.encoder, self.seed, self.trains = encoder, seed, trains
        self.dropout, self.head = nn.Dropout(dropout), nn.Linear(encoder.dim, len(counts))
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)
        self.smoothing, self.gamma, self.mixup, self.cutmix = smoothing, gamma, mixup, cutmix
        self.multilabel = prevalence is not None
        weights = class_weights(counts) if prevalence is None else positive_weights(prevalence)
        self.register_buffer("weights", weights if weighting == "balanced" else None)
        scales, unfreeze_at = {}, {}
        if trains == "head":
            encoder.requires_grad_(False)
        elif layer_decay < 1:
            scales = {f"encoder.{name}": share for name, share in rates(encoder, layer_decay).items()}
        if trains == "staged":
            stages = depths(encoder, coarse=True)
            count = max(stages.values()) + 1
            unfreeze_at = {f"encoder.{name}": until * (count - depth) / count for name, depth in stages.items()}
        self.traits = replace(
            self.traits,
            per_image=weighting == "none",
            sync_batchnorm=trains != "head",
            lr_scale=scales,
            unfreeze_at=unfreeze_at,
        )
        self.train()

    def train(self, mode: bool = True) -> "Classifier":
        super().train(mode)
        if self.trains == "head":
            self.encoder.eval()
        return self

    def forward(self, batch: Batch, progress: float) -> Output:
        if self.traits.unfreeze_at:
            self._freeze_statistics(progress)
        return super().forward(batch, progress)

    def embed(self, batch: Batch) -> Tensor:
        images = batch.views[0]
        if own := self._own(batch):
            images = blend(images, own[0]).contiguous(memory_format=torch.channels_last)
        with torch.set_grad_enabled(self.trains != "head" and torch.is_grad_enabled()):
            return self.encoder(images)[:, None]  # B,1,D

    def targets(self, batch: Batch) -> SoftLabels:
        labels = batch.labels if self.multilabel else F.one_hot(batch.labels, self.head.out_features)
        labels = labels.float()  # B,K
        for own in self._own(batch):
            labels = blend(labels, own.mean((2, 3)))  # of a cut, what its box left: edges cut boxes off
        return SoftLabels(labels)

    def objective(self, features: Tensor, targets: SoftLabels, progress: float) -> Output:
        logits = self.head(self.dropout(features[:, 0]))
        if self.multilabel:
            loss = multilabel_loss(logits, targets.labels, self.smoothing, self.weights, self.gamma)
            right = ((logits > 0) == (targets.labels > 0.5)).float().mean()
            return Output(loss, {"train_label_accuracy": right.detach() * 100})
        loss = classification_loss(logits, targets.labels, self.smoothing, self.weights, self.gamma)
        right = (logits.argmax(1) == targets.labels.argmax(1)).float().mean()
        return Output(loss, {"train_accuracy": right.detach() * 100})

    def classify(self, images: Tensor) -> Tensor:
        """Normalised images → logits.  B,C,S,S → B,K"""
        return self.head(self.encoder(images))

    def probabilities(self, logits: Tensor) -> Tensor:
        """Of the classes: they sum to 1, or each is for itself where an image may have several.  B,K → B,K"""
        return logits.sigmoid() if self.multilabel else logits.softmax(1)

    def _own(self, batch: Batch) -> list[Tensor]:
        """How much of each pixel stays the image's own, B,1,S,S; nothing where images are not mixed."""
        if not (self.mixup or self.cutmix):
            return []
        images = batch.views[0]
        indices = batch.indices.to(images.device)
        return [masks(self.seed, batch.epoch, indices, self.mixup, self.cutmix, *images.shape[2:])]

    def _freeze_statistics(self, progress: float) -> None:
        """BatchNorm of stages that wait keeps its statistics."""
        for name, module in self.named_modules():
            if isinstance(module, _BatchNorm):
                module.train(self.training and progress >= self.traits.unfreeze_at.get(f"{name}.weight", 0.0))


def _check(trains, until, layer_decay, dropout, smoothing, weighting, gamma, mixup, cutmix) -> None:
    wrong = {}
    if trains not in TRAINS:
        wrong[f"trains={trains}"] = f"one of {', '.join(TRAINS)}"
    if weighting not in ("none", "balanced"):
        wrong[f"weighting={weighting}"] = "none or balanced"
    shares = {"until": until, "dropout": dropout, "smoothing": smoothing}
    wrong |= {f"{name}={value}": "from 0 to less than 1" for name, value in shares.items() if not 0 <= value < 1}
    if not 0 < layer_decay <= 1:
        wrong[f"layer_decay={layer_decay}"] = "more than 0, at most 1 (1: all layers alike)"
    strengths = {"gamma": gamma, "mixup": mixup, "cutmix": cutmix}
    wrong |= {f"{name}={value}": "0 or more" for name, value in strengths.items() if not 0 <= value < float("inf")}
    if layer_decay < 1 and trains == "head":
        wrong[f"layer_decay={layer_decay}"] = "1 with trains=head: no layer of the encoder learns"
    for setting, right in wrong.items():
        raise ValueError(f"method.{setting}: must be {right}")
