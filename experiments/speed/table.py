"""Writes kept figures as a Markdown table and a chart. Figures of two machines or versions never share one."""
import json
from dataclasses import dataclass
from pathlib import Path

from experiments.speed.side_by_side import figure

TITLES = {
    "augment": "augmentation",
    "step": "SimCLR end to end",
    "losses": "loss, forward and backward",
    "startup": "start",
    "loaders": "loader",
    "decoding": "JPEG files",
    "ema": "teacher's update",
    "memory": "extra memory",
    "probe": "linear probe",
    "teacher": "second student of a teacher",
    "scaling": "processes",
    "masked": "patches left out",
}
PEER, SELF = "#0072B2", "#999999"  # Okabe and Ito's blue, which every kind of colour vision tells from grey
TICKS = (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)


def documents(folder: Path) -> dict[str, dict[str, dict]]:
    """Device ("cpu", "gpu") → benchmark → its JSON, in the order of TITLES.

    Raises ValueError where files of one device come from other hardware or versions.
    """
    by_device: dict[str, dict[str, dict]] = {}
    order = list(TITLES)
    paths = [path for path in folder.glob("*-[cg]pu.json") if name_of(path) in TITLES]
    for path in sorted(paths, key=lambda path: (path.stem[-3:], order.index(name_of(path)))):
        document, device = json.loads(path.read_text()), path.stem[-3:]
        same = by_device.setdefault(device, {})
        for first, other in list(same.items())[:1]:
            for key in ("hardware", "versions"):
                if document[key] != other[key]:
                    raise ValueError(
                        f"{path.name} has {key} {document[key]}, {first}-{device}.json {other[key]}: figures of both "
                        f"cannot share a table; measure one again (python -m experiments.speed --only … --keep)"
                    )
        same[name_of(path)] = document
    return by_device


def name_of(path: Path) -> str:
    return path.stem[:-4]


@dataclass(frozen=True)
class Pair:
    """A case.  is_package: is the peer another package, or a form of our own?  ratio: median, min and max, ours over peer's"""

    case: str
    peer: str
    is_package: bool
    peer_figure: str
    our_figure: str
    ratio: dict[str, float]


def pairs(benchmarks: dict[str, dict]) -> list[Pair]:
    return [
        Pair(
            f"{TITLES[name]}: {case.removesuffix('; ' + against(figures))}", named(against(figures), document["versions"]),
            against(figures).split()[0] in document["versions"], figure(figures["peer"]["median"], document["unit"]),
            figure(figures["ours"]["median"], document["unit"]), figures["ratio"],
        )
        for name, document in benchmarks.items()
        for case, figures in document["cases"].items()
    ]


def against(figures: dict) -> str:
    return figures.get("against", "lightly")


def named(peer: str, versions: dict[str, str]) -> str:
    """With its version, where it is a package: torchvision v2 → torchvision 0.29.2 v2."""
    package, *form = peer.split()
    return " ".join([package, versions[package], *form]) if package in versions else peer


def times(ratio: dict) -> str:
    return f"{ratio['median']:.3g}× ({ratio['min']:.3g} … {ratio['max']:.3g})"


def origin(benchmarks: dict[str, dict]) -> str:
    """Hardware and versions in a line."""
    document = next(iter(benchmarks.values()))
    h = document["hardware"]
    machine = f"{h['gpu']}, {h['cores']} cores of {h['cpu']}" if h["gpu"] else f"{h['cores']} cores of {h['cpu']}"
    return f"{machine}; " + ", ".join(f"{name} {version}" for name, version in document["versions"].items())


def markdown(by_device: dict[str, dict[str, dict]]) -> str:
    lines = ["Peer and ours in turn, in one run; medians, and the ratio's spread over rounds. Above 1× ours is better.", ""]
    for device, benchmarks in by_device.items():
        lines += [f"**{device.upper()}**: {origin(benchmarks)}", ""]
        lines += ["| what | peer | peer's | ours | ratio |", "|---|---|---|---|---|"]
        for p in pairs(benchmarks):
            lines.append(f"| {p.case} | {p.peer} | {p.peer_figure} | {p.our_figure} | {times(p.ratio)} |")
        lines.append("")
        notes = [note for document in benchmarks.values() for note in document.get("notes", {}).items()]
        lines += [*(f"- {key}: {value}" for key, value in notes), ""] if notes else []
    return "\n".join(lines).rstrip() + "\n"


def chart(by_device: dict[str, dict[str, dict]], path: Path) -> None:
    """Bars of the ratios with their spread, one panel a device; peers' packages in blue, forms of our own in grey."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter, NullFormatter

    panels = {device: pairs(benchmarks) for device, benchmarks in by_device.items()}
    heights = [len(r) + 2 for r in panels.values()]
    size = (10, 0.44 * sum(heights) + 0.6)
    picture, axes = pyplot.subplots(len(panels), 1, figsize=size, height_ratios=heights, squeeze=False, layout="constrained")
    for (device, bars), axis in zip(panels.items(), axes[:, 0], strict=True):
        middle = [bar.ratio["median"] for bar in bars]
        low = [m - bar.ratio["min"] for m, bar in zip(middle, bars, strict=True)]
        high = [bar.ratio["max"] - m for m, bar in zip(middle, bars, strict=True)]
        places = range(len(bars))
        colors = [PEER if bar.is_package else SELF for bar in bars]
        axis.barh(places, [m - 1 for m in middle], left=1, color=colors, height=0.7)  # to the right of 1× ours is better
        axis.errorbar(middle, places, xerr=[low, high], fmt="none", ecolor="black", capsize=3, linewidth=1)
        for place, bar in enumerate(bars):
            at = max(bar.ratio["max"], 1), place
            axis.annotate(f"{bar.ratio['median']:.3g}×", at, (5, 0), textcoords="offset points", va="center", fontsize=9)
        axis.set_xscale("log")
        ends = [1, *(bar.ratio["min"] for bar in bars), *(bar.ratio["max"] for bar in bars)]
        left, right = min(ends) / 1.15, max(ends) * 1.5
        axis.set_xlim(left, right)
        axis.axvline(1, color="black", linewidth=1)
        labels = [bar.case.replace(": ", f", against {bar.peer}\n", 1) for bar in bars]
        axis.set_yticks(places, labels, fontsize=8.5)
        axis.tick_params(axis="y", length=0)
        axis.set_ylim(-0.6, len(bars) - 0.4)
        axis.invert_yaxis()
        axis.set_xticks([t for t in TICKS if left <= t <= right])
        axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}×"))
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.grid(axis="x", color="#dddddd", linewidth=0.8)
        axis.set_axisbelow(True)
        for side in ("top", "right", "left"):
            axis.spines[side].set_visible(False)
        machine = next(iter(by_device[device].values()))["hardware"]
        axis.set_title(f"{machine['gpu'] or machine['cpu']}, {machine['cores']} cores", fontsize=10, loc="left")
    picture.supxlabel("times as good as the peer, log scale; blue: another package, grey: a form of our own", fontsize=9)
    picture.savefig(path, dpi=150)
    pyplot.close(picture)


def draw(folder: Path) -> list[Path]:
    """Write table.md and chart.png beside the JSON files.  → what was written; nothing where nothing is kept."""
    if not (by_device := documents(folder)):
        return []
    (folder / "table.md").write_text(markdown(by_device))
    drawn = {device: kept for device, kept in by_device.items() if pairs(kept)}
    if not drawn:
        return [folder / "table.md"]
    chart(drawn, folder / "chart.png")
    return [folder / "table.md", folder / "chart.png"]
