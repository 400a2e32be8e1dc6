"""What an export is worth, on a page: every version's accuracy and speed, which to use, and why others are not there."""
import io
import json
from pathlib import Path

from core import checkpoint


def verdict(rows: dict[str, dict], most_lost: float) -> str:
    """The version of the lowest latency among those that keep torch's accuracy."""
    exact = rows["torch"]["accuracy"]
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


def text(kept: dict) -> str:
    lines = [
        f"# {Path(kept['encoder']).name} on {kept['data']}", "", kept["verdict"], "",
        f"{kept['parameters']:.2f} M parameters, {kept['macs']:.1f} M multiply-adds; {kept['hardware']['cpu']}, "
        f"{kept['threads']} threads; latency of one image, throughput of {kept['batch']}.", "",
        f"| version | {kept['judged']}, test, % | p50, ms | p95, ms | images/s | MB |", "|---|---|---|---|---|---|",
    ]
    for name, row in kept["rows"].items():
        lines.append(
            f"| {name} | {row['accuracy']:.2f} | {row['p50']:.2f} | {row['p95']:.2f} | {row['images_per_second']:,.0f} "
            f"| {row['megabytes']:.2f} |"
        )
    lines += ["", *(f"- not {name}: {why}" for name, why in kept["refused"].items())]
    return "\n".join(lines).rstrip() + "\n"


def picture(kept: dict) -> bytes:
    """Accuracy over latency."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    for name, row in kept["rows"].items():
        axis.scatter(row["p50"], row["accuracy"], s=20 + 12 * row["megabytes"], color="#0072B2", alpha=0.7)
        axis.annotate(name, (row["p50"], row["accuracy"]), textcoords="offset points", xytext=(6, 6), fontsize=8)
    axis.set(xlabel="latency of one image, median, ms", ylabel=f"{kept['judged']} on test images, %", xscale="log")
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110, metadata={"Software": None})
    plt.close(figure)
    return buffer.getvalue()


def write(out: Path, kept: dict) -> None:
    checkpoint.write(out / "card.png", picture(kept))
    checkpoint.write(out / "card.md", text(kept) + "\n![accuracy over latency](card.png)\n")
    checkpoint.write(out / "card.json", json.dumps(kept, indent=1) + "\n")
