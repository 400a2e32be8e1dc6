"""Classes made equal by synthetic features."""
import numpy as np

from linear_eval.logistic import classes_present
from linear_eval.probe_data import Labeled
from linear_eval.standardize import as_tensor

NEIGHBORS = 5  # of SMOTE


def smote(train: Labeled, seed: int = 0) -> Labeled:
    """Every class as large as the largest, by points between an image's features and a neighbor's of its class.

    Chawla et al. 2002, "SMOTE" (arXiv 1106.1813), imbalanced-learn's.  N,D → ≥N,D float32, all in memory.
    Raises ValueError for one class, and where a class has one image.
    """
    from imblearn.over_sampling import SMOTE  # takes a while to load, and few need it

    labels = np.asarray(train.labels)
    present, _ = classes_present(labels)
    sizes = np.bincount(labels)[present]
    if sizes.min() < 2:
        raise ValueError(
            f"smote: class {present[sizes.argmin()]} has one labelled image and nothing lies between it and another of its "
            "class; take a greater share of the labels, or leave smote out"
        )
    sampler = SMOTE(k_neighbors=min(NEIGHBORS, int(sizes.min()) - 1), random_state=seed)
    return Labeled(*sampler.fit_resample(as_tensor(train.x).float().cpu().numpy(), labels))
