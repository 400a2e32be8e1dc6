"""How methods on prototypes and patches collapse, by figures that need no labels.

A teacher whose targets are uniform, or that gives every image one prototype, teaches nothing: what centering and sharpening are
balanced against (Caron et al. 2021, arXiv 2104.14294, §5.3, who show entropy and KL divergence). Patches of an image that are
all alike carry nothing of their place (Siméoni et al. 2025, DINOv3, arXiv 2508.10104, §4, show them by cosine similarity).
"""
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.method import at_least_fp32
from core.processes import total
from vision import tokens

PATCH = "patch_"  # begins the names of the same figures of patches' targets
_TEACHER = ("teacher_entropy", "teacher_entropy_of_mean", "prototypes_in_use")
PREDICTED = "prediction_spread"
TEACHER = (*_TEACHER, *(PATCH + name for name in _TEACHER), PREDICTED)  # a method's scalars
PATCHES = ("patch_cosine", "patch_spread")  # of the frozen encoder
FIGURES = (*PATCHES, *TEACHER)
LOOKED_AT = 256  # images at most whose patches are measured
ROWS, SOME = 256, 64  # of a process at most, in figures of a step: patches' targets, and images with all their predictions
UNIFORM = 0.99  # of log K: logits over the temperature then deviate by less than √(.02·log K), .4 for 8192 prototypes
ONE = 0.05  # of log K: fewer than 1.6 of 8192 prototypes
ALIKE, NEARER = 0.98, 0.1  # mean cosine, and what is left to 1 as a share of that at the start
SAME = 0.05  # spread of all patches: a mean cosine of .9975 of any two, of whatever images
BLIND = 0.01  # of the variance of targets: a correlation of .1 at most, were predictions best in least squares


@torch.no_grad()
def assignment_scalars(targets: Tensor, prefix: str = "") -> dict[str, Tensor]:
    """Of the global batch.  targets: …,K distributions over prototypes → scalars from 0 to 1, the same on every process

    teacher_entropy: mean entropy of a target, as a share of log K; teacher_entropy_of_mean: entropy of their mean;
    prototypes_in_use: prototypes that are some target's largest, as a share of as many as there could be. Collective;
    processes may have other numbers of targets, at least one somewhere.
    """
    rows = at_least_fp32(targets.detach()).flatten(0, -2)
    K = rows.shape[1]
    of_rows, count = torch.special.entr(rows).sum().expand(K), rows.new_full((K,), len(rows))
    sums = total(torch.stack([rows.sum(0), rows.argmax(1).bincount(minlength=K).to(rows.dtype), of_rows, count]))
    N, full = sums[3, 0], max(math.log(K), 1e-12)
    found = {
        "teacher_entropy": sums[2, 0] / N / full,
        "teacher_entropy_of_mean": torch.special.entr(sums[0] / N).sum() / full,
        "prototypes_in_use": (sums[1] > 0).sum() / N.clamp(max=K),
    }
    return {prefix + name: value for name, value in found.items()}


@torch.no_grad()
def prediction_scalars(
    predictions: Tensor, targets: Tensor, places: Tensor, N: int, counted: Tensor | None = None
) -> dict[str, Tensor]:
    """prediction_spread: variance of predictions between images, at the same place, as a share of that of the targets

    0 where what is predicted of a patch follows from its place alone: it rests on the mask token, not on what is seen.
    predictions, targets: B,…,D of the same patches, of which the first SOME images are taken; places: B,… int64, which of an
    image's N; counted: B,… bool, those that are meant, all where None. Collective.
    """
    weights = torch.ones(places.shape, device=places.device) if counted is None else counted.float()
    rows = torch.stack([at_least_fp32(x.detach()[:SOME]).flatten(0, -2) for x in (predictions, targets)], dim=1)  # n,2,D
    weights, places = weights[:SOME].flatten()[:, None], places[:SOME].flatten()
    flat = F.pad(rows.flatten(1), (0, 1), value=1.0)  # the last column counts
    with torch.autocast(flat.device.type, enabled=False):  # a product adds in one order, index_add_ in any
        sums = total(F.one_hot(places, N).to(flat.dtype).T @ (weights * flat))
    means = (sums[:, :-1] / sums[:, -1:].clamp(min=1)).view(N, *rows.shape[1:])
    variance = total((weights[:, :, None] * (rows - means[places]).square()).sum((0, 2)))
    return {PREDICTED: torch.where(variance[1] > 0, variance[0] / variance[1].clamp(min=1e-12), 1.0)}


def blind(figures: Mapping[str, float]) -> str:
    """Whether masked patches are predicted from their places alone, in words; nothing where not, or where it is not known.

    So is every run at its beginning, and one whose masks or rate leave nothing to learn from.
    """
    if figures.get(PREDICTED, 1.0) >= BLIND:
        return ""
    return ("masked patches are predicted from their place alone, alike in all images (the predictions' variance between "
            f"images is {figures[PREDICTED]:.1%} of the targets')")


def patches_of(encoder: nn.Module, images: Tensor) -> Tensor:
    """Of each image: the mean of its patches' features of unit length, and the mean cosine of two of them.

    images: B,C,H,W normalized → B,D+1 float32 on the CPU
    """
    patches = F.normalize(tokens.tokens(encoder, images).patches.float(), dim=2)
    mean, N = patches.mean(1), patches.shape[1]
    cosine = (N * mean.square().sum(1) - 1) / (N - 1)
    return torch.cat([mean, cosine[:, None]], dim=1).cpu()


def patch_figures(rows: Tensor) -> dict[str, float]:
    """rows: of `patches_of`, N,D+1.  patch_spread: deviation of all patches from their mean, 0 where all are one, at most 1."""
    mean = rows[:, :-1].mean(0)
    spread = float((1 - mean.square().sum()).clamp(min=0).sqrt())
    return {"patch_cosine": float(rows[:, -1].mean()), "patch_spread": spread}


def has_patches(encoder: nn.Module) -> bool:
    """Does the encoder make several patches or places of an image that `tokens` can give?"""
    if not tokens.abilities(encoder) & {"tokens", "map"}:
        return False
    try:
        h, w = tokens.grid(encoder, encoder.spec.image_size)
    except Exception:  # an encoder of a shape of its own: timm's models fail in many ways
        return False
    return h * w > 1


def kinds(figures: Mapping[str, float], before: Mapping[str, float], began: str, predicts_pixels: bool = False) -> list[str]:
    """The collapses that figures show, in words.  before: of the encoder at the start, which `began` names

    Patches of a method that predicts pixels may have a large part in common and yet tell images apart: as long as their
    predictions do, they have not collapsed.
    """
    found = []
    for prefix, of in (("", ""), (PATCH, " of patches")):
        entropy, of_mean, in_use = (figures.get(prefix + name) for name in _TEACHER)
        if entropy is not None and entropy > UNIFORM:
            found.append(f"the teacher{of} is uniform (a target's entropy is {entropy:.1%} of the largest)")
        if of_mean is not None and of_mean < ONE:
            what = "patches" if of else "images"
            found.append(f"one prototype takes all {what} (the mean target's entropy is {of_mean:.1%} of the largest, "
                         f"{in_use:.1%} of the prototypes are in use)")
    if predicts_pixels and figures.get(PREDICTED, 0.0) >= BLIND:
        return found
    if "patch_cosine" in figures and "patch_cosine" in before:
        now, start = figures["patch_cosine"], before["patch_cosine"]
        if now > ALIKE and 1 - now < NEARER * (1 - start):
            found.append(f"patches of an image are all alike (their mean cosine is {now:.3f}, {began} {start:.3f})")
    if "patch_spread" in figures and figures["patch_spread"] < min(SAME, before.get("patch_spread", 0.0) / 2):
        now, start = figures["patch_spread"], before["patch_spread"]
        found.append(f"patches of all images are one (their spread is {now:.3f}, {began} {start:.3f})")
    return found
