"""What an export is worth, on a page: every version's accuracy and speed, which to use, and why others are not there."""
import json
from pathlib import Path

from core import checkpoint
from core.figures import COLOURS, canvas, drawn, logarithmic

AGAINST = "against: "  # before the names of another model's versions


def verdict(rows: dict[str, dict], most_lost: float) -> str:
    """The version of the lowest latency among those that keep torch's accuracy."""
    exact = rows["torch"]["accuracy"]
    rows = {name: row for name, row in rows.items() if not name.startswith(AGAINST)}
    good = {name: row for name, row in rows.items() if exact - row["accuracy"] <= most_lost}
    best = min(good, key=lambda name: good[name]["p50"])
    gain = rows["torch"]["p50"] / good[best]["p50"]
    if best == "torch":
        return "Use torch as it is: nothing here is faster."
    where = f" ({rows[best]['file']})" if rows[best]["file"] else ""
    return (
        f"Use {best}{where}: {gain:.1f}× torch's speed at one image, "
        f"{good[best]['accuracy'] - exact:+.2f} points of accuracy."
    )


def comparison(kept: dict) -> str:
    """Beside the other model, by onnxruntime."""
    (mine, other), costs = (kept["rows"][name] for name in ("onnxruntime", f"{AGAINST}onnxruntime")), kept["against"]
    return (
        f"Against {costs['encoder']}: {kept['macs'] / costs['macs']:.0%} of its multiply-adds, "
        f"{kept['parameters'] / costs['parameters']:.0%} of its parameters, {other['p50'] / mine['p50']:.2f}× its speed at one "
        f"image, {mine['images_per_second'] / other['images_per_second']:.2f}× at {kept['batch']}, "
        f"{mine['accuracy'] - other['accuracy']:+.2f} points of accuracy (onnxruntime)."
    )


def text(kept: dict) -> str:
    alone = kept["alone"]
    agree = [f"{name} {row['same class as torch']:.1%}" for name, row in alone["files"].items() if "same class as torch" in row]
    lines = [
        f"# {Path(kept['encoder']).name} on {kept['data']}", "", kept["verdict"], "",
        *([comparison(kept), ""] if kept["against"] and {"onnxruntime", f"{AGAINST}onnxruntime"} <= {*kept["rows"]} else []),
        f"{kept['parameters']:.2f} M parameters, {kept['macs']:.1f} M multiply-adds; {kept['hardware']['cpu']}, "
        f"{kept['threads']} thread{'s' * (kept['threads'] > 1)}; latency of one image, throughput of {kept['batch']}.", "",
        f"| version | {kept['judged']}, test, % | p50, ms | p95, ms | images/s | MB |", "|---|---|---|---|---|---|",
    ]
    for name, row in kept["rows"].items():
        lines.append(
            f"| {name} | {row['accuracy']:.2f} | {row['p50']:.2f} | {row['p95']:.2f} | {row['images_per_second']:,.0f} "
            f"| {row['megabytes']:.2f} |"
        )
    if alone["files"]:
        lines += [
            "", f"Read again in a process without torch, the ONNX files answer {alone['images']} test images as they do here"
            + (f"; the class is torch's for: {', '.join(agree)}." if agree else "."),
        ]
    lines += ["", *(f"- {name}: {needs(row, kept)}" for name, row in kept["onnx"].items()), "", taken(kept["input"])]
    lines += ["", *(f"- not {name}: {why}" for name, why in kept["refused"].items())]
    return "\n".join(lines).rstrip() + "\n"


def needs(row: dict, kept: dict) -> str:
    """What reads an ONNX file."""
    opsets = ", ".join(f"{domain} {version}" for domain, version in row["opsets"].items())
    least = f"{row['onnxruntime']} or newer" if row["onnxruntime"] else f"{kept['versions'].get('onnxruntime')}, which wrote it"
    return f"IR version {row['ir']}, opset {opsets}; needs onnxruntime {least}."


def taken(stated: dict) -> str:
    """How images are made into the files' input."""
    how, colors = stated["preprocessing"], "grey" if stated["channels"] == 1 else "RGB"
    resize = f"{how['resize']} to {how['size']} px ({how['interpolation']}, antialiased), the {how['crop']} square"
    if stated["preprocess"]:
        return f"Input: upright {colors} images of any size, bytes 0 … 255; inside the files: {resize}, normalization."
    return f"Input: upright {colors} images, {resize}, scaled to [0, 1], minus {how['mean']}, divided by {how['std']}."


@drawn
def picture(kept: dict):
    """Accuracy over latency."""
    figure, ((axis,),) = canvas(6, 4)
    for name, row in kept["rows"].items():
        axis.scatter(row["p50"], row["accuracy"], s=20 + 12 * row["megabytes"], alpha=0.7,
                     color=COLOURS[1 if name.startswith(AGAINST) else 0])
        axis.annotate(name, (row["p50"], row["accuracy"]), textcoords="offset points", xytext=(6, 6), fontsize=8)
    axis.set(xlabel="latency of one image, median, ms", ylabel=f"{kept['judged']} on test images, %")
    logarithmic(axis, "x")
    return figure


def write(out: Path, kept: dict) -> None:
    checkpoint.write(out / "card.png", picture(kept))
    checkpoint.write(out / "card.md", text(kept) + "\n![accuracy over latency](card.png)\n")
    checkpoint.write(out / "card.json", json.dumps(kept, indent=1) + "\n")
