"""The accuracy of an exported version on a split: a classifier's own, or kNN's on an encoder's features."""
import numpy as np
import torch
from torch import Tensor

from deploy.export_module import ExportModule
from deploy.runtime import Runner
from linear_eval.features import evenly
from linear_eval.knn import knn_accuracy
from vision.splits import Dataset, Images

BATCH = 250  # images at a time
NEIGHBORS = 10_000  # training images that kNN searches, at most


def run_split(runner: Runner, module: ExportModule, split: Images, indices: Tensor | None = None) -> np.ndarray:
    """The first output for a split's images, or for some of them.  → N,K or N,D.  Raises ValueError where it is not finite."""
    indices = torch.arange(len(split)) if indices is None else indices
    outputs = np.concatenate([runner(module.preprocess(split, part)) for part in indices.split(BATCH)])
    if not np.isfinite(outputs).all():
        raise ValueError(f"encoder={module.header.spec.name}: its outputs are not finite")
    return outputs


def accuracy(runner: Runner, module: ExportModule, data: Dataset, split: Images) -> float:
    """In per cent."""
    outputs = run_split(runner, module, split)
    if module.header.classes is not None:
        return float((outputs.argmax(1) == split.labels.numpy()).mean() * 100)
    reference = data.train.select(evenly(len(data.train), NEIGHBORS))
    features = torch.from_numpy(run_split(runner, module, reference))
    return knn_accuracy(features, reference.labels, torch.from_numpy(outputs), split.labels, len(data.classes))
