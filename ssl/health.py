"""Is it learning? Figures of the frozen encoder that need no labels, a verdict in words, and labels where there are any.

RankMe: Garrido et al. 2023 (arXiv 2210.02885). Alignment and uniformity: Wang and Isola 2020 (arXiv 2005.10242).
Feature std: Chen and He 2021 (arXiv 2011.10566, figure 2). kNN and few labels are measured on validation images.
"""
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.distributed import broadcast_object, is_main
from core.errors import Collapsed
from linear_eval.features import BLOCK, calibrated, evaluating, evenly, pixels_of, rankme
from linear_eval.knn import knn_accuracy
from linear_eval.probe import few_labels
from vision.augment import Recipe, render
from vision.datasets import Dataset
from vision.encoders import Spec, fit_channels

BANK, WATCHED = 10_000, 2_000  # images at most: labelled ones to vote, validation ones to judge
CHECK_EPOCH = 0xFFFFFFFF  # whose views the checks look at: no epoch of training
COLLAPSED_RANK = 2.0  # fewer effective dimensions than this, and features are a line
COLLAPSED_STD = 0.05  # a healthy run's lowest was 0.17, early on; collapsing ones fell to 0.03 and less
FEWEST = 16  # images that can show a collapse
NARROW_RANK = 0.05  # of the features' dimensions
LEARNT_RATIO = 0.8  # of the untrained encoder's alignment ratio


@torch.no_grad()
def features(encoder: nn.Module, images: Tensor, recipe: Recipe, device: torch.device) -> Tensor:
    """Frozen features in evaluation mode.  N,C,S,S uint8 → N,D float32 on the CPU."""
    with evaluating(encoder):
        return torch.cat([encoder(recipe.plain(part.to(device))).float().cpu() for part in images.split(BLOCK)])


def feature_std(z: Tensor) -> float:
    """Standard deviation over images of L2-normalised features, times √D: 1 when they fill the sphere, 0 when all are one."""
    return float(F.normalize(z, dim=1).std(0).mean() * z.shape[1] ** 0.5)


def alignment(first: Tensor, second: Tensor) -> float:
    """Mean squared distance between normalised features of two views of an image; 0 is perfect."""
    return float((F.normalize(first, dim=1) - F.normalize(second, dim=1)).square().sum(1).mean())


def spread(z: Tensor) -> float:
    """Mean squared distance between normalised features of different images."""
    return float(2 * F.normalize(z, dim=1).var(0).sum().clamp(min=1e-12))


def uniformity(z: Tensor) -> float:
    """log of the mean of exp(−2·distance²) over pairs of images; −4 is nearly even on a high-dimensional sphere, 0 a point."""
    z = F.normalize(z, dim=1)
    return float(torch.pdist(z).square().mul(-2).exp().mean().log())


@dataclass(frozen=True)
class Baselines:
    """What training must beat, on the same images by the same protocol."""

    pixels: dict[str, float]
    untrained: dict[str, float]


class Health:
    """Looks at an encoder now and then. Holds its images as uint8; knows pixels and the untrained encoder."""

    def __init__(self, dataset: Dataset, recipe: Recipe, device: torch.device, seed: int, encoder: nn.Module):
        self.recipe, self.device, self.seed = recipe, device, seed
        spec, self.dim = encoder.spec, encoder.dim
        self.classes = dataset.classes
        watched = dataset.validation if len(dataset.validation) > 1 else dataset.pretrain  # a spread needs two images
        self.watched, self.watched_labels = some(watched, WATCHED, spec)
        self.bank = None
        if self.classes and self.watched_labels is not None:
            self.bank, self.bank_labels = some(dataset.train, BANK, spec)
        self.baselines: Baselines | None = None
        self.history: list[tuple[int, dict]] = []

    def measure(self, encoder: nn.Module) -> dict[str, float]:
        z = features(encoder, self.watched, self.recipe, self.device)
        figures = {"feature_std": feature_std(z), "rankme": rankme(z), "uniformity": uniformity(z)}
        views = [self.features_of_view(encoder, i) for i in range(2)]
        figures["alignment"] = alignment(*views)
        figures["alignment_ratio"] = figures["alignment"] / spread(views[0])
        if self.bank is not None:
            bank = features(encoder, self.bank, self.recipe, self.device)
            figures |= self._scores(bank, z)
        return figures

    def _scores(self, bank: Tensor, z: Tensor) -> dict[str, float]:
        labelled = bank, self.bank_labels, z, self.watched_labels
        return {"knn": knn_accuracy(*labelled, len(self.classes)), "five_labels": few_labels(*labelled)[0]}

    def start(self, encoder: nn.Module) -> None:
        """Measure the baselines; `encoder` has its first, random weights."""
        pixels = {}
        if self.bank is not None:
            pixels = self._scores(pixels_of(self.bank), pixels_of(self.watched))
        self.baselines = Baselines(pixels, self.measure(self.calibrated(encoder)))

    def calibrated(self, encoder: nn.Module) -> nn.Module:
        return calibrated(encoder, self.watched, self.recipe.mean, self.recipe.std, self.device)

    def state(self) -> dict:
        """What last.pt must hold for the story to go on."""
        return {"baselines": [self.baselines.pixels, self.baselines.untrained], "history": self.history}

    def restore(self, state: dict) -> None:
        self.baselines, self.history = Baselines(*state["baselines"]), [tuple(h) for h in state["history"]]

    def check(self, step: int, encoder: nn.Module, stop: bool) -> dict[str, float]:
        """Measure and remember.  Raises Collapsed, if `stop`, when two checks in a row find the features collapsed."""
        figures = broadcast_object(self.measure(encoder) if is_main() else None)
        self.history.append((step, figures))
        last_two = self.history[-2:]
        if stop and len(last_two) == 2 and all(self.collapsed(f) for _, f in last_two):
            raise Collapsed(
                f"features collapsed by step {step}: {self.describe(figures)}. Likely causes: nothing pushes different "
                "images apart (no negatives, predictor or stop-gradient), or a learning rate far too high"
            )
        return figures

    def collapsed(self, figures: dict[str, float]) -> bool:
        """Label-free: features of different images are nearly one point, or nearly one line."""
        if len(self.watched) < FEWEST:
            return False  # too few images to tell
        point = figures["feature_std"] < min(COLLAPSED_STD, self.baselines.untrained["feature_std"] / 2)
        return point or figures["rankme"] < COLLAPSED_RANK

    def describe(self, figures: dict[str, float]) -> str:
        before = self.baselines.untrained
        return (
            f"two views of an image lie at {figures['alignment_ratio']:.2f} of the distance of different images (untrained "
            f"{before['alignment_ratio']:.2f}), effective rank {figures['rankme']:.0f} ({before['rankme']:.0f}), "
            f"feature std {figures['feature_std']:.2f} ({before['feature_std']:.2f})"
        )

    def verdict(self) -> str:
        """A sentence on the last check, from label-free figures alone."""
        if not self.history:
            return "not yet known: no check was made"
        figures, before = self.history[-1][1], self.baselines.untrained
        if self.collapsed(figures):
            word = "collapsed"
        elif figures["rankme"] < NARROW_RANK * self.dim:
            word = "narrow: the features use few of their dimensions"
        elif figures["alignment_ratio"] < LEARNT_RATIO * before["alignment_ratio"]:
            word = "healthy: views of one image come together while images stay apart"
        else:
            word = "weak: views are hardly closer than before training; train longer, or try another optim.lr"
        return f"{word} ({self.describe(figures)})"

    @torch.no_grad()
    def features_of_view(self, encoder: nn.Module, view: int) -> Tensor:
        """Features of one augmented view of the watched images, the same view at every check.  → N,D"""
        indices, size = torch.arange(len(self.watched)), self.watched.shape[2:]
        draw = self.recipe.views[view].draw(self.seed, CHECK_EPOCH, indices, view, *size)
        with evaluating(encoder):
            out = []
            for rows in indices.split(BLOCK):
                images = self.watched[rows].to(self.device)
                x = render(images, draw[rows], self.recipe.size, self.recipe.mean, self.recipe.std)
                out.append(encoder(x).float().cpu())
        return torch.cat(out)


def some(split, count: int, spec: Spec) -> tuple[Tensor, Tensor | None]:
    """At most `count` images of a split, evenly spaced, as the encoder takes them.  → N,C,S,S uint8 and labels."""
    indices = evenly(len(split), count)
    images = fit_channels(split.resized(indices, spec.image_size), spec.channels)
    return images, None if split.labels is None else split.labels[indices]
