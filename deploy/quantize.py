"""INT8 by onnxruntime after training, and the gate that it must pass: as accurate, within a point, and faster.

Weights INT8, activations unsigned: the pairing that x86's VNNI multiplies (measured: signed activations are three times
slower there). Ranges of activations come from real images.
"""
import logging
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from deploy import runtime
from deploy.compare import reason

ORDER = ("static", "channel", "mixed", "dynamic", "torchao", "trained")
KINDS = ("Conv", "Gemm", "MatMul")  # what INT8 is worth it for
KEPT = 3  # layers that `mixed` leaves in float


class Images(CalibrationDataReader):
    def __init__(self, batches: Iterable[np.ndarray]):
        self.batches = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.batches, None)
        return None if batch is None else {"images": batch}


def quantize(kind: str, source: Path, out: Path, batches: list[np.ndarray]) -> None:
    """A file of ONNX → the same in INT8.  kind: static, channel (weights' scales a channel each), mixed (the layers that
    suffer most stay float) or dynamic (activations' ranges are taken as they come); batches: images as the file takes them.
    """
    logging.getLogger().setLevel(logging.ERROR)  # its advice to preprocess, which is what is done
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "ready.onnx"
        quant_pre_process(source, ready, skip_symbolic_shape=True)  # without, dynamo's files break it
        if kind == "dynamic":
            quantize_dynamic(ready, out, weight_type=QuantType.QInt8)
            return
        skipped = sensitive(ready, Path(folder), batches)[:KEPT] if kind == "mixed" else []
        _static(ready, out, batches, per_channel=kind != "static", nodes_to_exclude=skipped)


def _static(source: Path, out: Path, batches: list[np.ndarray], **how) -> None:
    quantize_static(
        source, out, Images(batches), quant_format=QuantFormat.QDQ, activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8, **how,
    )


def sensitive(source: Path, folder: Path, batches: list[np.ndarray]) -> list[str]:
    """Layers by how far the outputs move when each alone is INT8, the worst first."""
    few, exact = batches[:1], runtime.onnx_file(source)
    expected = exact(few[0])
    layers = [node.name for node in onnx.load(source).graph.node if node.op_type in KINDS]
    moved = {}
    for name in layers:
        alone = folder / "alone.onnx"
        _static(source, alone, few, per_channel=True, nodes_to_quantize=[name])
        by = float(np.square(runtime.onnx_file(alone)(few[0]) - expected).mean())
        moved[name] = by if np.isfinite(by) else float("inf")
    return sorted(layers, key=lambda name: -moved[name])


@dataclass(frozen=True)
class Outcome:
    """What became of INT8."""

    kind: str | None  # None: nothing passed
    reasons: dict[str, str]  # of each that was refused


def gated(
    kinds: Iterable[str], make: Callable[[str], None], score: Callable[[], float], speeds: Callable[[], tuple[float, float]],
    float_score: float, most_lost: float, smaller: bool,
) -> Outcome:
    """Make one after the other until one is good.  score: per cent; speeds: milliseconds in INT8 and in float, taken together.

    Good: at most `most_lost` points fewer than in float, and faster, unless `smaller` asks for the size alone.
    """
    reasons = {}
    for kind in kinds:
        try:
            make(kind)
            lost, (now, before) = float_score - score(), speeds()
        except Exception as error:  # a model that onnxruntime's tools cannot take, or a file that it cannot run
            reasons[kind] = f"could not be made: {reason(error)}"
            continue
        if not lost <= most_lost:  # NaN is a loss too
            reasons[kind] = f"loses {lost:.1f} points on validation images; {most_lost:g} are allowed"
        elif now >= before and not smaller:
            against = f"{now:.2f} ms an image against {before:.2f} ms"
            reasons[kind] = f"is not faster: {against} (smaller=true keeps it for its size)"
        else:
            return Outcome(kind, reasons)
    return Outcome(None, reasons)
