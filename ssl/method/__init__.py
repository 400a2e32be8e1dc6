"""One file, one paper; its yaml beside it."""
from dataclasses import dataclass

from torch import Tensor

from core.method import Record, check_positive
from core.processes import world_size


@dataclass(frozen=True)
class TeacherFeatures(Record):
    """What a momentum teacher's encoder makes of the views that cover the image; its heads belong to the objective."""

    features: Tensor  # B,2,D


def pairs(views: int, targets: int = 2) -> list[tuple[int, int]]:
    """(target view, predicting view): each of the first `targets` views with every other one.

    Two views: (0,1), (1,0). With local crops (SwAV, arXiv 2006.09882, §3.3) those predict too and are never targets.
    Raises ValueError for one view.
    """
    check_views(views)
    return [(target, view) for target in range(targets) for view in range(views) if view != target]


def unordered_pairs(views: int, targets: int = 2) -> list[tuple[int, int]]:
    """The same for a loss that does not tell target from prediction: each pair once."""
    return [(a, b) for a, b in pairs(views, targets) if a < b]


def check_views(views: int) -> None:
    """Raises ValueError where there is nothing to compare a view with."""
    if views < 2:
        raise ValueError(f"augment.views={views}: must be 2 or more, since the loss compares views of an image")


def check_images(method: str, images: int, least: int, why: str) -> None:
    """Raises ValueError where the global batch is too small for the loss to be defined.  images: this process's."""
    if images * world_size() < least:
        raise ValueError(f"batch_size={images * world_size()}: method={method} needs {least} images or more; {why}")


def check_constants(temperature: float = 1.0, momentum: tuple[float, float] = (0.0, 1.0)) -> None:
    """Refuse constants that no paper means.  Raises ValueError naming the setting."""
    check_positive(temperature=temperature)
    if len(momentum) != 2 or not all(0 <= m <= 1 for m in momentum):
        raise ValueError(f"method.momentum={list(momentum)}: must be [start,end], both from 0 to 1")


def check_mask_ratio(mask_ratio: float, patches: int, masked: int) -> None:
    """Raises ValueError where nothing is masked, or nothing is left to see.  patches: of an image; masked: of them"""
    if not 0 < mask_ratio < 1:
        raise ValueError(f"method.mask_ratio={mask_ratio}: must be more than 0 and less than 1")
    if not 0 < masked < patches:
        raise ValueError(f"method.mask_ratio={mask_ratio}: masks {masked} of an image's {patches} patches; one at least must "
                         "be masked and one seen: use larger images or an encoder of smaller patches, such as vit_tiny_patch4")


def check_patches(norm_pixels: bool, pixels: int) -> None:
    """Raises ValueError where patches cannot be normalized.  pixels: numbers of a patch"""
    if norm_pixels and pixels < 2:
        raise ValueError("method.norm_pixels=true: patches of one gray pixel have no deviation to divide by; set it to false "
                         "or use an encoder of larger patches, such as vit_tiny_patch4")
