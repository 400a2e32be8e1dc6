"""Whether pretraining paid, in one sentence: against pixels, HOG, the untrained encoder and published weights as they came."""
from collections.abc import Mapping

from ssl.health import BEFORE

SCORES = {
    "knn": "kNN", "logistic": "logistic regression", "knn_map": "kNN mAP", "logistic_map": "mAP of logistic regression",
}  # fmt: skip
WIDTH = 1.96  # standard deviations of a difference that count as noise: 95 %
OURS = "pretrained"
USE_AS_THEY_CAME = "Use the weights as they came (linear_eval.evaluate), or go on for longer, or at a lower --adapt.encoder_lr."


def outcome(scores: Mapping[str, Mapping[str, float]], images: int) -> str:
    """scores: source → score in % on `images` test images, "pretrained" among the sources.

    A difference of accuracies counts beyond 1.96 standard deviations of two independent binomial shares. As both are of the
    same images, their true noise is smaller. Of mean average precision any difference counts, which the sentence says.
    """
    keys = [key for key in SCORES if key in scores[OURS]]
    if BEFORE in scores and all(scores[BEFORE][key] == scores[OURS][key] for key in keys):
        others = {source: found for source, found in scores.items() if source != BEFORE}
        ahead, _ = _rivals(others, keys, images)
        found = f"ahead of them are {'; '.join(ahead)}" if ahead else f"they are ahead of {', '.join(list(others)[:-1])}"
        return f"Going on did not pay: the encoder has the weights that training began with; {found}. {USE_AS_THEY_CAME}"
    ahead, close = _rivals(scores, keys, images)
    if ahead:
        return f"Pretraining did not pay: ahead of the encoder are {'; '.join(ahead)}. {advice(scores)}"
    if close:
        return (f"Pretraining helped, but not all of it is beyond the noise of {images:,} test images: near the encoder are "
                f"{'; '.join(close)}. {advice(scores)}")
    rivals = [source for source in scores if source != OURS]
    best = {key: max(scores[source][key] for source in rivals) for key in keys}
    found = " and ".join(f"{SCORES[key]} {scores[OURS][key]:.1f} against at most {best[key]:.1f}" for key in keys)
    certain = ("the noise of mean average precision is not known here" if keys[0].endswith("_map") else
               f"each difference is beyond the noise of {images:,} test images")
    return f"Pretraining paid: {found}, by {', '.join(rivals)}; {certain}."


def _rivals(scores: Mapping[str, Mapping[str, float]], keys: list[str], images: int) -> tuple[list[str], list[str]]:
    """What is ahead of the encoder, and what is behind it within the noise."""
    ahead, close = [], []
    for source in scores:
        for key in keys if source != OURS else ():
            ours, theirs = scores[OURS][key], scores[source][key]
            pair = f"{source} by {SCORES[key]} ({theirs:.1f}, it {ours:.1f})"
            if theirs > ours:
                ahead.append(pair)
            elif not key.endswith("_map") and ours - theirs <= noise(ours, theirs, images):
                close.append(pair)
    return ahead, close


def noise(first: float, second: float, images: int) -> float:
    """Half the width of the 95 % interval of a difference of two accuracies in %, each of so many images."""
    variance = sum(share * (1 - share) / images for share in (first / 100, second / 100))
    return 100 * WIDTH * variance**0.5


def advice(scores: Mapping[str, Mapping[str, float]]) -> str:
    """What to try next."""
    if BEFORE in scores:
        first = next(key for key in SCORES if key in scores[OURS])
        if scores[BEFORE][first] > scores[OURS][first]:
            return USE_AS_THEY_CAME
        return "Train longer (--budget), or add unlabelled images of the kind."
    return ("Published weights are the surest step (--encoder resnet18 --pretrained, or --weights FILE); then a longer "
            "--budget, or more images.")
