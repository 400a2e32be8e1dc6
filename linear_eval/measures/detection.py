"""How well a score tells unknown images from known ones, for many resamples of the images at once."""
import numpy as np

FOUND = 0.95  # share of the unknown images that must be found, for FPR95
NAMES = ("AUROC", "AUPR", "FPR95")


def detection(scores: np.ndarray, unknown: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """AUROC, AUPR and FPR95, in 0..1.  scores: M, greater where an image is likelier unknown; unknown: M bool;
    weights: B,M, how often an image counts → B,3, NaN where one of both kinds has no weight

    Unknown is the positive class, as in OpenOOD 1.5: AUPR is the average precision of the unknown images, FPR95 the share of
    known images at least as suspicious as the threshold that finds 95 % of the unknown ones. Equal scores are one threshold.
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    w, positive = weights[:, order].astype(np.float64), unknown[order]
    hits = np.cumsum(w * positive, 1)[:, ends]
    alarms = np.cumsum(w * ~positive, 1)[:, ends]
    with np.errstate(invalid="ignore", divide="ignore"):
        tpr, fpr = hits / hits[:, -1:], alarms / alarms[:, -1:]
        precision = np.nan_to_num(hits / (hits + alarms))
    before_tpr, before_fpr = (np.pad(rate, ((0, 0), (1, 0)))[:, :-1] for rate in (tpr, fpr))
    auroc = ((fpr - before_fpr) * (tpr + before_tpr) / 2).sum(1)
    aupr = ((tpr - before_tpr) * precision).sum(1)
    first = np.argmax(hits >= FOUND * hits[:, -1:] - 1e-9, 1)
    fpr95 = fpr[np.arange(len(fpr)), first]
    both = np.stack([auroc, aupr, fpr95], 1)
    both[~np.isfinite(auroc)] = np.nan
    return both
