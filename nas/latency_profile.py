"""What nas.profile leaves: a model of latency on one device, which a search uses in place of measuring. Imports no torch."""
import hashlib
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from core.image_size import Size, parse, size_text

FIGURES = ("latency", "int8_latency")  # that a profile may model


@dataclass(frozen=True)
class FigureModel:
    """log(latency / reference) = intercept + Σ coefficient · (log descriptor − mean) / scale.

    reference: its median, ms; median_error, largest_error: % of networks that the model had not seen; spearman: rank
    correlation of predicted and measured, each network left out in turn; spearman_macs: of multiply-adds alone, and measured.
    """

    reference: float
    intercept: float
    mean: dict[str, float]
    scale: dict[str, float]
    coefficients: dict[str, float]
    median_error: float
    largest_error: float
    spearman: float
    spearman_macs: float

    def predict(self, descriptors: Mapping[str, float]) -> float:
        """Milliseconds."""
        scaled = {name: (math.log(descriptors[name]) - self.mean[name]) / self.scale[name] for name in self.coefficients}
        return self.reference * math.exp(self.intercept + sum(c * scaled[name] for name, c in self.coefficients.items()))


@dataclass(frozen=True)
class LatencyProfile:
    """models: by figure; device: "cpu" or "cuda", of `latency`; machine: the names of both; digest: of the file"""

    models: dict[str, FigureModel]
    space: str
    image_size: Size
    channels: int
    threads: int
    device: str
    machine: dict[str, Any]
    digest: str = ""

    @property
    def json(self) -> dict:
        return asdict(self)

    @staticmethod
    def from_json(stored: dict) -> "LatencyProfile":
        """Raises KeyError, TypeError, ValueError where it is no profile."""
        names = ("space", "channels", "threads", "device", "machine")
        models = {name: FigureModel(**model) for name, model in stored["models"].items()}
        rest = {name: stored[name] for name in names}
        return LatencyProfile(models, image_size=parse(stored["image_size"]), digest=stored.get("digest", ""), **rest)

    def predict(self, encoder, names: Collection[str], costs: Mapping[str, float]) -> dict[str, float]:
        """Milliseconds of those of the names that it models.  encoder: nn.Module with a `spec`, whose costs are counted"""
        known = descriptors(encoder, costs)
        return {name: model.predict(known) for name, model in self.models.items() if name in names}

    @property
    def text(self) -> str:
        """For the plan of a search."""
        errors = ", ".join(f"{name} by {m.median_error:.2g} % in the median, {m.largest_error:.2g} % at most"
                           for name, m in self.models.items())
        return (f"latency_profile predicts latency on {self.machine_name}, threads={self.threads}; of networks that it had not "
                f"seen it was off {errors}. The front is measured at the end.")

    @property
    def machine_name(self) -> str:
        return self.machine["gpu" if self.device == "cuda" else "cpu"]


def of_plan(plan: Mapping[str, Any] | None) -> LatencyProfile | None:
    """That of a study.  plan: its JSON, None of an older study"""
    return LatencyProfile.from_json(plan["profile"]) if plan and plan.get("profile") else None


def read(path: Path) -> LatencyProfile:
    """Raises ValueError, one line."""
    setting, way = f"latency_profile={path}", "write one with python -m nas.profile"
    if not path.is_file():
        raise ValueError(f"{setting}: there is no such file; {way}")
    content = path.read_bytes()
    try:
        stored = json.loads(content)
        return LatencyProfile.from_json(stored | {"digest": hashlib.sha256(content).hexdigest()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{setting}: no file of nas.profile ({type(error).__name__}: {error}); {way}") from error


def check_fits(profile: LatencyProfile, size: Size, channels: int) -> None:
    """Raises ValueError where it was measured with other images than a search has."""
    if (profile.image_size, profile.channels) != (size, channels):
        raise ValueError(
            f"latency_profile: measured at {size_text(profile.image_size)} px and {profile.channels} channels, and this search "
            f"has {size_text(size)} px and {channels}; measure another: python -m nas.profile --image_size {size_text(size)} "
            f"--channels {channels}"
        )


def descriptors(encoder, costs: Mapping[str, float] | None = None) -> dict[str, float]:
    """What latency is predicted from, all above 0: multiply-adds, parameters and the numbers that all layers give, in millions;
    and layers.  encoder: nn.Module with a `spec`; costs: macs and parameters where they are counted already
    """
    from vision import cost

    costs = costs or {"macs": cost.macs(encoder), "parameters": cost.parameters(encoder)}
    sizes = cost.output_sizes(encoder)
    return {"macs": max(costs["macs"], 1e-6), "parameters": max(costs["parameters"], 1e-6),
            "layers": float(len(sizes)), "activations": sum(sizes) / 1e6}
