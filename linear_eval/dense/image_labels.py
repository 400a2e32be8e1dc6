"""Image labels from patches: the attentive probe, beside logistic regression on the mean of the same patches."""
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from core.run import log_line
from linear_eval.dense.attentive import AttentiveConfig, LabeledPatches, attentive
from linear_eval.dense.inputs import DenseInputs, SourceFeatures
from linear_eval.dense.patch_features import PatchFeatures, Split
from linear_eval.dense.settings import DenseSettings
from linear_eval.logistic import logistic
from linear_eval.probe_data import Labeled, ProbeData
from linear_eval.results import ResultRow
from linear_eval.rows import result_row


def attentive_rows(settings: DenseSettings, inputs: DenseInputs) -> Iterator[ResultRow]:
    """Two rows of each source. Settings are chosen on validation images; both see the same patches."""
    p, dataset = settings.protocol.attentive, inputs.dataset
    config = AttentiveConfig(p.rates, p.decays, p.epochs, p.batch_size, p.least_steps, settings.seed)
    classes = len(dataset.classes)
    for source in inputs.sources:
        train, validation = (
            _labeled(part, split)
            for part, split in ((source.train, dataset.train), (source.validation, dataset.validation))
        )
        seen, means = [], []

        def test(source: SourceFeatures = source, seen: list = seen, means: list = means) -> Iterator[np.ndarray]:
            for indices, x in source.test_blocks(dataset.test, inputs.device):
                seen.append(indices)
                means.append(_means(x))
                yield x

        results = [attentive(train, validation, test(), classes, config, inputs.device)]
        fitted_on = (Labeled(_means(part.x), part.labels) for part in (train, validation))
        data = ProbeData(*fitted_on, np.concatenate(means), classes)
        mean = logistic(data, p.C, p.iterations, inputs.device)
        results.append(replace(mean, note="; ".join(filter(None, ("of the mean of patches", mean.note)))))
        labels = dataset.test.labels.numpy()[np.concatenate(seen)]
        for result in results:
            row = result_row(result, source.name, len(train.labels), labels)
            log_line(f"{row.source}, {row.method}: {row.accuracy:.1f} % ({row.interval[0]:.1f} … {row.interval[1]:.1f})")
            yield row


def _labeled(features: PatchFeatures, split: Split) -> LabeledPatches:
    x = features.x if len(features) == len(features.x) else features.x[features.rows]
    return LabeledPatches(x, split.labels.numpy()[features.indices])


def _means(x: np.ndarray, block: int = 1024) -> np.ndarray:
    """M,n,D → M,D float32"""
    return np.concatenate([x[start : start + block].mean(1, dtype=np.float32) for start in range(0, len(x), block)])
