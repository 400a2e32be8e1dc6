"""Rows → the whole record of results.json, with its provenance."""
from pathlib import Path
from typing import Any

from torch import nn

from core.machine import code, command, hardware, versions
from core.settings import CommonSettings
from linear_eval.results import DataFacts, EncoderFacts, Evaluation, ResultRow
from vision.splits import Dataset

PACKAGES = ("torch", "torchvision", "timm", "scikit-learn", "faiss-gpu", "faiss-cpu")


def _weights(settings: CommonSettings) -> str:
    if settings.weights:
        return f" (weights of {Path(settings.weights).name})"
    return " (timm's weights)" if settings.pretrained else ""


def encoder_facts(settings: CommonSettings, encoder: nn.Module) -> EncoderFacts:
    return EncoderFacts(
        name=encoder.spec.name,
        source=str(settings.encoder) + _weights(settings),
        dim=encoder.dim,
        parameters=sum(p.numel() for p in encoder.parameters()),
        image_size=encoder.spec.image_size,
        channels=encoder.spec.channels,
    )


def build_evaluation(
    settings: CommonSettings,
    encoder: nn.Module,
    dataset: Dataset,
    rows: list[ResultRow],
    **fields: Any,
) -> Evaluation:
    """fields: further ones of `Evaluation`, in place of what a fine-tuned classifier has."""
    defaults = {
        "protocol": "none: settings as given", "protocol_changes": {}, "seconds": None, "notes": [], "curve": [],
    }
    return Evaluation(
        encoder=encoder_facts(settings, encoder),
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
