"""Is it learning? Figures of the frozen encoder that need no labels, a verdict in words, and labels where there are any.

RankMe: Garrido et al. 2023 (arXiv 2210.02885). Alignment and uniformity: Wang and Isola 2020 (arXiv 2005.10242).
Feature std: Chen and He 2021 (arXiv 2011.10566, figure 2). kNN and few labels are measured on validation images.
"""
import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.errors import Collapsed
from core.image_size import sides
from core.processes import broadcast_object, is_main
from core.run import Run
from linear_eval.features import evaluating, pixels_of, rankme, recompute_batchnorm
from linear_eval.knn import knn, knn_map
from linear_eval.samples import Describe, Sample
from ssl import collapse
from vision import encoders
from vision.augment import Augmentation, render
from vision.multilabel import is_multilabel
from vision.pixels import normalize_images
from vision.splits import Dataset

BANK, WATCHED = 10_000, 2_000  # images at most: labelled ones to vote, validation ones to judge
CHECK_EPOCH = 0xFFFFFFFF  # whose views the checks look at: no epoch of training
COLLAPSED_RANK = 2.0  # fewer effective dimensions than this, and features are a line
COLLAPSED_STD = 0.05  # a healthy run's lowest was 0.17, early on; collapsing ones fell to 0.03 and less
FEWEST = 16  # images that can show a collapse
NARROW_RANK = 0.05  # of the features' dimensions
FELL_RANK = 0.5  # of the untrained encoder's effective rank: with less, features use fewer dimensions than they did
LEARNT_RATIO = 0.8  # of the untrained encoder's alignment ratio
UNTRAINED, BEFORE = "untrained", "before training"  # the encoder at step 0: of random weights, or of a file's or timm's


def features(encoder: nn.Module, images: Tensor, recipe: Augmentation, device: torch.device) -> Tensor:
    """Frozen features of a block in evaluation mode.  B,C,S,S uint8 → B,D float32 on the CPU."""
    with evaluating(encoder):
        return encoder(normalize_images(images.to(device), recipe.mean, recipe.std)).float().cpu()


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
    """What training must beat, on the same images by the same protocol.

    untrained: the encoder as training began with it, its BatchNorm's statistics taken from these images.
    """

    pixels: dict[str, float]
    untrained: dict[str, float]


class Health:
    """Measures an encoder at intervals, on the same images each time, which are read in blocks (linear_eval/samples.py).

    Keeps the figures of raw pixels and of the encoder as training began with it, which `began` names: UNTRAINED or BEFORE.
    """

    recalibrates = True  # is the start measured with BatchNorm's statistics of this data?

    def __init__(
        self, dataset: Dataset, recipe: Augmentation, device: torch.device, seed: int, encoder: nn.Module,
        began: str = UNTRAINED, predicts_pixels: bool = False,
    ):
        """predicts_pixels: of the method (`Traits`); its features may lie close together, so kNN is asked before their rank."""
        self.predicts_pixels = predicts_pixels
        self.recipe, self.device, self.seed, self.began = recipe, device, seed, began
        spec, self.dim = encoder.spec, encoder.dim
        self.classes = dataset.classes
        watched = dataset.validation if len(dataset.validation) > 1 else dataset.pretrain  # a spread needs two images
        self.watched, self.size = Sample(watched, WATCHED, spec), sides(spec.image_size)
        labelled = self.classes and self.watched.labels is not None
        self.bank = Sample(dataset.train, BANK, spec) if labelled else None
        self.patches = collapse.has_patches(encoder)
        self.baselines: Baselines | None = None
        self.before: tuple[nn.Module, Tensor, Tensor | None] | None = None  # what `measure_start` needs: encoder, generators
        self.history: list[tuple[int, dict]] = []

    def measure(self, encoder: nn.Module) -> dict[str, float]:
        """Figures of the encoder; images that cannot be read are in none of them.  Reads every image once."""

        def plain(images: Tensor, positions: Tensor) -> Tensor:
            return features(encoder, images, self.recipe, self.device)

        functions = [plain, *(self.view(encoder, i) for i in range(2)), *([self.patch_rows(encoder)] if self.patches else [])]
        watched, (z, *views) = self.watched.describe(*functions)
        figures = {"feature_std": feature_std(z), "rankme": rankme(z), "uniformity": uniformity(z)}
        if self.patches:
            rows = views.pop()
            figures |= collapse.patch_figures(rows[~rows[:, -1].isnan()])
        figures["alignment"] = alignment(*views)
        figures["alignment_ratio"] = figures["alignment"] / spread(views[0])
        if self.bank is not None:
            bank, (rows,) = self.bank.describe(plain)
            figures |= self._scores(bank, rows, watched, z)
        return figures

    def _scores(self, bank: Tensor, rows: Tensor, watched: Tensor, z: Tensor) -> dict[str, float]:
        """bank, watched: positions of the images in their samples, N and M; rows: N,D and z: M,D, their features."""
        from linear_eval.probe import few_labels  # brings scikit-learn

        labelled = rows, self.bank.labels[bank], z, self.watched.labels[watched]
        if is_multilabel(self.bank.labels):
            return {"knn_map": knn_map(*labelled)}
        right = self.right(rows, labelled[1], z, labelled[3], watched)
        return {"knn": float(right.mean() * 100), "five_labels": few_labels(*labelled)[0]}

    def right(self, rows: Tensor, labels: Tensor, z: Tensor, truth: Tensor, positions: Tensor) -> np.ndarray:
        """Which of the images at these positions kNN classifies rightly.  N,D with labels N; M,D with labels M → M bool"""
        return knn(rows, labels, z, len(self.classes)) == truth.numpy()

    def start(self, encoder: nn.Module) -> None:
        """Keep a copy of the encoder, which has the weights that training begins with, for `measure_start`."""
        cuda = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
        self.before = copy.deepcopy(encoder), torch.get_rng_state(), cuda

    def measure_start(self) -> None:
        """Measure the baselines, where that is not done yet. Collective; torch's generators stay as they are."""
        if self.before is None:
            return
        (encoder, state, cuda), self.before = self.before, None
        with torch.random.fork_rng([] if cuda is None else [self.device]):
            torch.set_rng_state(state)
            if cuda is not None:
                torch.cuda.set_rng_state(cuda, self.device)
            self._measure_start(encoder)

    def _measure_start(self, encoder: nn.Module) -> None:
        pixels = {}
        if self.bank is not None and is_main():
            (bank, (rows,)), (watched, (z,)) = (s.describe(lambda x, _: pixels_of(x)) for s in (self.bank, self.watched))
            pixels = self._scores(bank, rows, watched, z)
        before = self.calibrated(encoder.to(self.device))  # collective, where BatchNorm is
        self.baselines = broadcast_object(Baselines(pixels, self.measure(before)) if is_main() else None)

    @property
    def skipped(self) -> dict[str, str]:
        """Files that this process could not read → why."""
        samples = [self.watched] if self.bank is None else [self.watched, self.bank]
        return {path: why for sample in samples for path, why in getattr(sample.split, "skipped", {}).items()}

    def calibrated(self, encoder: nn.Module) -> nn.Module:
        return recompute_batchnorm(encoder, self.watched, self.recipe.mean, self.recipe.std, self.device)

    def untrained(self, spec: encoders.Spec) -> nn.Module:
        """The encoder that a run from scratch of this seed begins with, BatchNorm's statistics of this data.  Collective."""
        torch.manual_seed(self.seed)
        return Health.calibrated(self, encoders.build(spec).to(self.device))

    @property
    def latest(self) -> dict[str, float]:
        """Figures of the encoder that is kept; none before the first check."""
        return self.history[-1][1] if self.history else {}

    def kept(self, encoder: nn.Module, start: Callable[[], nn.Module]) -> nn.Module:
        """The encoder to write: that with its last weights.  start: makes the one that training began with."""
        return encoder

    def log_start(self, run: Run) -> None:
        """Log the start as step 0, where it counts as a check."""

    def closing(self) -> list[str]:
        """Sentences for the end of a report, beside the verdict."""
        return []

    def state(self) -> dict:
        """What last.pt must hold for the history to continue.  Collective."""
        self.measure_start()
        return {"baselines": [self.baselines.pixels, self.baselines.untrained], "history": self.history}

    def restore(self, state: dict) -> None:
        self.baselines, self.history = Baselines(*state["baselines"]), [tuple(h) for h in state["history"]]

    def check(
        self, step: int, encoder: nn.Module, stop: bool, training: Mapping[str, float] = MappingProxyType({})
    ) -> dict[str, float]:
        """Measure and remember.  Raises Collapsed, if `stop`, when two checks in a row find the features collapsed.

        training: figures of the last steps, of which those on prototypes are kept beside the encoder's.
        """
        self.measure_start()
        figures = broadcast_object(self.measure(encoder) if is_main() else None)
        figures |= {name: training[name] for name in collapse.TEACHER if name in training}
        self.history.append((step, figures))
        last_two = self.history[-2:]
        found = [self.feature_kinds(figures) for _, figures in last_two] if stop else []
        if len(found) == 2 and all(found):
            raise Collapsed(
                f"features collapsed by step {step}: {'; '.join(found[1])}; {self.describe(figures)}. Likely causes: nothing "
                "pushes different images apart (no negatives, predictor or stop-gradient), or a learning rate far too high"
            )
        return figures

    def feature_kinds(self, figures: Mapping[str, float]) -> list[str]:
        """How features have collapsed, in words: those of different images are nearly one point, or nearly one line.

        Of a method that predicts pixels a large part may be common to all images, which makes both look so: there a line is
        meant whose method predicts no more of a patch than its place has, and where images have labels, kNN must not be better
        than at the start.
        """
        if len(self.watched) < FEWEST:
            return []  # too few images to tell
        before, line = self.baselines.untrained, figures["rankme"] < COLLAPSED_RANK
        point = figures["feature_std"] < min(COLLAPSED_STD, before["feature_std"] / 2)
        if self.predicts_pixels:
            sees = figures.get(collapse.PREDICTED, 0.0) >= collapse.BLIND  # which an older run does not know
            better = any(figures[name] > before[name] for name in ("knn", "knn_map") if name in figures)
            line, point = line and not better and not sees, False
        found = []
        if point:
            found.append(f"features of all images are one (their std is {figures['feature_std']:.3f}, {self.began} "
                         f"{before['feature_std']:.3f})")
        if line:
            found.append(f"features lie on a line (their effective rank is {figures['rankme']:.2f})")
        return found

    def describe(self, figures: dict[str, float]) -> str:
        before = self.baselines.untrained
        return (
            f"two views of an image lie at {figures['alignment_ratio']:.2f} of the distance of different images ({self.began} "
            f"{before['alignment_ratio']:.2f}), effective rank {figures['rankme']:.0f} ({before['rankme']:.0f}), "
            f"feature std {figures['feature_std']:.2f} ({before['feature_std']:.2f})"
        )

    def verdict(self) -> str:
        """A sentence on the last check: by label-free figures and, where there are labels, by kNN against the start."""
        if not self.history:
            return "not yet known: no check was made"
        figures, before = self.history[-1][1], self.baselines.untrained
        fell = figures["rankme"] < FELL_RANK * before["rankme"]
        knn = next((name for name in ("knn", "knn_map") if name in figures), None)
        kinds = [*self.feature_kinds(figures), *collapse.kinds(figures, before, self.began, self.predicts_pixels)]
        if kinds:
            word = f"collapsed: {'; '.join(kinds)}"
        elif knn and figures[knn] < before[knn]:
            of = "of" if knn == "knn" else "mean average precision on"
            word = (
                f"no better than {self.began}: kNN {figures[knn]:.1f} % {of} {len(self.watched):,} validation images, "
                f"{self.began} {before[knn]:.1f} %{', and the effective rank fell to less than half' if fell else ''}"
            )
        elif blind := collapse.blind(figures):
            word = f"blind: {blind}; train longer, at a lower optim.lr, or with fewer patches masked"
        elif figures["rankme"] < NARROW_RANK * self.dim:
            word = "narrow: the features use few of their dimensions"
        elif fell and not knn:
            word = "narrowing: the effective rank fell to less than half, and there are no labels to say if that helps"
        elif figures["alignment_ratio"] < LEARNT_RATIO * before["alignment_ratio"]:
            word = "healthy: views of one image come together while images stay apart"
            word += f", and kNN is above {self.began}, though the effective rank fell to less than half" if fell else ""
        else:
            word = "weak: views are hardly closer than before training; train longer, or try another optim.lr"
        return f"{word} ({self.describe(figures)})"

    def patch_rows(self, encoder: nn.Module) -> Describe:
        """A function to `collapse.patches_of` of some watched images, evenly spaced; NaN for the others."""
        every = -(-len(self.watched) // collapse.LOOKED_AT)

        def describe(images: Tensor, positions: Tensor) -> Tensor:
            chosen = positions % every == 0
            with evaluating(encoder):
                some = images[chosen] if chosen.any() else images[:1]
                found = collapse.patches_of(encoder, normalize_images(some.to(self.device), self.recipe.mean, self.recipe.std))
            rows = found.new_full((len(images), found.shape[1]), float("nan"))
            rows[chosen] = found[: int(chosen.sum())]
            return rows

        return describe

    def view(self, encoder: nn.Module, number: int) -> Describe:
        """A function to the features of one augmented view of watched images, the same view at every check.

        A method of one view has it drawn twice.
        """
        draw = self.recipe.views[min(number, len(self.recipe.views) - 1)].sample_params(
            self.seed, CHECK_EPOCH, torch.arange(len(self.watched)), number, *self.size
        )

        def describe(images: Tensor, positions: Tensor) -> Tensor:
            with evaluating(encoder):
                images = images.to(self.device)
                x = render(images, draw[positions], self.recipe.size, self.recipe.mean, self.recipe.std)
                return encoder(x).float().cpu()

        return describe
