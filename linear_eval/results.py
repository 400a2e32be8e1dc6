"""What results.json says: one row a protocol, and the birth certificate of them all."""
import numpy as np
from torch import nn

from core.machine import code, command, hardware, versions
from linear_eval.metrics import figures
from linear_eval.outcome import Outcome
from vision.splits import Dataset

PACKAGES = ("torch", "torchvision", "timm", "scikit-learn", "faiss-gpu", "faiss-cpu")


def percent(share: float) -> str:
    return f"{100 * share:g} %"


def row(outcome: Outcome, source: str, train_images: int, test_labels: np.ndarray, share: float = 1.0) -> dict:
    """One outcome on the test split, as results.json has it: accuracies in %."""
    return {
        "source": source,
        "method": outcome.method,
        "labels": percent(share),
        "train_images": train_images,
        **figures(outcome.scores, test_labels, outcome.probabilities),
        "std": None,
        "draws": 1,
        "validation": outcome.validation,
        "selected_on": outcome.selected_on,
        "chosen": outcome.chosen,
        "note": outcome.note,
        "seconds": round(outcome.seconds, 2),
    }


def averaged(rows: list[dict]) -> dict:
    """Several draws of the labelled images as one row: means, the accuracies' standard deviation, and the interval of the mean.

    The interval is that of the pooled predictions' accuracy, widened by the spread of the draws (the larger of both counts).
    """
    accuracies = [r["accuracy"] for r in rows]
    mean, std = float(np.mean(accuracies)), float(np.std(accuracies, ddof=1)) if len(rows) > 1 else 0.0
    half = max(*((r["interval"][1] - r["interval"][0]) / 2 for r in rows), 1.96 * std / len(rows) ** 0.5)
    names = ("top5", "balanced_accuracy", "macro_f1", "ece", "validation")
    means = {n: None if rows[0][n] is None else float(np.mean([r[n] for r in rows])) for n in names}
    chosen = {key: _agreed([r["chosen"].get(key) for r in rows]) for key in rows[0]["chosen"]}
    spread = {"accuracy": mean, "interval": [mean - half, mean + half], "std": std, "draws": len(rows)}
    return rows[0] | means | spread | {"chosen": chosen, "seconds": sum(r["seconds"] for r in rows)}


def _agreed(values: list):
    """What all draws chose, or each one's choice."""
    return values[0] if all(value == values[0] for value in values) else values


def document(
    settings, encoder: nn.Module, dataset: Dataset, rows: list[dict], protocol: str, changes: dict, notes: list[str]
) -> dict:
    """The whole of results.json."""
    spec = encoder.spec
    return {
        "protocol": protocol,
        "protocol_changes": changes,
        "encoder": {
            "name": spec.name,
            "source": str(settings.encoder) + (" (timm's weights)" if settings.pretrained else ""),
            "dim": encoder.dim,
            "parameters": sum(p.numel() for p in encoder.parameters()),
            "image_size": spec.image_size,
            "channels": spec.channels,
        },
        "data": {
            "name": dataset.name,
            "classes": list(dataset.classes),
            "train": len(dataset.train),
            "validation": len(dataset.validation),
            "test": len(dataset.test),
        },
        "seed": settings.seed,
        "command": command(),
        "code": code(),
        "hardware": hardware(),
        "versions": versions(PACKAGES),
        "seconds": None,
        "notes": notes,
        "rows": rows,
        "curve": [],
    }
