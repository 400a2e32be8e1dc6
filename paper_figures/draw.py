"""Kinds of figures. Each takes its entry in the table's yaml (paths in place of cells) and the table, and returns a Figure."""
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
    """A logarithmic axis with the labels 1, 2, 5, 10, …; one that spans less than a factor of four stays linear."""
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


def read_committed(path: str):
    """A JSON file of the repository."""
    return read(ROOT / path)


def curves(spec: dict, table: dict):
    """runs: name → a metrics.jsonl, or a list of them (seeds); show: keys, a panel each."""
    keys = spec.get("show", ["loss", "knn"])
    figure, axes = canvas(3.4 * len(keys), 2.4, columns=len(keys))
    for axis, key in zip(axes[0], keys, strict=True):
        for number, (name, paths) in enumerate(spec["runs"].items()):
            for seed, path in enumerate([paths] if isinstance(paths, str) else paths):
                rows = [row for line in Path(path).read_text().splitlines() if key in (row := json.loads(line))]
                label = name if not seed else None
                axis.plot([r["epoch"] for r in rows], [r[key] for r in rows], color=f"C{number}", alpha=0.8, label=label)
        axis.set(xlabel="epoch", ylabel=spec.get("names", {}).get(key, key))
    axes[0, 0].legend()
    return figure


def image(spec: dict, table: dict):
    """file: a PNG of a run, such as its views."""
    from matplotlib.image import imread

    pixels = imread(first(spec["file"]))
    height, width = pixels.shape[:2]
    figure, axes = canvas(WIDE, WIDE * height / width)
    axes[0, 0].imshow(pixels, interpolation="nearest")
    axes[0, 0].set_axis_off()
    return figure


def lines(spec: dict, table: dict):
    """columns: column → its x value; a line for each row of the table, with standard deviations."""
    figure, axes = canvas()
    axis, x_values = axes[0, 0], spec["columns"]
    for row in table["rows"]:
        columns = [c for c in x_values if c in row["mean"]]
        x, mean = [x_values[c] for c in columns], [row["mean"][c] for c in columns]
        axis.errorbar(x, mean, yerr=[row["std"].get(c, 0) for c in columns], marker="o", capsize=2, label=row["name"])
    if spec.get("log", True):
        logarithmic(axis, "x")
    axis.set(xlabel=spec.get("xlabel", ""), ylabel=spec.get("ylabel", ""))
    axis.legend()
    return figure


def comparison(spec: dict, table: dict):
    """columns: a panel each. A row of the table is a point with its 95 % interval over seeds; dots are seeds, crosses published
    values.
    """
    columns = spec["columns"]
    rows = [row for row in table["rows"] if any(c in row["mean"] for c in columns)]
    figure, axes = canvas(min(WIDE, 3.0 * len(columns) + 0.6), 0.25 * len(rows) + 0.7, columns=len(columns))
    for axis, column in zip(axes[0], columns, strict=True):
        for y, row in enumerate(rows):
            if column not in row["mean"]:
                continue
            values = np.array(row["values"][column])
            axis.plot(values, np.full(len(values), y), "o", ms=2, color="#999999")
            axis.errorbar(row["mean"][column], y, xerr=interval(values), fmt="o", color="C0", capsize=2)
            if column in row["published"]:
                axis.plot(row["published"][column][0], y, "x", color="C1")
        axis.set_yticks(range(len(rows)), [row["name"] for row in rows] if axis is axes[0, 0] else [""] * len(rows))
        axis.set(ylim=(len(rows) - 0.5, -0.5), xlabel=table["columns"][column].get("title", column))
    return figure


def interval(values: np.ndarray) -> float:
    """Half of Student's 95 % interval of the mean; 0 of a single value."""
    from scipy.stats import t

    n = len(values)
    return float(t.ppf(0.975, n - 1) * values.std(ddof=1) / n**0.5) if n > 1 else 0.0


def front(spec: dict, table: dict):
    """study: results.json of a search; x: a cost. Left all trials and their Pareto front, right accuracy by trial."""
    study, cost = read(spec["study"]), spec.get("x", "macs")
    trained = [t for t in study["trials"] if t["rungs"]]
    last = max(t["rungs"][-1]["epochs"] for t in trained)
    figure, axes = canvas(WIDE, 2.6, columns=2)
    left, right = axes[0]
    complete = [t for t in trained if t["rungs"][-1]["epochs"] == last]
    early = [t for t in trained if t["rungs"][-1]["epochs"] < last]
    for trials, size, alpha, label in ((early, 6, 0.4, "stopped early"), (complete, 16, 0.9, "to the end")):
        points = [(t["costs"][cost], t["rungs"][-1]["values"][0]) for t in trials]
        left.scatter(*zip(*points, strict=True) if points else ([], []), s=size, alpha=alpha, label=label)
    points = sorted((t["costs"][cost], -t["rungs"][-1]["values"][0]) for t in complete)
    best = np.minimum.accumulate([y for _, y in points])
    front_points = [(x, -y) for i, (x, y) in enumerate(points) if not i or y < best[i - 1]]
    left.plot(*zip(*front_points, strict=True), color="#000000", lw=0.8, zorder=0, label="front")
    logarithmic(left, "x")
    left.set(xlabel=spec.get("xlabel", "multiply-adds, M"), ylabel=spec.get("ylabel", "validation accuracy, %"))
    left.legend()
    values = [t["rungs"][-1]["values"][0] for t in trained]
    right.plot(range(1, len(values) + 1), values, "o", ms=2, alpha=0.5)
    right.step(range(1, len(values) + 1), np.maximum.accumulate(values), where="post", color="C1", label="best so far")
    right.set(xlabel="trial", ylabel=spec.get("ylabel", "validation accuracy, %"))
    right.legend()
    return figure


def architecture(spec: dict, table: dict):
    """study: results.json of a search. Its best encoder: a box a block, as high as the logarithm of its channels.

    Raises ValueError where that encoder has no stages.
    """
    from matplotlib.patches import Rectangle

    study = read(spec["study"])
    encoder = next(t["encoder"] for t in study["trials"] if t["number"] == study["front"][0])
    arguments = dict(encoder["arguments"])
    if "layers" in arguments and "channels" in arguments:  # timm's ResNets
        shapes = zip(arguments.pop("layers"), arguments.pop("channels"), strict=True)
        arguments["stages"] = [("basic", depth, channels, 3) for depth, channels in shapes]
    if "stages" not in arguments:
        raise ValueError(f"{encoder['name']} is not built of stages")
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
    rest = {"resolution": encoder["image_size"], "stem": encoder["stem"], **arguments}
    axis.text(0, -0.12, f"{encoder['name']}: " + ", ".join(f"{k} {v}" for k, v in rest.items()), va="top", fontsize=7)
    axis.set(xlim=(-0.2, max(x, 6)), ylim=(-0.5, highest + 0.8))
    axis.set_axis_off()
    return figure


def confusion(spec: dict, table: dict):
    """file: figures.json of an evaluation. Shares of each true class, counts where they can be read."""
    figures = read(first(spec["file"]))
    counts, names = np.array(figures["confusion"]), figures["classes"]
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1) * 100
    side = min(WIDE, 0.3 * len(names) + 1.6)
    figure, axes = canvas(side, side * 0.9)
    axis = axes[0, 0]
    shown = axis.imshow(share, cmap="Blues", vmin=0, vmax=100, interpolation="nearest")
    if len(names) <= 20:
        for (i, j), count in np.ndenumerate(counts):
            if count:
                color = "white" if share[i, j] > 55 else "black"
                axis.text(j, i, f"{count:g}", ha="center", va="center", fontsize=5, color=color)
        axis.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
        axis.set_yticks(range(len(names)), names)
    axis.set(xlabel="predicted", ylabel="true")
    axis.grid(False)
    figure.colorbar(shown, shrink=0.8, label="of the true class, %")
    return figure


def embedding(spec: dict, table: dict):
    """file: figures.json of an evaluation; show: which of its maps, a panel each. Points have their labels' colors."""
    figures = read(first(spec["file"]))
    labels, names = np.array(figures["labels"]), figures["classes"]
    shown = spec.get("show", ["PCA", "t-SNE", "UMAP"])
    maps = {title: points for title, points in figures["map"].items() if title.split()[0] in shown}
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
    """The file of the first seed, where a cell has one for each seed."""
    return paths if isinstance(paths, str) else paths[0]


def scaling(spec: dict, table: dict):
    """results: a JSON of experiments.speed.scaling. Images a second by processes, beside N times the rate of one."""
    results = read_committed(spec["results"])
    cases = sorted(results["cases"].values(), key=lambda case: case["processes"])
    figure, axes = canvas()
    axis, one = axes[0, 0], np.median([case["peer"]["median"] for case in cases])
    counts = [1, *(case["processes"] for case in cases)]
    rates = [one, *(case["ours"]["median"] for case in cases)]
    low, high = ([0, *(abs(case["ours"][end] - case["ours"]["median"]) for case in cases)] for end in ("min", "max"))
    axis.plot(counts, [one * count for count in counts], color="#999999", ls="--", label="N times one")
    axis.errorbar(counts, rates, yerr=[low, high], marker="o", capsize=2, label="measured")
    axis.set_xticks(counts)
    machine = results["hardware"]["gpu"] or results["hardware"]["cpu"]
    axis.set(xlabel=f"processes; {machine}", ylabel="images/s", ylim=(0, None))
    axis.legend()
    return figure


def speed(spec: dict, table: dict):
    """results: a JSON of experiments/speed. Our speed over the peer's, with the minimum and maximum of the rounds."""
    results = read_committed(spec["results"])
    cases = list(results["cases"].items())
    figure, axes = canvas(WIDE, 0.28 * len(cases) + 0.6)
    axis = axes[0, 0]
    for y, (_, case) in enumerate(cases):
        ratio = case["ratio"]
        spread = [[ratio["median"] - ratio["min"]], [ratio["max"] - ratio["median"]]]
        axis.barh(y, ratio["median"], xerr=spread, height=0.6, color="C0", capsize=2, error_kw={"lw": 0.8})
    axis.axvline(1, color="#444444", lw=0.8)
    axis.set_yticks(range(len(cases)), [f"{name} ({case['against']})" for name, case in cases])
    machine = results["hardware"]["gpu"] or results["hardware"]["cpu"]
    axis.set(ylim=(len(cases) - 0.5, -0.5), xlabel=f"ours over the peer's, {results['unit']}; {machine}")
    return figure


KINDS = {
    "curves": curves, "image": image, "lines": lines, "comparison": comparison, "front": front, "architecture": architecture,
    "confusion": confusion, "embedding": embedding, "scaling": scaling, "speed": speed,
}
