"""A teacher in tokens: features and patches of every member at one or several sizes, computed or read from a cache.

Patches are kept as principal components (distill/patch_basis.py), whether a cache holds them or not, so that a cache changes
no bit of a target. A row holds of each member its features and the components of its patches, in half precision.
"""
import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from core.image_size import Size, of, sides, size_text
from core.method import Batch, check_positive
from distill.cache import half
from distill.patch_basis import Basis, Moments
from vision import encoders, tokens

FITTED_IMAGES, FITTED_PATCHES = 1_024, 32_768  # of train, the first in the run's order: at most so many, and about so many


@dataclass(frozen=True)
class TeacherTokens:
    """Of one member, on a batch."""

    features: Tensor  # B,D
    kept: Tensor  # B,N,k: principal components of patches
    grid: tuple[int, int]  # h,w: N = h·w


class TokenTeacher(nn.Module):
    """What a frozen `Teacher` makes of the first view; its state is the bases alone."""

    def __init__(self, teacher, components: int):
        """components: of patches that are kept, at most.  Raises ValueError for a member or a size that has no patches."""
        super().__init__()
        check_positive(components=components)
        self.teacher = teacher
        self.sizes = [self._sizes(member) for member in teacher.members]  # a member each, a size each
        self.grids, bases = [], []
        for member, sizes in zip(teacher.members, self.sizes, strict=True):
            shapes = [_probe(member, size, self._setting(member)) for size in sizes]
            self.grids.append([shape[1:] for shape in shapes])
            bases.append(Basis(member.encoder.dim, shapes[0][0], components))
        self.bases = nn.ModuleList(bases)
        self.to(teacher.mean.device)

    @property
    def turns(self) -> int:
        """How many sizes take turns."""
        return max(1, len(self.teacher.sizes))

    def at(self, batch: Batch) -> int:
        """Which of the sizes this step has."""
        return batch.step % self.turns

    @property
    def width(self) -> int:
        """Numbers of a row: those of the largest size."""
        return max(sum(self._widths(at)) for at in range(self.turns))

    @torch.no_grad()
    def forward(self, batch: Batch) -> list[TeacherTokens]:
        """In the views' precision, at least float32."""
        like, at = batch.views[0], self.at(batch)
        widths = self._widths(at)
        cache = self.teacher.cache
        kept = cache and cache.get(batch.epoch, batch.indices.numpy())
        if kept is None:
            rows = half(self._computed(like, at))
            if cache:
                padded = nn.functional.pad(rows, (0, self.width - rows.shape[1]))
                cache.put(batch.epoch, batch.indices.numpy(), padded.cpu().numpy())
        else:
            rows = torch.from_numpy(kept[:, : sum(widths)])
        rows = rows.to(like.device, torch.promote_types(like.dtype, torch.float32))
        parts = rows.split(widths, dim=1)
        return [
            TeacherTokens(features, flat.unflatten(1, (-1, basis.kept)), grids[at])
            for features, flat, basis, grids in zip(parts[::2], parts[1::2], self.bases, self.grids, strict=True)
        ]

    def fit(self, batches: Iterable[Batch]) -> None:
        """Means, components and scales from these batches' first views.  Collective."""
        moments = [Moments(len(basis.features_mean), len(basis.mean), basis.mean.device) for basis in self.bases]
        for batch in batches:
            for member, found, sizes in zip(self.teacher.members, moments, self.sizes, strict=True):
                found.add(*self._outputs(batch.views[0], member, sizes[self.at(batch)]))
        for basis, found in zip(self.bases, moments, strict=True):
            basis.fit(found)

    def fitted_steps(self, batch_size: int) -> int:
        """How many steps' images `fit` is to see."""
        patches = max(math.prod(grid) for grids in self.grids for grid in grids)
        images = min(FITTED_IMAGES, math.ceil(FITTED_PATCHES / patches))
        return max(math.ceil(images / batch_size), self.turns)

    def notes(self) -> list[str]:
        """For the user: what is kept of each member."""
        found = []
        for member, basis, grids in zip(self.teacher.members, self.bases, self.grids, strict=True):
            places = ", ".join(f"{h}×{w}" for h, w in grids)
            found.append(f"teacher {member.name}: {places} patches, {basis.kept} of {len(basis.mean)} principal components, "
                         f"which have {100 * float(basis.explained):.1f} % of their variance (method.components)")
        return found

    def _computed(self, view: Tensor, at: int) -> Tensor:
        rows = []
        for member, basis, sizes in zip(self.teacher.members, self.bases, self.sizes, strict=True):
            features, patches = self._outputs(view, member, sizes[at])
            with torch.autocast(view.device.type, enabled=False):
                rows += [features, basis.project(patches.to(basis.mean.dtype)).flatten(1)]
        return torch.cat(rows, 1)

    @torch.no_grad()
    def _outputs(self, view: Tensor, member, size: Size) -> tuple[Tensor, Tensor]:
        """B,D and B,N,E float32"""
        features, found = tokens.pooled_and_map(member.encoder, self.teacher.seen(view, member, size))
        return features.float(), found.flatten(2).mT.float()

    def _widths(self, at: int) -> list[int]:
        pairs = zip(self.bases, self.grids, strict=True)
        return [n for basis, grids in pairs for n in (len(basis.features_mean), basis.kept * math.prod(grids[at]))]

    def _setting(self, member) -> str:
        return f"teacher_sizes={list(self.teacher.sizes)}: " * bool(self.teacher.sizes) + f"teacher={member.name}"

    def _sizes(self, member) -> list[Size]:
        own, patch = member.encoder.spec.image_size, encoders.patch_size(member.encoder)
        return [scaled(own, size / max(sides(own)), patch) for size in self.teacher.sizes] or [own]


def scaled(size: Size, share: float, patch: int) -> Size:
    """That share of a size, in whole patches, one at least."""
    return of(*(max(1, round(side * share / patch)) * patch for side in sides(size)))


@torch.no_grad()
def _probe(member, size: Size, who: str) -> tuple[int, int, int]:
    """Width and grid of a member's patches at a size."""
    encoder = member.encoder
    like = next(encoder.parameters())
    try:
        found = tokens.pooled_and_map(encoder, like.new_zeros(2, encoder.spec.channels, *sides(size)))[1]
    except Exception as error:  # timm's models fail in many ways
        why = f"which this method compares ({' '.join(str(error).split())[:160]})"
        raise ValueError(f"{who} gives no patches of images of {size_text(size)} px, {why}") from error
    return found.shape[1], found.shape[2], found.shape[3]
