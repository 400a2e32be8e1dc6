"""How long encoders take: frameworks, batch sizes and threads beside each other, on this machine.

    uv run python -m deploy.latency --encoders small,resnet18,runs/x/encoder.safetensors --batches 1,64 --threads 1,8

leaves latency.csv (a row a measurement), latency.md, latency.png and results.json, which names the hardware.
"""
import csv
import io
import json
import sys
from functools import partial
from pathlib import Path

from core import cli, ranges, training
from core.figures import canvas, drawn, logarithmic
from core.identity import identity
from deploy.compare import CLOSE, reason
from deploy.settings import FRAMEWORKS, LatencySettings

ROOT = Path(__file__).resolve().parent.parent
TOOL = cli.Tool(
    module="deploy.latency",
    primary=ROOT / "deploy" / "latency.yaml",
    searched=(),
    summary="Measure latency: python -m deploy.latency --encoders small,resnet18 --batches 1,64",
    settings=LatencySettings,
)
COLUMNS = ("encoder", "framework", "device", "threads", "batch", "parameters", "macs", "p50", "p95", "p99", "images_per_second")


def main() -> int:
    return cli.main(TOOL, start)


def start(settings: LatencySettings) -> int:
    check(settings)

    from core import distributed

    return distributed.guarded(partial(run, settings))


def check(settings: LatencySettings) -> None:
    """Refuse what can be refused before anything is loaded."""
    wrong = {name: "more than 0" for name in ("image_size", "channels") if not getattr(settings, name) > 0}
    named = settings.frameworks.split(",")
    if not set(named) <= set(FRAMEWORKS):
        wrong["frameworks"] = f"some of {', '.join(FRAMEWORKS)}, by commas"
    wrong |= {} if settings.device in ("cpu", "cuda") else {"device": "cpu or cuda"}
    training.refuse(cli.flat(settings), wrong)
    if min(numbers(settings, "batches")) < 1:
        raise ValueError(f"batches={settings.batches}: must be 1 or more")
    numbers(settings, "threads")


def numbers(settings: LatencySettings, name: str) -> list[int]:
    """"1,8" → [1, 8].  Raises ValueError."""
    try:
        found = [int(part) for part in getattr(settings, name).split(",")]
    except ValueError as error:
        raise ValueError(f"{name}={getattr(settings, name)}: must be whole numbers by commas, such as 1,8") from error
    if min(found) < 0:
        raise ValueError(f"{name}={getattr(settings, name)}: must be 0 or more")
    ranges.check({name: found})
    return found


def run(settings: LatencySettings) -> int:
    import torch

    from core.distributed import pick_device
    from core.errors import RunError
    from core.machine import code, cores, hardware, versions
    from core.run import Run, counting
    from deploy import portable
    from deploy.timing import interleaved
    from vision import artifact, cost

    device = pick_device(settings.device, 0)
    place = Run(training.folder(settings, "latency"), settings)
    modules = {name: portable.named(name, settings.channels, settings.image_size) for name in settings.encoders.split(",")}
    place.begin()
    rows, missing, frameworks = [], {}, settings.frameworks.split(",")
    counts, batches = [n or cores() for n in numbers(settings, "threads")], numbers(settings, "batches")
    with counting("measuring") as progress:
        for number, (name, module) in enumerate(modules.items()):
            encoder, file = artifact.encoder_in(module.model), place.folder / "model.onnx"
            shared = {"encoder": name, "device": device.type}
            shared |= {"parameters": cost.parameters(encoder), "macs": cost.macs(encoder)}
            onnx = written(module, file) if {"onnxruntime", "TensorRT"} & set(frameworks) else file
            module.to(device)
            for again, threads in enumerate(counts):
                torch.set_num_threads(threads)
                asked, absent = answers(frameworks, name, module, onnx, threads, device)
                missing |= absent
                for batch in batches:
                    images = module.example(batch).numpy()
                    found = interleaved({framework: (answer, images) for framework, answer in asked.items()})
                    case = shared | {"threads": threads, "batch": batch}
                    rows += [case | {"framework": framework} | found[framework] for framework in asked]
                progress(number * len(counts) + again + 1, len(modules) * len(counts))
    if not rows:
        raise RunError(f"nothing could be measured: {'; '.join(f'{name}: {why}' for name, why in missing.items())}")
    kept = {"rows": rows, "missing": missing, "hardware": hardware() | {"threads": counts}, "code": code(),
            "versions": versions(("torch", "onnxruntime", "timm")), "words": identity(settings)}
    place.write("latency.csv", table(rows))
    place.write("latency.png", picture(rows))
    place.write("latency.md", text(kept) + "\n![latency](latency.png)\n")
    place.write("results.json", json.dumps(kept, indent=1) + "\n")
    print(text(kept))
    print(f"files: {place.folder}")
    return 0


def written(module, file: Path) -> Path | str:
    """The module's ONNX file, read again; where it cannot be had, or answers otherwise than torch, why."""
    from deploy import runtime

    unchecked = file.with_name(f".unchecked.{file.name}")
    try:
        runtime.write_onnx(module, unchecked)
        by = runtime.distance(runtime.onnx_file(unchecked), runtime.eager(module), module, counts=(2,))
        return unchecked.replace(file) if by <= CLOSE else f"differs from torch by {by:.1e} of the largest output"
    except Exception as error:  # the exporter fails in many ways; the other frameworks are measured
        return f"failed: {reason(error)}"
    finally:
        unchecked.unlink(missing_ok=True)


def answers(frameworks: list[str], name: str, module, file: Path | str, threads: int, device) -> tuple[dict, dict[str, str]]:
    """({framework: answer}, {framework: why it is not there}).  name: the encoder's; file: the module's ONNX, or why none"""
    from deploy import runtime

    found, missing = {}, {}
    for framework in frameworks:
        try:
            match framework:
                case "torch":
                    answer = runtime.eager(module, device)
                case "torch.compile":
                    answer = runtime.compiled(module, device)
                case "onnxruntime":
                    answer = file if isinstance(file, str) else runtime.onnx_file(file, threads, device)
                case "TensorRT":
                    answer = file if isinstance(file, str) else runtime.tensorrt(file)
            if isinstance(answer, str):
                missing[framework if answer is not file else f"{framework} of {name}"] = answer
                continue
            answer(module.example(1).numpy())  # torch.compile begins here
        except Exception as error:
            missing[f"{framework} of {name}"] = f"failed: {reason(error)}"
        else:
            found[framework] = answer
    return found, missing


def table(rows: list[dict]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({c: f"{v:.6g}" if isinstance(v := row[c], float) else v for c in COLUMNS} for row in rows)
    return text.getvalue()


@drawn
def picture(rows: list[dict]):
    """Latency over the batch's size, a panel an encoder; whiskers reach to the 95th percentile."""
    names = list(dict.fromkeys(row["encoder"] for row in rows))
    figure, (axes,) = canvas(4.2 * len(names), 3.6, columns=len(names))
    for axis, name in zip(axes, names, strict=True):
        mine = [row for row in rows if row["encoder"] == name]
        for framework, threads in dict.fromkeys((row["framework"], row["threads"]) for row in mine):
            line = [row for row in mine if (row["framework"], row["threads"]) == (framework, threads)]
            p50 = [row["p50"] for row in line]
            up = [[0] * len(line), [row["p95"] - row["p50"] for row in line]]
            label = f"{framework}, {threads} thread{'s' * (threads > 1)}"
            axis.errorbar([row["batch"] for row in line], p50, yerr=up, marker="o", ms=3, capsize=2, label=label)
        axis.set(title=Path(name).parent.name if "/" in name else name, xlabel="images at once", ylabel="median, ms")
        for which in "xy":
            logarithmic(axis, which)
        axis.legend(fontsize=7)
    return figure


def text(kept: dict) -> str:
    """The table in Markdown, with the machine's name."""
    head = ("encoder", "framework", "threads", "images", "p50, ms", "p95, ms", "p99, ms", "images/s")
    machine = kept["hardware"]["gpu" if kept["rows"][0]["device"] == "cuda" else "cpu"]
    lines = [f"{machine}; medians, 95th and 99th percentiles", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in kept["rows"]:
        lines.append(
            f"| {row['encoder']} ({row['parameters']:.2f} M, {row['macs']:.0f} M multiply-adds) | {row['framework']} "
            f"| {row['threads']} | {row['batch']} | {row['p50']:.2f} | {row['p95']:.2f} | {row['p99']:.2f} "
            f"| {row['images_per_second']:,.0f} |"
        )
    return "\n".join([*lines, "", *(f"- not {name}: {why}" for name, why in kept["missing"].items())]).rstrip() + "\n"


if __name__ == "__main__":
    sys.exit(main())
