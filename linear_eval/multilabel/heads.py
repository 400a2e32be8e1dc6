"""Linear heads on features where an image may have several labels: binary cross-entropy of each class, all heads at once."""
import time

import numpy as np
import torch

from linear_eval.heads import HeadsConfig, LinearHeads, Variants, fit_heads
from linear_eval.multilabel.results import protocol_result, validation_map
from linear_eval.probe_data import ProbeData, Rows
from linear_eval.results import ProtocolResult
from linear_eval.standardize import row_blocks


def heads_multilabel(
    data: ProbeData, variants: Variants, config: HeadsConfig, device: str | torch.device = "cpu"
) -> ProtocolResult:
    """The head with the best mean average precision on validation (the first of equals), on the test images.

    A head that diverges loses. Raises ValueError where all do.
    """
    began = time.perf_counter()
    heads = fit_heads(data.train, data.classes, variants, config, device)
    of_validation = {name: class_probabilities(heads, data.validation.x, name) for name in variants}
    values = np.array([[validation_map(data.validation.labels, scores[:, :, r]) for r in range(len(heads.rates))]
                       for scores in of_validation.values()])
    if values.max() < 0:
        rates = ", ".join(f"{rate:g}" for rate in heads.rates)
        raise ValueError(f"rates {rates}: every linear head diverged, or no validation image has a label; give smaller ones")
    v, r = np.unravel_index(values.argmax(), values.shape)
    variant, rate = list(variants)[v], heads.rates[r]
    scores = class_probabilities(heads, data.test, variant)[:, :, r]
    chosen = {"features": variant, "rate": rate, "epochs": config.epochs, "batch_size": config.batch_size}
    note = f"best of {values.size} heads" + (f"; {(values < 0).sum()} diverged" if (values < 0).any() else "")
    return protocol_result("linear", data, scores, of_validation[variant][:, :, r], chosen, began, note=note)


@torch.no_grad()
def class_probabilities(heads: LinearHeads, x: Rows, variant: str) -> np.ndarray:
    """Of a variant's heads.  N,D → N,K,R"""
    v = list(heads.variants).index(variant)
    parts = ([*heads.logits(heads.standardizer(x[rows]))][v] for rows in row_blocks(x))  # K,R,B
    return np.concatenate([z.sigmoid().permute(2, 0, 1).cpu().numpy() for z in parts])
