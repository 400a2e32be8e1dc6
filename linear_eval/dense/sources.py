"""What an encoder's patches have to beat: the same encoder untrained, HOG cells and raw patches, at the same grid."""
from functools import partial

import torch
from skimage.feature import hog
from torch import Tensor, nn
from torch.nn import functional as F

from linear_eval.dense.patch_features import PatchSource, Split, of_encoder, patch_source, whole_images
from linear_eval.descriptors import LUMA, ORIENTATIONS
from linear_eval.features import images_of, untrained_encoder
from vision.patches import patches_of
from vision.pixels import in_unit_range

UNTRAINED, PIXELS, HOG = "untrained", "raw patches", "HOG cells"
SIDE = 8  # pixels a side of a raw patch, and of a HOG cell, at most: larger patches are averaged down


def untrained_source(
    encoder: nn.Module, moments: tuple[Tensor, Tensor], train: Split, device: torch.device, seed: int
) -> PatchSource:
    """The same architecture with random weights, its BatchNorm statistics those of training images.

    moments: mean and standard deviation of the pixels
    """
    geometry = whole_images(train, encoder.spec)
    rival = untrained_encoder(encoder.spec, train, moments, device, seed, geometry)
    return of_encoder(UNTRAINED, rival, moments, geometry, device)


def classical_sources(own: PatchSource, train: Split) -> list[PatchSource]:
    """At the grid of the encoder's own patches."""
    geometry, found = own.source.size, []
    example = images_of(train, torch.zeros(1, dtype=torch.int64), geometry, None)
    for name, describe in ((HOG, hog_cells), (PIXELS, raw_patches)):
        maps = partial(describe, grid=own.grid)
        found.append(patch_source(name, "", maps, geometry, None, maps(example)))
    return found


def raw_patches(images: Tensor, grid: tuple[int, int]) -> Tensor:
    """Levels in 0..1 of each patch, averaged to SIDE pixels a side where there are more.  B,C,H,W → B,s·s·C,h,w"""
    x = _at_grid(in_unit_range(images), grid)
    return patches_of(x, grid).mT.unflatten(2, grid)


def hog_cells(images: Tensor, grid: tuple[int, int]) -> Tensor:
    """HOG of the cell that is a patch and of the eight around it, normalized together (L2-Hys), by scikit-image: Dalal and
    Triggs 2005 with blocks of 3 × 3 cells.  B,C,H,W → B,81,h,w"""
    gray = in_unit_range(images)
    if gray.shape[1] == 3:
        gray = (gray * torch.tensor(LUMA).view(3, 1, 1)).sum(1, keepdim=True)
    x = _at_grid(gray.mean(1, keepdim=True), grid)
    cell = x.shape[2] // grid[0], x.shape[3] // grid[1]
    x = F.pad(x, (cell[1], cell[1], cell[0], cell[0]), mode="replicate")[:, 0].numpy()
    described = [hog(image, ORIENTATIONS, cell, (3, 3), feature_vector=False) for image in x]  # h,w,3,3,9 each
    return torch.stack([torch.from_numpy(one).float().flatten(2).permute(2, 0, 1) for one in described])


def _at_grid(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Averaged to a whole number of pixels a patch, at most SIDE and at least 2.  B,C,H,W → B,C,h·p,w·q"""
    sides = [count * min(SIDE, max(2, round(length / count))) for count, length in zip(grid, x.shape[2:], strict=True)]
    if list(x.shape[2:]) == sides:
        return x
    return F.interpolate(x, sides, mode="bilinear", antialias=True)
