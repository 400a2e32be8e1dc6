"""INT8 of an exported model, by the first kind that passes the gate: as accurate, within a point, and faster."""
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from core.run import counting, log_line
from deploy import onnxruntime_int8, runtime, torchao_int8
from deploy.accuracy import accuracy
from deploy.compare import reason
from deploy.export_module import ExportModule
from deploy.settings import ExportSettings
from deploy.timing import interleaved
from linear_eval.features import evenly
from vision.splits import Dataset

ORDER = ("static", "channel", "mixed", "dynamic", "torchao", "trained")


@dataclass(frozen=True)
class QuantizeResult:
    """kind: the one that passed, None where none did; refused: kind → why, of those tried before it."""

    kind: str | None
    refused: dict[str, str]


def gate_failure(settings: ExportSettings, float_accuracy: float, accuracy: float, p50: float, float_p50: float) -> str | None:
    """Why an INT8 version does not pass; None where it does: it loses few points and is faster, or `smaller` is set.

    Accuracies in per cent; milliseconds of one image, in INT8 and in float, timed together.
    """
    lost = float_accuracy - accuracy
    if not lost <= settings.most_lost:  # NaN fails too
        return f"loses {lost:.1f} points on validation images; {settings.most_lost:g} are allowed"
    if p50 >= float_p50 and not settings.smaller:
        return f"is not faster: {p50:.2f} ms an image against {float_p50:.2f} ms (smaller=true keeps it for its size)"
    return None


def first_passing(kinds: Iterable[str], evaluate: Callable[[str], str | None]) -> QuantizeResult:
    """Try the kinds in turn until one passes.  evaluate: writes and measures a kind, and returns why it does not pass"""
    refused = {}
    for kind in kinds:
        try:
            failure = evaluate(kind)
        except Exception as error:  # a model that onnxruntime's tools cannot convert, or a file that it cannot run
            failure = f"could not be made: {reason(error)}"
        if failure is None:
            return QuantizeResult(kind, refused)
        refused[kind] = failure
    return QuantizeResult(None, refused)


def quantize(
    settings: ExportSettings, module: ExportModule, data: Dataset, source: Path, out: Path, threads: int
) -> QuantizeResult:
    """Write the INT8 version of the module's ONNX file `source` to `out`; no file is left where no kind passes."""
    image, exact = module.preprocess(data.validation, torch.arange(1)), runtime.onnx_file(source, threads)
    batches = [module.preprocess(data.train, part) for part in evenly(len(data.train), settings.calibration).split(32)]

    def write(kind: str) -> None:
        log_line(f"INT8: {kind}")
        if kind == "torchao":
            torchao_int8.write(module, out, batches)
        elif kind == "trained":
            steps, images = settings.int8_steps, module.random_batches(data.train, settings.seed)
            with counting("training in INT8") as progress:
                torchao_int8.write_trained(module, out, images, steps, lambda n: progress(n, steps))
        else:
            onnxruntime_int8.write(kind, source, out, batches)

    def evaluate(kind: str) -> str | None:
        write(kind)
        score = accuracy(runtime.onnx_file(out, threads), module, data, data.validation)
        timings = interleaved({"INT8": partial(runtime.onnx_file(out, threads), image), "float": partial(exact, image)}, 1)
        return gate_failure(settings, float_accuracy, score, timings["INT8"].p50, timings["float"].p50)

    float_accuracy = accuracy(exact, module, data, data.validation)
    result = first_passing(ORDER if settings.int8 == "auto" else [settings.int8], evaluate)
    if result.kind is None:
        out.unlink(missing_ok=True)
    return result
