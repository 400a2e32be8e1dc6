"""The report's figures: charts as SVG, images as PNG bytes. A source has one color and one marker everywhere. Names come from
data and are drawn as they are.
"""
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from core.figures import COLOURS, INK, canvas, charted, drawn
from linear_eval.metrics import ConfusedPair
from linear_eval.report_data import Heatmaps
from linear_eval.results import LabelCurve, Row, percent
from linear_eval.rows import METHODS, SOURCES, in_order, method_title

MARKERS = "osD^vPX*"
RIGHT, WRONG = "#0072B2", "#D55E00"
STRONGEST = 0.75  # opacity of blue, at most, so that text on it is legible on light and on dark pages
NUMBERED, NAMED = 20, 40  # classes up to which a confusion matrix has numbers, and names
MAPPED = 1_000  # test images on a map, at most


def style(source: str) -> dict:
    """Color and marker of a source; of an unknown one, from its name."""
    i = SOURCES.index(source) if source in SOURCES else sum(source.encode())
    return {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}


# ------------------------------------------------------------------------------------------------------------- accuracies


@charted
def forest(rows: Sequence[Row], encoder: str, metric: str = "accuracy"):
    """The rows' figures with their 95 % intervals: a panel for each share of the labels, a band for each method."""
    shares = list(dict.fromkeys(row.labels for row in rows))
    panels = [[row for row in rows if row.labels == share] for share in shares]
    sources = in_order(SOURCES, [row.source for row in rows])
    heights = [len(panel) + 1.5 * len({row.method for row in panel}) for panel in panels]
    size = 8, 0.17 * sum(heights) + 0.6 * len(panels) + 0.8
    figure, axes = canvas(*size, len(panels), height_ratios=heights)
    low = min(row.interval[0] for row in rows)
    for axis, share, panel in zip(axes[:, 0], shares, panels, strict=True):
        place, ticks = 0.0, []
        for method in in_order(list(METHODS), [row.method for row in panel]):
            band = sorted((row for row in panel if row.method == method), key=lambda row: sources.index(row.source))
            ticks.append((place + (len(band) - 1) / 2, method_title(band[0])))
            for row in band:
                ends = [[row.score - row.interval[0]], [row.interval[1] - row.score]]
                axis.errorbar(row.score, place, xerr=np.maximum(ends, 0), ms=5, capsize=2, lw=1.2, **style(row.source))
                axis.annotate(f"{row.score:.1f}", (row.interval[1], place), (5, 0), textcoords="offset points",
                              va="center", fontsize=7, color=INK)
                place += 1
            place += 1.5
            axis.axhline(place - 1.25, color="#dddddd", lw=0.8)
        axis.set_yticks([at for at, _ in ticks], [name for _, name in ticks])
        axis.set(ylim=(place - 1.25, -0.75), xlim=(max(0, low - 3), 102), title=f"{percent(share)} of the labels")
        axis.tick_params(axis="y", length=0)
        axis.grid(axis="x", color="#eeeeee")
        axis.set_axisbelow(True)
    axes[-1, 0].set_xlabel(f"test {metric}, %, with 95 % interval")
    _legend(figure, sources, encoder)
    return figure


def short(name: str, length: int = 18) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"


def _legend(figure, sources: list[str], encoder: str) -> None:
    from matplotlib.lines import Line2D

    names = [encoder if source == "encoder" else source for source in sources]
    handles = [Line2D([], [], ls="", label=short(n, 30), **style(s)) for s, n in zip(sources, names, strict=True)]
    figure.legend(handles=handles, loc="outside upper left", ncols=4, frameon=False, fontsize=8)


@charted
def curve(curves: list[LabelCurve], encoder: str):
    """Label efficiency: mean ± standard deviation over draws, by labeled images a class."""
    from matplotlib.ticker import NullLocator

    figure, axes = canvas(7, 4.2)
    axis = axes[0, 0]
    for line in curves:
        x, mean, std = ([getattr(point, key) for point in line.points] for key in ("per_class", "mean", "std"))
        axis.errorbar(x, mean, yerr=std, capsize=3, ms=5, lw=1.4, **style(line.source))
    ticks = sorted({point.per_class for line in curves for point in line.points})
    axis.set_xscale("log")
    axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set(xlabel="labelled training images a class", ylabel="test accuracy, %, mean ± std over draws")
    axis.grid(color="#eeeeee")
    _legend(figure, [line.source for line in curves], encoder)
    return figure


@charted
def reliability(bins: dict[str, np.ndarray]):
    """Accuracy by confidence above, and how many predictions have it below."""
    figure, axes = canvas(5, 5, 2, height_ratios=(3, 1))
    width = 100 / len(bins["count"])
    middle = (np.arange(len(bins["count"])) + 0.5) * width
    axis, below = axes[:, 0]
    axis.bar(middle, np.nan_to_num(bins["accuracy"]), width * 0.92, color=COLOURS[0], label="accuracy")
    axis.plot([0, 100], [0, 100], color=INK, lw=1, ls="--", label="perfectly calibrated")
    axis.scatter(bins["confidence"], bins["accuracy"], s=14, color=COLOURS[1], zorder=3, label="at the bin's mean confidence")
    axis.set(xlim=(0, 100), ylim=(0, 102), ylabel="accuracy, %")
    axis.legend(frameon=False, fontsize=8, loc="upper left")
    below.bar(middle, bins["count"] / bins["count"].sum() * 100, width * 0.92, color="#999999")
    below.set(xlim=(0, 100), xlabel="confidence, %", ylabel="of images, %")
    return figure


@charted
def confusion(matrix: np.ndarray, names: Sequence[str]):
    """Shares of each true class in color; counts in the cells and names at the axes where they fit."""
    from matplotlib.colors import LinearSegmentedColormap, to_rgb
    from matplotlib.ticker import MaxNLocator

    classes = len(names)
    side = float(np.clip(0.52 * classes + 2, 4, 8.5))
    figure, axes = canvas(side + 0.6, side - 0.4)
    axis = axes[0, 0]
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1) * 100
    blues = LinearSegmentedColormap.from_list("blues", [(*to_rgb(RIGHT), 0), (*to_rgb(RIGHT), STRONGEST)])
    image = axis.imshow(share, cmap=blues, vmin=0, vmax=100, interpolation="nearest")
    axis.set(xlabel="predicted", ylabel="true")
    if classes <= NAMED:
        axis.set_xticks(range(classes), [short(n) for n in names], rotation=45, ha="right", rotation_mode="anchor")
        axis.set_yticks(range(classes), [short(n) for n in names])
    else:
        axis.set(xlabel="predicted, number of the class", ylabel="true, number of the class")
        for one in (axis.xaxis, axis.yaxis):
            one.set_major_locator(MaxNLocator(10, integer=True))
    if classes <= NUMBERED:
        size = min(9, 110 / classes)
        for (i, j), count in np.ndenumerate(matrix):
            if count:
                axis.text(j, i, count, ha="center", va="center", fontsize=size)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0 if classes <= NAMED else 3)
    figure.colorbar(image, shrink=0.7, label="of the true class, %").outline.set_visible(False)
    return figure


# ----------------------------------------------------------------------------------------------------------------- images


def _show(axis, image: np.ndarray, frame: str | None = None) -> None:
    """One image, C,S,S uint8, in a frame."""
    gray = {"cmap": "gray", "vmin": 0, "vmax": 255} if len(image) == 1 else {}
    axis.imshow(image.transpose(1, 2, 0), interpolation="nearest" if image.shape[-1] < 64 else "antialiased", **gray)
    axis.axis("on")
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set(visible=frame is not None, color=frame, linewidth=3)


def _sheet(rows: int, columns: int, margin: float = 1.3, above: float = 0.22):
    """Square places for images, `margin` inches right of the edge for text, each row with `above` inches for titles."""
    from matplotlib.figure import Figure

    width, gap = 8.0, 0.08
    cell = (width - margin - gap) / columns - gap
    height = rows * (cell + above) + gap
    figure = Figure((width, height))
    axes = np.empty((rows, columns), object)
    for i, j in np.ndindex(rows, columns):  # inches, from the top left
        left, bottom = margin + j * (cell + gap), height - (i + 1) * (cell + above)
        axes[i, j] = figure.add_axes((left / width, bottom / height, cell / width, cell / height))
        axes[i, j].axis("off")
    return figure, axes


def _row_label(axis, text: str) -> None:
    """A row's text, left of its first image."""
    axis.annotate(text, (0, 0.5), (-8, 0), "axes fraction", "offset points", ha="right", va="center", fontsize=8, color=INK)


@drawn
def pairs(confused: list[ConfusedPair], images: list[np.ndarray], names: Sequence[str]):
    """The surest mistakes of each confused pair, a row a pair.  images: for each pair B,C,S,S uint8"""
    figure, axes = _sheet(len(confused), max(6, *(len(row) for row in images)))
    for line, pair, row in zip(axes, confused, images, strict=True):
        true, predicted = short(names[pair.true]), short(names[pair.predicted])
        _row_label(line[0], f"{true}\ntaken for\n{predicted}\n{pair.count:,} ({pair.share:.1f} %)")
        for axis, image in zip(line, row, strict=False):
            _show(axis, image)
    return figure


@dataclass(frozen=True)
class NeighborRows:
    """queries: Q,C,S,S uint8 with labels Q; nearest: Q,k,C,S,S with nearest_labels Q,k, the training images nearest to each.

    Labels of several classes an image have one more dimension, K of 0 and 1; they are None where there are none.
    """

    queries: np.ndarray
    labels: np.ndarray | None
    nearest: np.ndarray
    nearest_labels: np.ndarray | None


@drawn
def neighbors(rows: NeighborRows, names: Sequence[str]):
    """A row for each query. Of another class, or of none in common: the frame's color and the classes' names."""
    unlabelled = rows.labels is None or rows.nearest_labels is None
    figure, axes = _sheet(len(rows.queries), rows.nearest.shape[1] + 1, *([0.1, 0.1] if unlabelled else []))
    for line, query, images in zip(axes, rows.queries, rows.nearest, strict=True):
        _show(line[0], query, "#999999")
        for axis, image in zip(line[1:], images, strict=True):
            _show(axis, image, None if unlabelled else RIGHT)
    if rows.labels is None or rows.nearest_labels is None:
        return figure
    for line, label, labels in zip(axes, rows.labels, rows.nearest_labels, strict=True):
        _row_label(line[0], _named(label, names, 18, "\n"))
        for axis, its in zip(line[1:], labels, strict=True):
            alike = its == label if np.ndim(its) == 0 else bool((its & label).any() or not (its.any() or label.any()))
            if not alike:
                axis.spines[:].set_color(WRONG)
                axis.set_title(_named(its, names, 12, ", "), fontsize=7, color=WRONG, pad=3)
    return figure


@drawn
def above_below(above: np.ndarray, below: np.ndarray):
    """Two rows of images, a pair a column.  B,C,S,S uint8 each"""
    figure, axes = _sheet(2, max(8, len(above)), margin=0.1, above=0.1)
    for line, row in zip(axes, (above, below), strict=True):
        for axis, image in zip(line, row, strict=False):
            _show(axis, image)
    return figure


def _named(label, names: Sequence[str], length: int, between: str) -> str:
    """An image's class, or its first classes of several, K of 0 and 1; "none" of those it has none of."""
    if np.ndim(label) == 0:
        return short(names[label], length)
    some = np.flatnonzero(label)[:3]
    text = between.join(short(names[i], length) for i in some) or "none"
    return text if between == "\n" else short(text, length)


@drawn
def heatmaps(maps: Heatmaps, names: Sequence[str]):
    """Images above, and Grad-CAM's heat over them below."""
    per_row = min(8, max(5, len(maps.images)))
    blocks = -(-len(maps.images) // per_row)
    figure, axes = _sheet(2 * blocks, per_row, margin=0.1, above=0.34)
    for i, (image, heat, true, predicted) in enumerate(zip(maps.images, maps.heat, maps.labels, maps.predicted, strict=True)):
        above, below = axes[2 * (i // per_row) : 2 * (i // per_row) + 2, i % per_row]
        _show(above, image)
        right = true == predicted
        title = short(names[true], 14) if right else f"{short(names[true], 14)}\n→ {short(names[predicted], 12)}"
        above.set_title(title, fontsize=7.5, color=INK if right else WRONG)
        _show(below, (0.8 * image.mean(0, keepdims=True)).astype(np.uint8))
        below.imshow(heat, cmap="inferno", vmin=0, vmax=1, alpha=0.15 + 0.5 * heat)
    return figure


# ------------------------------------------------------------------------------------------------------------------- maps


@charted
def maps(planes: dict[str, np.ndarray], labels: np.ndarray, names: Sequence[str]):
    """Features in two dimensions, as `plane` lays them: title → M,2; and M"""
    figure, axes = canvas(4 * len(planes), 4.6, 1, len(planes))
    for axis, (title, points) in zip(axes[0], planes.items(), strict=True):
        for i, name in enumerate(names):
            mine = points[labels == i]
            look = {"color": COLOURS[i % 8], "marker": MARKERS[i // 8 % 8]} if len(names) <= NAMED else {
                "color": f"C{i % 10}", "marker": "o"}
            axis.scatter(*mine.T, s=9, alpha=0.75, linewidths=0, label=short(name), rasterized=True, **look)
        axis.set(xticks=[], yticks=[], title=title)
        axis.spines[:].set_visible(False)
    if len(names) <= NAMED:
        handles, texts = axes[0, 0].get_legend_handles_labels()
        place = {"loc": "outside lower center", "ncols": 10 if len(names) > 8 else len(names), "frameon": False}
        figure.legend(handles, texts, fontsize=8, markerscale=2, handletextpad=0.1, columnspacing=1, **place)
    return figure


def mapped(count: int) -> np.ndarray:
    """Positions of the images on a map, of `count` images."""
    return np.unique(np.linspace(0, count - 1, min(count, MAPPED)).astype(int))


def plane(x: np.ndarray, seed: int, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Standardized features in two dimensions.  M,D (D ≥ 2, M ≥ 10); names: of pca, tsne, umap → title → M,2

    PCA: variance. t-SNE: van der Maaten and Hinton 2008 (JMLR 9). UMAP: McInnes et al. 2018 (arXiv 1802.03426). The last
    two see the first 50 principal components; they keep neighbourhoods, while their distances between groups say little.
    """
    from sklearn.decomposition import PCA

    x = (x - x.mean(0)) / np.maximum(x.std(0), 1e-6)
    pca = PCA(min(50, *x.shape), svd_solver="full").fit(x)
    some = pca.transform(x)
    planes = {}
    if "pca" in names:
        share = pca.explained_variance_ratio_[:2].sum() * 100
        planes[f"PCA ({share:.0f} % of the variance)"] = some[:, :2]
    if "tsne" in names:
        from sklearn.manifold import TSNE

        near = TSNE(perplexity=min(30, (len(x) - 1) / 3), init="pca", random_state=seed, n_jobs=1)
        planes["t-SNE"] = near.fit_transform(some)
    if "umap" in names:
        planes["UMAP"] = _umap(some, seed)
    return planes


def _umap(x: np.ndarray, seed: int) -> np.ndarray:
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore")  # that a seed leaves it one thread
        from umap import UMAP

        return UMAP(n_neighbors=min(15, len(x) - 1), init="pca", random_state=seed, n_jobs=1).fit_transform(x)
