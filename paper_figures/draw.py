"""Kinds of figures. Each takes what the table's yaml says of it (paths in place of cells) and the table, and gives a Figure."""
import json
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
WIDE = 6.9  # inches: two columns


def canvas(width: float = 3.4, height: float = 2.4, rows: int = 1, columns: int = 1):
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(rows, columns, figsize=(width, height), squeeze=False)
    return figure, axes


def logarithmic(axis, which: str) -> None:
    """Numbers written plainly: 1, 2, 5, 10, …; where less than a factor of four is shown, the axis stays even."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = getattr(axis, f"get_{which}lim")()
    if low > 0 and high / low < 4:
        return
    axis.set(**{f"{which}scale": "log"})
    line = getattr(axis, f"{which}axis")
    line.set_major_locator(LogLocator(subs=(1, 2, 5)))
    line.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    line.set_minor_formatter(NullFormatter())


def read(path: str | Path):
    return json.loads(Path(path).read_text())


def kept(path: str):
    """A JSON of the repository."""
    return read(ROOT / path)


def curves(said: dict, table: dict):
    """runs: name → a metrics.jsonl, or several of them (seeds); show: keys, a panel each."""
    shown = said.get("show", ["loss", "knn"])
    figure, axes = canvas(3.4 * len(shown), 2.4, columns=len(shown))
    for axis, key in zip(axes[0], shown, strict=True):
        for number, (name, paths) in enumerate(said["runs"].items()):
            for again, path in enumerate([paths] if isinstance(paths, str) else paths):
                rows = [row for line in Path(path).read_text().splitlines() if key in (row := json.loads(line))]
                label = name if not again else None
                axis.plot([r["epoch"] for r in rows], [r[key] for r in rows], color=f"C{number}", alpha=0.8, label=label)
        axis.set(xlabel="epoch", ylabel=said.get("names", {}).get(key, key))
    axes[0, 0].legend()
    return figure


def image(said: dict, table: dict):
    """file: a PNG that a run left, such as its views."""
    from matplotlib.image import imread

    pixels = imread(first(said["file"]))
    height, width = pixels.shape[:2]
    figure, axes = canvas(WIDE, WIDE * height / width)
    axes[0, 0].imshow(pixels, interpolation="nearest")
    axes[0, 0].set_axis_off()
    return figure


def lines(said: dict, table: dict):
    """columns: column → its place on the x axis; a line a row of the table, with standard deviations."""
    figure, axes = canvas()
    axis, places = axes[0, 0], said["columns"]
    for row in table["rows"]:
        there = [c for c in places if c in row["mean"]]
        x, mean = [places[c] for c in there], [row["mean"][c] for c in there]
        axis.errorbar(x, mean, yerr=[row["std"].get(c, 0) for c in there], marker="o", capsize=2, label=row["name"])
    if said.get("log", True):
        logarithmic(axis, "x")
    axis.set(xlabel=said.get("xlabel", ""), ylabel=said.get("ylabel", ""))
    axis.legend()
    return figure


def comparison(said: dict, table: dict):
    """columns: a panel each. A row of the table is a point with its 95 % interval over seeds, its seeds are dots, and what is
    published is a cross.
    """
    columns = said["columns"]
    rows = [row for row in table["rows"] if any(c in row["mean"] for c in columns)]
    figure, axes = canvas(min(WIDE, 3.0 * len(columns) + 0.6), 0.25 * len(rows) + 0.7, columns=len(columns))
    for axis, column in zip(axes[0], columns, strict=True):
        for place, row in enumerate(rows):
            if column not in row["mean"]:
                continue
            values = np.array(row["values"][column])
            axis.plot(values, np.full(len(values), place), "o", ms=2, color="#999999")
            axis.errorbar(row["mean"][column], place, xerr=interval(values), fmt="o", color="C0", capsize=2)
            if column in row["published"]:
                axis.plot(row["published"][column][0], place, "x", color="C1")
        axis.set_yticks(range(len(rows)), [row["name"] for row in rows] if axis is axes[0, 0] else [""] * len(rows))
        axis.set(ylim=(len(rows) - 0.5, -0.5), xlabel=table["columns"][column].get("title", column))
    return figure


def interval(values: np.ndarray) -> float:
    """Half of Student's 95 % interval of the mean; 0 of a single value."""
    from scipy.stats import t

    n = len(values)
    return float(t.ppf(0.975, n - 1) * values.std(ddof=1) / n**0.5) if n > 1 else 0.0


def front(said: dict, table: dict):
    """study: results.json of a search; x: a cost. Left the front among all trials, right the search's path."""
    study, cost = read(said["study"]), said.get("x", "macs")
    trained = [t for t in study["trials"] if t["rungs"]]
    last = max(t["rungs"][-1]["epochs"] for t in trained)
    figure, axes = canvas(WIDE, 2.6, columns=2)
    left, right = axes[0]
    ends = [t for t in trained if t["rungs"][-1]["epochs"] == last]
    early = [t for t in trained if t["rungs"][-1]["epochs"] < last]
    for some, size, alpha, label in ((early, 6, 0.4, "stopped early"), (ends, 16, 0.9, "to the end")):
        points = [(t["costs"][cost], t["rungs"][-1]["values"][0]) for t in some]
        left.scatter(*zip(*points, strict=True) if points else ([], []), s=size, alpha=alpha, label=label)
    points = sorted((t["costs"][cost], -t["rungs"][-1]["values"][0]) for t in ends)
    ahead, best = [], float("inf")
    for x, y in points:
        if y < best:
            best = y
            ahead.append((x, -y))
    left.plot(*zip(*ahead, strict=True), color="#000000", lw=0.8, zorder=0, label="front")
    logarithmic(left, "x")
    left.set(xlabel=said.get("xlabel", "multiply-adds, M"), ylabel=said.get("ylabel", "validation accuracy, %"))
    left.legend()
    values = [t["rungs"][-1]["values"][0] for t in trained]
    right.plot(range(1, len(values) + 1), values, "o", ms=2, alpha=0.5)
    right.step(range(1, len(values) + 1), np.maximum.accumulate(values), where="post", color="C1", label="best so far")
    right.set(xlabel="trial", ylabel=said.get("ylabel", "validation accuracy, %"))
    right.legend()
    return figure


def architecture(said: dict, table: dict):
    """study: results.json of a search. Its best encoder: a box a block, as high as the logarithm of its channels.

    Raises ValueError where that encoder has no stages.
    """
    from matplotlib.patches import Rectangle

    study = read(said["study"])
    spec = next(t["encoder"] for t in study["trials"] if t["number"] == study["front"][0])
    arguments = dict(spec["arguments"])
    if "layers" in arguments and "channels" in arguments:  # timm's ResNets
        shapes = zip(arguments.pop("layers"), arguments.pop("channels"), strict=True)
        arguments["stages"] = [("basic", depth, channels, 3) for depth, channels in shapes]
    if "stages" not in arguments:
        raise ValueError(f"{spec['name']} is not told as stages")
    figure, axes = canvas(WIDE, 1.8)
    axis, x, highest = axes[0, 0], 0.0, 0.0
    for i, (kind, depth, channels, kernel) in enumerate(arguments.pop("stages")):
        height, begin = np.log2(channels) / 4, x
        for _ in range(depth):
            axis.add_patch(Rectangle((x, 0), 0.8, height, facecolor=f"C{i % 8}", alpha=0.8, edgecolor="none"))
            x += 0.9
        text = f"{depth} × {kind if isinstance(kind, str) else f'MBConv{kind}'}\n{kernel}×{kernel}, {channels}"
        axis.text((begin + x - 0.1) / 2, height + 0.08, text, ha="center", va="bottom", fontsize=7)
        x, highest = x + 0.8, max(highest, height)
    rest = {"resolution": spec["image_size"], "stem": spec["stem"], **arguments}
    axis.text(0, -0.12, f"{spec['name']}: " + ", ".join(f"{k} {v}" for k, v in rest.items()), va="top", fontsize=7)
    axis.set(xlim=(-0.2, max(x, 6)), ylim=(-0.5, highest + 0.8))
    axis.set_axis_off()
    return figure


def confusion(said: dict, table: dict):
    """file: figures.json of an evaluation. Shares of each true class, counts where they can be read."""
    found = read(first(said["file"]))
    counts, names = np.array(found["confusion"]), found["classes"]
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1) * 100
    side = min(WIDE, 0.3 * len(names) + 1.6)
    figure, axes = canvas(side, side * 0.9)
    axis = axes[0, 0]
    shown = axis.imshow(share, cmap="Blues", vmin=0, vmax=100, interpolation="nearest")
    if len(names) <= 20:
        for (i, j), count in np.ndenumerate(counts):
            if count:
                colour = "white" if share[i, j] > 55 else "black"
                axis.text(j, i, f"{count:g}", ha="center", va="center", fontsize=5, color=colour)
        axis.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
        axis.set_yticks(range(len(names)), names)
    axis.set(xlabel="predicted", ylabel="true")
    axis.grid(False)
    figure.colorbar(shown, shrink=0.8, label="of the true class, %")
    return figure


def embedding(said: dict, table: dict):
    """file: figures.json of an evaluation; show: which of its maps, a panel each. Labels colour points, and place none."""
    found = read(first(said["file"]))
    labels, names = np.array(found["labels"]), found["classes"]
    shown = said.get("show", ["PCA", "t-SNE", "UMAP"])
    maps = {title: points for title, points in found["map"].items() if title.split()[0] in shown}
    figure, axes = canvas(WIDE, 2.6, columns=len(maps))
    for axis, (title, points) in zip(axes[0], maps.items(), strict=True):
        for i, name in enumerate(names):
            x, y = np.array(points)[labels == i].T
            axis.plot(x, y, "osD^vPX*"[i // 8 % 8], ms=1.6, mew=0, color=f"C{i % 8}", alpha=0.8, label=name)
        axis.set(xticks=[], yticks=[], title=title)
    if len(names) <= 20:
        handles = axes[0, 0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=min(5, len(names)), markerscale=2)
    return figure


def first(paths: str | list[str]) -> str:
    """Of a cell that has a file a seed: the first seed's."""
    return paths if isinstance(paths, str) else paths[0]


def scaling(said: dict, table: dict):
    """results: a JSON of experiments.speed.scaling. Images a second by processes, beside what N times one would be."""
    found = kept(said["results"])
    cases = sorted(found["cases"].values(), key=lambda case: case["processes"])
    figure, axes = canvas()
    axis, one = axes[0, 0], np.median([case["peer"]["median"] for case in cases])
    counts = [1, *(case["processes"] for case in cases)]
    rates = [one, *(case["ours"]["median"] for case in cases)]
    low, high = ([0, *(abs(case["ours"][end] - case["ours"]["median"]) for case in cases)] for end in ("min", "max"))
    axis.plot(counts, [one * count for count in counts], color="#999999", ls="--", label="N times one")
    axis.errorbar(counts, rates, yerr=[low, high], marker="o", capsize=2, label="measured")
    axis.set_xticks(counts)
    machine = found["hardware"]["gpu"] or found["hardware"]["cpu"]
    axis.set(xlabel=f"processes; {machine}", ylabel="images/s", ylim=(0, None))
    axis.legend()
    return figure


def speed(said: dict, table: dict):
    """results: a JSON of experiments/speed: ours over the peer's speed, with least and largest of the rounds."""
    found = kept(said["results"])
    cases = list(found["cases"].items())
    figure, axes = canvas(WIDE, 0.28 * len(cases) + 0.6)
    axis = axes[0, 0]
    for place, (_, case) in enumerate(cases):
        ratio = case["ratio"]
        spread = [[ratio["median"] - ratio["min"]], [ratio["max"] - ratio["median"]]]
        axis.barh(place, ratio["median"], xerr=spread, height=0.6, color="C0", capsize=2, error_kw={"lw": 0.8})
    axis.axvline(1, color="#444444", lw=0.8)
    axis.set_yticks(range(len(cases)), [f"{name} ({case['against']})" for name, case in cases])
    machine = found["hardware"]["gpu"] or found["hardware"]["cpu"]
    axis.set(ylim=(len(cases) - 0.5, -0.5), xlabel=f"ours over the peer's, {found['unit']}; {machine}")
    return figure


KINDS = {
    "curves": curves, "image": image, "lines": lines, "comparison": comparison, "front": front, "architecture": architecture,
    "confusion": confusion, "embedding": embedding, "scaling": scaling, "speed": speed,
}
