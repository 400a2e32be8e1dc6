"""Which measure reads what of the inputs: a part's name → its records on one source of features."""
from functools import lru_cache

import torch
from torch import Tensor

from core import cli
from core.run import counting
from linear_eval.features import BLOCK, evenly, images_of
from linear_eval.inputs import EvaluationInputs
from linear_eval.measures.clustering import ClusteringConfig, clustering
from linear_eval.measures.few_shot import FewShotConfig, few_shot
from linear_eval.measures.leakage import LeakageConfig, Positions, exact_copies, leakage
from linear_eval.measures.open_set import OpenSetConfig, open_set
from linear_eval.measures.quality import QualityConfig, quality
from linear_eval.measures.retrieval import RetrievalConfig, retrieval
from linear_eval.probe_data import Labeled
from linear_eval.results import Measure
from linear_eval.settings import EvaluateSettings
from vision.augment import render


def measures(part: str, settings: EvaluateSettings, inputs: EvaluationInputs, source: str) -> list[Measure]:
    """A part's records on a source: one, of open_set one a detector."""
    constants, seed = cli.plain(settings.protocol)[part], settings.seed
    features = inputs.features(source)
    train, test = (Labeled(part.pooled, part.labels) for part in (features.train, features.test))
    if part == "retrieval":
        return [retrieval(test.x, test.labels, RetrievalConfig(**constants), seed, source)]
    if part == "clustering":
        return [clustering(train, test, inputs.classes, ClusteringConfig(**constants), seed, source)]
    if part == "few_shot":
        return [few_shot(test.x, test.labels, FewShotConfig(**constants), seed, source)]
    if part == "open_set":
        others = inputs.unknown(source).pooled if settings.unknown else None
        return open_set(train, test, inputs.classes, OpenSetConfig(**constants), seed, source, others)
    if part == "quality":
        config = QualityConfig(**constants)
        return [quality(train.x, views(inputs, source, config), config, seed, source)]
    positions = Positions(features.train.indices, features.test.indices)
    return [leakage(train.x, test.x, positions, copies(inputs), LeakageConfig(**constants), seed, source)]


@lru_cache(maxsize=1)
def copies(inputs: EvaluationInputs) -> int:
    """The images are read once, whatever the sources."""
    return exact_copies(inputs.dataset.train, inputs.dataset.test, inputs.dataset.image_size)


def views(inputs: EvaluationInputs, name: str, config: QualityConfig) -> Tensor:
    """Features of random views of training images, as `augment` makes them for fine-tuning.  → n,q,D"""
    source, augmentation, spec = inputs.source(name), inputs.augmentation, inputs.encoder.spec
    indices = evenly(len(inputs.dataset.train), config.lidar_images)
    as_they_are = torch.zeros_like(augmentation.mean), torch.ones_like(augmentation.std)  # the source normalizes itself
    columns = source.parts["pooled"][0] if source.parts else slice(None)
    found = []
    with counting(f"{name}: views") as progress:
        for start, some in enumerate(indices.split(BLOCK)):
            images = images_of(inputs.dataset.train, some, spec.geometry, spec.channels)
            for view in range(config.lidar_views):
                params = augmentation.sample_params(inputs.settings.seed, view, some, *images.shape[-2:])[0]
                x = render(images, params, augmentation.size, *as_they_are)
                found.append(torch.as_tensor(source.describe(x))[:, columns].float().cpu())
                progress(start * BLOCK + (view + 1) * len(some) // config.lidar_views, len(indices))
    blocks = [torch.stack(found[i : i + config.lidar_views], 1) for i in range(0, len(found), config.lidar_views)]
    return torch.cat(blocks)
