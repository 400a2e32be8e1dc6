"""How long encoders take: frameworks, batch sizes and threads beside each other, on this machine.

    uv run python -m deploy.latency --encoders small,resnet18,runs/x/encoder.safetensors --batches 1,64 --threads 1,8

writes latency.csv (a row a measurement), report.html, report.md and results.json, which names the hardware.
"""
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from core import cli, ranges, training
from core.identity import identity
from core.image_size import Size, size_text
from deploy.compare import TOLERANCE, reason
from deploy.latency_report import LatencyResult, LatencyRow
from deploy.settings import FRAMEWORKS, LatencySettings

SUFFIX = ".safetensors"  # of encoder files
ROOT = Path(__file__).resolve().parent.parent
TOOL = cli.Tool(
    module="deploy.latency",
    primary=ROOT / "deploy" / "latency.yaml",
    searched=(),
    summary="Measure latency: python -m deploy.latency --encoders small,resnet18 --batches 1,64",
    settings=LatencySettings,
)


def main() -> int:
    return cli.main(TOOL, start)


def start(settings: LatencySettings) -> int:
    check(settings)

    from core import guard

    return guard.run_guarded(partial(run, settings))


def run(settings: LatencySettings) -> int:
    """The command: measure, and print the table."""
    result = latency(settings)
    print(result.text)
    print(f"files: {result.folder}")
    return 0


def check(settings: LatencySettings) -> None:
    """Refuse what can be refused before anything is loaded."""
    wrong = {name: "more than 0" for name in ("channels",) if not getattr(settings, name) > 0}
    if not set(settings.frameworks.split(",")) <= set(FRAMEWORKS):
        wrong["frameworks"] = f"some of {', '.join(FRAMEWORKS)}, by commas"
    wrong |= {} if settings.device in ("cpu", "cuda") else {"device": "cpu or cuda"}
    training.refuse(cli.flat(settings), wrong)
    if min(numbers(settings, "batches")) < 1:
        raise ValueError(f"batches={settings.batches}: must be 1 or more")
    numbers(settings, "threads")


def numbers(settings: LatencySettings, name: str) -> list[int]:
    """"1,8" → [1, 8].  Raises ValueError."""
    try:
        parts = [int(part) for part in getattr(settings, name).split(",")]
    except ValueError as error:
        raise ValueError(f"{name}={getattr(settings, name)}: must be whole numbers by commas, such as 1,8") from error
    if min(parts) < 0:
        raise ValueError(f"{name}={getattr(settings, name)}: must be 0 or more")
    ranges.check({name: parts})
    return parts


def latency(settings: LatencySettings) -> LatencyResult:
    """Measure every encoder, framework, batch size and number of threads, and write the report.

    Raises ValueError, and RunError where nothing could be measured.
    """
    check(settings)

    from core.errors import RunError
    from core.machine import cores, provenance_of
    from core.measured import Configured
    from core.page import write_report
    from core.processes import pick_device
    from core.run import Run, counting, log_line
    from deploy import export_module

    device = pick_device(settings.device, 0)
    run = Run(training.folder(settings, "latency"), settings)
    names, threads = settings.encoders.split(","), [n or cores() for n in numbers(settings, "threads")]
    size = named_input(settings)
    modules = {name: export_module.named(name, size.channels, size.image_size) for name in names}
    run.begin()
    if size.source and any(not name.endswith(SUFFIX) for name in names):
        log_line(size.text)
    rows: list[LatencyRow] = []
    missing: dict[str, str] = {}
    with counting("measuring") as progress, tempfile.TemporaryDirectory() as folder:
        onnx = onnx_files(settings, modules, Path(folder))
        for done, count in enumerate(threads):
            measured, absent = measure(settings, modules, onnx, device, count)
            rows, missing = rows + measured, missing | absent
            progress(done + 1, len(threads))
    rows.sort(key=lambda row: (names.index(row.encoder), threads.index(row.threads)))
    if not rows:
        raise RunError(f"nothing could be measured: {'; '.join(f'{name}: {why}' for name, why in missing.items())}")
    provenance = {"words": identity(settings)} | provenance_of([0], ("torch", "onnxruntime", "timm"))
    provenance["hardware"] |= {"threads": threads}
    result = LatencyResult(run.folder, rows, missing, provenance)
    run.write("latency.csv", result.csv)
    run.write("results.json", json.dumps(result.json, indent=1) + "\n")
    write_report(run.write, lambda: result.page(Configured(TOOL, settings)))
    return result


@dataclass(frozen=True)
class NamedInput:
    """The input of encoders by name.  source: the file that has it, None where the settings have it"""

    image_size: Size
    channels: int
    source: str | None = None

    @property
    def text(self) -> str:
        return (f"encoders by name at {size_text(self.image_size)} px and {self.channels} channels, as {self.source}; "
                "image_size= and channels= set others")


def named_input(settings: LatencySettings) -> NamedInput:
    """The first file's input, where one is measured beside and neither setting is set.  Raises ValueError."""
    from vision import artifact

    default, files = LatencySettings(), [name for name in settings.encoders.split(",") if name.endswith(SUFFIX)]
    given = {"image_size", "channels"} & settings.origin.names
    if not files or given or (settings.image_size, settings.channels) != (default.image_size, default.channels):
        return NamedInput(settings.image_size, settings.channels)
    spec = artifact.read_header(cli.expand(files[0])).spec
    return NamedInput(spec.image_size, spec.channels, files[0])


def onnx_files(settings: LatencySettings, modules: dict, folder: Path) -> dict[str, Path | str]:
    """Of every encoder its ONNX file, where a framework reads one, or why there is none."""
    if not {"onnxruntime", "TensorRT"} & set(settings.frameworks.split(",")):
        return dict.fromkeys(modules, folder)
    return {name: write_onnx(module, folder / f"{i}.onnx") for i, (name, module) in enumerate(modules.items())}


def measure(
    settings: LatencySettings, modules: dict, onnx: dict[str, Path | str], device, threads: int
) -> tuple[list[LatencyRow], dict[str, str]]:
    """(the rows of all encoders at so many threads, what is missing and why).  They are timed in turn.

    modules: by the encoder's name, on the CPU or the device; onnx: their files (`onnx_files`)
    """
    import torch

    from deploy.timing import interleaved
    from vision import artifact, cost

    frameworks, missing = settings.frameworks.split(","), {}
    ready: dict[tuple[str, str], Callable] = {}
    about = {}
    torch.set_num_threads(threads)
    for name, module in modules.items():
        encoder = artifact.encoder_in(module.model)
        about[name] = {"encoder": name, "image_size": encoder.spec.image_size, "device": device.type,
                       "parameters": cost.parameters(encoder), "macs": cost.macs(encoder)}
        made, absent = runners(frameworks, name, module.to(device), onnx[name], threads, device)
        ready |= {(name, framework): runner for framework, runner in made.items()}
        missing |= absent
    rows = []
    for batch in numbers(settings, "batches"):
        images = {name: module.example(batch).numpy() for name, module in modules.items()}
        timings = interleaved({key: partial(runner, images[key[0]]) for key, runner in ready.items()}, batch)
        rows += [LatencyRow(**about[name], framework=framework, threads=threads, batch=batch, **asdict(timing))
                 for (name, framework), timing in timings.items()]
    return rows, missing


def write_onnx(module, file: Path) -> Path | str:
    """The module's ONNX file, compared with torch; where it cannot be written or differs, the reason."""
    from deploy import runtime

    unchecked = file.with_name(f".unchecked.{file.name}")
    try:
        runtime.write_onnx(module, unchecked)
        by = runtime.distance(runtime.onnx_file(unchecked), runtime.eager(module), module, batches=(2,))
        return unchecked.replace(file) if by <= TOLERANCE else f"differs from torch by {by:.1e} of the largest output"
    except Exception as error:  # the exporter fails in many ways; the other frameworks are measured
        return f"failed: {reason(error)}"
    finally:
        unchecked.unlink(missing_ok=True)


def runners(frameworks: list[str], name: str, module, file: Path | str, threads: int, device) -> tuple[dict, dict[str, str]]:
    """({framework: runner}, {framework: why it is missing}).  name: the encoder's; file: the module's ONNX file, or why none"""
    from deploy import runtime

    make = {
        "torch": lambda: runtime.eager(module, device),
        "torch.compile": lambda: runtime.compiled(module, device),
        "onnxruntime": lambda: runtime.onnx_file(file, threads, device),
        "TensorRT": lambda: runtime.tensorrt(file),
    }
    ready, missing = {}, {}
    for framework in frameworks:
        if isinstance(file, str) and framework in ("onnxruntime", "TensorRT"):
            missing[f"{framework} of {name}"] = file
            continue
        try:
            runner = make[framework]()
            runner(module.example(1).numpy())  # torch.compile compiles here
        except runtime.Unavailable as error:
            missing[framework] = str(error)
        except Exception as error:
            missing[f"{framework} of {name}"] = f"failed: {reason(error)}"
        else:
            ready[framework] = runner
    return ready, missing


if __name__ == "__main__":
    sys.exit(main())
