"""Rows → the whole record of results.json, with its provenance."""
from pathlib import Path
from typing import Any

from torch import nn

from core.machine import code, command, hardware, versions
from linear_eval.results import DataFacts, EncoderFacts, Evaluation, ResultRow
from linear_eval.settings import EvaluateSettings, FinetuneSettings
from vision.splits import Dataset

PACKAGES = ("torch", "torchvision", "timm", "scikit-learn", "faiss-gpu", "faiss-cpu")


def _weights(settings: EvaluateSettings | FinetuneSettings) -> str:
    if settings.weights:
        return f" (weights of {Path(settings.weights).name})"
    return " (timm's weights)" if settings.pretrained else ""


def build_evaluation(
    settings: EvaluateSettings | FinetuneSettings,
    encoder: nn.Module,
    dataset: Dataset,
    rows: list[ResultRow],
    **fields: Any,
) -> Evaluation:
    """fields: further ones of `Evaluation`, in place of what a fine-tuned classifier has."""
    spec = encoder.spec
    defaults = {
        "protocol": "none: settings as given", "protocol_changes": {}, "seconds": None, "notes": [], "curve": [],
    }
    return Evaluation(
        encoder=EncoderFacts(
            name=spec.name,
            source=str(settings.encoder) + _weights(settings),
            dim=encoder.dim,
            parameters=sum(p.numel() for p in encoder.parameters()),
            image_size=spec.image_size,
            channels=spec.channels,
        ),
        data=DataFacts(
            name=dataset.name,
            classes=list(dataset.classes),
            train=len(dataset.train),
            validation=len(dataset.validation),
            test=len(dataset.test),
        ),
        seed=settings.seed,
        command=command(),
        code=code(),
        hardware=hardware(),
        versions=versions(PACKAGES),
        rows=rows,
        **defaults | fields,
    )
