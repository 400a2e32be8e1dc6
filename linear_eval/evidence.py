"""What the report's figures show beside results.json: pictures, neighbours, and where a fitted classifier looks."""
import numpy as np
import torch

from linear_eval import knn
from linear_eval.features import BLOCK, images_of
from linear_eval.fit import Fitted
from linear_eval.gather import TRAINED, Material
from linear_eval.gradcam import gradcam
from linear_eval.report import Evidence, Overlays, headline
from vision.pixels import normalize_images
from vision.splits import Images
from vision.streamed import Streamed

SHOWN = 96  # pixels a side of a picture, at most
QUERIES, NEAREST = 8, 8  # test images whose nearest training images are shown, and how many


def evidence(material: Material, results: dict, scores: list[np.ndarray]) -> Evidence:
    """Of the row that the report looks at closely. scores: those of each row of results."""
    dataset, at = material.dataset, headline(results)
    train, _, test = material.banks[TRAINED]
    fitted = next((f for source, share, f in material.fitted if share == 1 and source == TRAINED), None)
    row = results["rows"][at]
    shown = fitted.test if row["method"] == "finetune" and fitted else test.indices
    queries = np.linspace(0, len(test.x) - 1, min(QUERIES, len(test.x))).astype(int)
    return Evidence(
        labels=dataset.test.labels.numpy()[shown],
        scores=scores[at],
        probabilities=row["ece"] is not None,
        images=pictures(dataset.test, shown, dataset.image_size),
        train_images=pictures(dataset.train, train.indices, dataset.image_size),
        train_labels=train.labels,
        queries=queries,
        nearest=knn.neighbours(train.last, np.asarray(test.last[queries]), NEAREST)[1],
        features=np.asarray(test.last, dtype=np.float32),
        overlays=overlays(fitted, QUERIES) if fitted else None,
    )


def of_fitted(fitted: Fitted, count: int) -> Evidence:
    """Of a classifier alone. count: images with Grad-CAM."""
    dataset = fitted.dataset
    return Evidence(
        labels=dataset.test.labels.numpy()[fitted.test],
        scores=fitted.outcome.scores,
        images=pictures(dataset.test, fitted.test, dataset.image_size),
        overlays=overlays(fitted, count) if count else None,
    )


def pictures(split: Images | Streamed, indices: np.ndarray, size: int):
    """Positions among `indices` → images of the split, B,C,S,S uint8."""

    def of(positions: np.ndarray) -> np.ndarray:
        chosen = torch.from_numpy(indices[np.asarray(positions, dtype=int)])
        return images_of(split, chosen, min(size, SHOWN), None).numpy()

    return of


def overlays(fitted: Fitted, count: int) -> Overlays | None:
    """Grad-CAM of evenly spaced test images for the class that is predicted; None where an encoder has no maps to show."""
    method, spec, split = fitted.method, fitted.method.encoder.spec, fitted.dataset.test
    places = np.linspace(0, len(fitted.test) - 1, min(count, BLOCK, len(fitted.test))).astype(int)
    chosen = torch.from_numpy(fitted.test[places])
    images = images_of(split, chosen, spec.image_size, spec.channels)
    x = normalize_images(images.to(next(method.parameters()).device), fitted.recipe.mean, fitted.recipe.std)
    method.eval()
    with torch.no_grad():
        predicted = method.classify(x).argmax(1)
    try:
        heat = gradcam(method, x, predicted)
    except ValueError:
        return None
    return Overlays(images.numpy(), heat.cpu().numpy(), split.labels[chosen].numpy(), predicted.cpu().numpy())
