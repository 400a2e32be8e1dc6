"""What frozen features hold, for a report's page: nearest neighbors, a map, and the spectrum. No labels are needed."""
from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from core.figures import COLOURS, canvas, charted
from core.measured import HEADING
from core.page import Chart, Picture, Section
from core.run import counting
from linear_eval.features import effective_rank, spectrum
from linear_eval.pictures import MARKERS, NAMED, plane, short
from linear_eval.samples import Describe, Sample
from linear_eval.sheets import ABOUT, neighbor_sheet

SHOWN = 2_000  # images at most
STRUCTURE = ("Nearest neighbors", "Map of the features", "Spectrum")  # headings
SCORES = "Scores"
QUESTIONS = {  # of the page of a run that trains an encoder: heading → link
    SCORES: "scores", "Curves": "curves", "Views": "views", **dict.fromkeys(STRUCTURE, "structure"), "What next": "what next",
    HEADING: "how it was measured",
}  # fmt: skip


def feature_sections(sample: Sample, encoders: Mapping[str, Describe], classes: Sequence[str] = ()) -> list[Section]:
    """Of the first encoder's features; in the spectrum beside the others'. One pass over the images.

    encoders: name → images to features; classes: of the sample's labels. None of less than two images.
    """
    if len(sample) < 2:
        return []
    with counting("features for the report") as progress:

        def counted(images: Tensor, places: Tensor) -> Tensor:
            progress(int(places[-1]) + 1, len(sample))
            return last(images, places)

        *others, last = encoders.values()
        positions, features = sample.describe(*others, counted)
    if len(positions) < 2:
        return []
    names = list(classes) if sample.labels is not None else []
    own = features[0]
    png, count = neighbor_sheet(sample, positions, own, names), f"{len(positions):,} images"
    colors = " Frames: blue, of the same class; orange, of another." if names else ""
    found: list[Section] = [(STRUCTURE[0], [Picture("neighbours.png", png, ABOUT.format(count=len(positions)) + colors)])]
    if own.shape[1] > 1 and len(positions) > 2:
        labels = sample.labels[positions].numpy() if names else None
        ((title, points),) = plane(own.numpy(), 0, ["pca"]).items()
        about = f"{count} by the two directions in which their standardized features vary most: {title}"
        found.append((STRUCTURE[1], [Chart("map.svg", _map(points, labels, names), about)]))
    spectra = {name: spectrum(rows) for name, rows in zip(encoders, features, strict=True)}
    about = (f"Singular values of the features of {count}, as shares of the largest. The slower they fall, the more dimensions "
             "are in use; the effective rank (RankMe) counts them")
    return [*found, (STRUCTURE[2], [Chart("spectrum.svg", _spectrum(spectra), about)])]


@charted
def _map(points: np.ndarray, labels: np.ndarray | None, names: Sequence[str]):
    """labels: N, or N,K of several an image, which have no one color"""
    figure, ((axis,),) = canvas(7, 4.6)
    one_each = labels is not None and labels.ndim == 1 and len(names) <= NAMED
    for i, name in enumerate(names if one_each else [""]):
        mine = points[labels == i] if one_each else points
        look = {"color": COLOURS[i % 8], "marker": MARKERS[i // 8 % 8]}
        axis.scatter(*mine.T, s=9, alpha=0.75, linewidths=0, label=short(name), **look)
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    if one_each:
        figure.legend(loc="outside right center", fontsize=8, markerscale=2, handletextpad=0.1)
    return figure


@charted
def _spectrum(spectra: Mapping[str, Tensor]):
    figure, ((axis,),) = canvas(6, 3.4)
    for color, (name, sigma) in zip(COLOURS, spectra.items(), strict=False):
        shares = (sigma / sigma[0].clamp(min=1e-300)).clamp(min=1e-6).numpy()
        axis.plot(range(1, len(shares) + 1), shares, color=color, lw=1.4,
                  label=f"{name}, effective rank {effective_rank(sigma):.0f}")
    axis.set(yscale="log", xlabel="singular value, by size", ylabel="share of the largest")
    axis.legend(fontsize=8)
    return figure
