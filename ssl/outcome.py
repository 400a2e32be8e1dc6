"""Whether pretraining paid, in one sentence: against pixels, HOG, the untrained encoder and published weights as they came."""
from collections.abc import Mapping

from ssl.health import BEFORE

SCORES = {"knn": "kNN", "logistic": "logistic regression"}
WIDTH = 1.96  # standard deviations of a difference that count as noise: 95 %
OURS = "pretrained"


def outcome(scores: Mapping[str, Mapping[str, float]], images: int) -> str:
    """scores: source → score → accuracy in % on `images` test images, "pretrained" among the sources.

    A difference counts beyond 1.96 standard deviations of two independent binomial shares. As both are of the same images,
    their true noise is smaller.
    """
    ahead, close = [], []
    for source in scores:
        for key, title in SCORES.items():
            if source == OURS or key not in scores[source]:
                continue
            ours, theirs = scores[OURS][key], scores[source][key]
            pair = f"{source} by {title} ({theirs:.1f}, it {ours:.1f})"
            if theirs > ours:
                ahead.append(pair)
            elif ours - theirs <= noise(ours, theirs, images):
                close.append(pair)
    others = ", ".join(source for source in scores if source != OURS)
    if ahead:
        return f"Pretraining did not pay: ahead of the encoder are {'; '.join(ahead)}. {advice(scores)}"
    if close:
        return (f"Pretraining helped, but not all of it is beyond the noise of {images:,} test images: near the encoder are "
                f"{'; '.join(close)}. {advice(scores)}")
    best = {title: max(scores[source][key] for source in scores if source != OURS) for key, title in SCORES.items()}
    found = " and ".join(f"{title} {scores[OURS][key]:.1f} against at most {best[title]:.1f}" for key, title in SCORES.items())
    return f"Pretraining paid: {found}, by {others}; each difference is beyond the noise of {images:,} test images."


def noise(first: float, second: float, images: int) -> float:
    """Half the width of the 95 % interval of a difference of two accuracies in %, each of so many images."""
    variance = sum(share * (1 - share) / images for share in (first / 100, second / 100))
    return 100 * WIDTH * variance**0.5


def advice(scores: Mapping[str, Mapping[str, float]]) -> str:
    """What to try next."""
    if BEFORE in scores:
        if scores[BEFORE]["knn"] > scores[OURS]["knn"]:
            return "Use the weights as they came (linear_eval.evaluate), or go on with a lower --optim.lr."
        return "Train longer (--budget), or add unlabelled images of the kind."
    return "Published weights are the surest step (--pretrained, or --weights FILE); then a longer --budget, or more images."
