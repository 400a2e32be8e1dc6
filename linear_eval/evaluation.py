"""Rows → the whole record of results.json, with its provenance."""
from pathlib import Path
from typing import Any

from torch import nn

from core.settings import CommonSettings
from linear_eval.provenance import provenance
from linear_eval.results import DataFacts, EncoderFacts, Evaluation, ResultRow
from vision.splits import Dataset


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


def data_facts(dataset: Dataset) -> DataFacts:
    sizes = {name: len(getattr(dataset, name)) for name in ("train", "validation", "test")}
    return DataFacts(dataset.name, list(dataset.classes), **sizes)


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
        data=data_facts(dataset),
        seed=settings.seed,
        rows=rows,
        **provenance() | defaults | fields,
    )
