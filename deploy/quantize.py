"""INT8 of an exported model, by the first kind that passes the gate: as accurate, within a point, and faster."""
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from core.run import counting, say
from deploy import onnxruntime_int8, runtime, torchao_int8
from deploy.accuracy import accuracy
from deploy.compare import reason
from deploy.export_module import ExportModule
from deploy.settings import ExportSettings
from deploy.timing import Case, interleaved
from linear_eval.features import evenly
from vision.splits import Dataset

ORDER = ("static", "channel", "mixed", "dynamic", "torchao", "trained")


@dataclass(frozen=True)
class QuantizeResult:
    """kind: the one that passed, None where none did; refused: kind → why, of those tried before it."""

    kind: str | None
    refused: dict[str, str]


@dataclass(frozen=True)
class Int8Scores:
    """Accuracy in per cent; milliseconds of one image in INT8 and in float, timed together."""

    accuracy: float
    p50: float
    float_p50: float


@dataclass(frozen=True)
class Gate:
    """What INT8 must pass: lose at most `most_lost` points of the float version's accuracy, and be faster.

    smaller: it may be slower, for its size alone.
    """

    float_accuracy: float
    most_lost: float
    smaller: bool

    def failure(self, scores: Int8Scores) -> str | None:
        """Why it does not pass; None where it does."""
        lost = self.float_accuracy - scores.accuracy
        if not lost <= self.most_lost:  # NaN fails too
            return f"loses {lost:.1f} points on validation images; {self.most_lost:g} are allowed"
        if scores.p50 >= scores.float_p50 and not self.smaller:
            speeds = f"{scores.p50:.2f} ms an image against {scores.float_p50:.2f} ms"
            return f"is not faster: {speeds} (smaller=true keeps it for its size)"
        return None


def first_passing(kinds: Iterable[str], evaluate: Callable[[str], Int8Scores], gate: Gate) -> QuantizeResult:
    """Try the kinds in turn until one passes.  evaluate: makes the file of a kind and measures it"""
    refused = {}
    for kind in kinds:
        try:
            failure = gate.failure(evaluate(kind))
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
        say(f"INT8: {kind}")
        if kind == "torchao":
            torchao_int8.write(module, out, batches)
        elif kind == "trained":
            steps, images = settings.int8_steps, module.random_batches(data.train, settings.seed)
            with counting("training in INT8") as progress:
                torchao_int8.write_trained(module, out, images, steps, lambda n: progress(n, steps))
        else:
            onnxruntime_int8.write(kind, source, out, batches)

    def evaluate(kind: str) -> Int8Scores:
        write(kind)
        score = accuracy(runtime.onnx_file(out, threads), module, data, data.validation)
        timings = interleaved({"INT8": Case(runtime.onnx_file(out, threads), image), "float": Case(exact, image)})
        return Int8Scores(score, timings["INT8"].p50, timings["float"].p50)

    kinds = ORDER if settings.int8 == "auto" else [settings.int8]
    gate = Gate(accuracy(exact, module, data, data.validation), settings.most_lost, settings.smaller)
    result = first_passing(kinds, evaluate, gate)
    if result.kind is None:
        out.unlink(missing_ok=True)
    return result
