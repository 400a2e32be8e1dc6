"""What methods on a teacher's tokens share: one view for both, a head for each teacher, sizes that take turns."""
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core import counter_rng
from core.image_size import of, sides, size_text
from core.method import Batch, Record, Traits
from distill.method import Distillation
from distill.student_levels import HEADS, Head, level_widths, levels_of
from distill.token_teacher import TokenTeacher, scaled
from vision import encoders

TEACHERS = 0xFFFC0000  # the counter's stream word of `TokenTargets.draws`: clear of the uses named in core/counter_rng.py


@dataclass(frozen=True)
class TokenTargets(Record):
    """A tensor for each teacher."""

    features: tuple[Tensor, ...]  # B,D
    maps: tuple[Tensor, ...]  # B,E,h,w
    draws: Tensor  # B,T: a number from 0 to 1 for each image and teacher, of the counter


class WithTokens(Distillation):
    """The student's features and its map, projected to each teacher's and brought to its grid, and what they are to be.

    components: principal components of patches that targets keep, at most. heads, hidden: of `student_levels.Head`.
    """

    needs = ()
    traits = Traits(views=1, per_image=True, local_crops=False, on_tokens=True)
    standardized = True  # maps are PHI-S targets of the kept components; False: patches, less the other components

    def __init__(self, encoder: nn.Module, teacher, heads: str, hidden: int, components: int):
        super().__init__(encoder, teacher)
        if heads not in HEADS:
            raise ValueError(f"method.heads={heads}: there are {', '.join(HEADS)}")
        self.kind, self.tokens = heads, TokenTeacher(teacher, components)
        widths, bases = level_widths(encoder, heads), self.tokens.bases
        kept = [basis.kept if self.standardized else len(basis.mean) for basis in bases]
        dims = [len(basis.features_mean) for basis in bases]
        self.heads = nn.ModuleList([Head(widths, d, k, heads, hidden) for d, k in zip(dims, kept, strict=True)])
        patch, largest = encoders.patch_size(encoder), max(teacher.sizes, default=1)
        self.sizes = [scaled(encoder.spec.image_size, size / largest, patch) for size in teacher.sizes]
        for size in self.sizes if len(self.sizes) > 1 else ():
            if why := encoders.unfit_reason(encoder, size):
                raise ValueError(f"teacher_sizes={list(teacher.sizes)}: student={encoder.spec.name} does not take images of "
                                 f"{size_text(size)} px, its share of them ({why}); name sizes that lie closer together")

    def embed(self, batch: Batch) -> tuple[Tensor, ...]:
        """→ features B,D and map B,E,h,w of each teacher in turn, as the student has them"""
        view, at = batch.views[0], self.tokens.at(batch)
        if len(self.sizes) > 1 and self.sizes[at] != of(view.shape[2], view.shape[3]):
            view = F.interpolate(view, sides(self.sizes[at]), mode="bilinear", antialias=True, align_corners=False)
        levels = levels_of(self.encoder, view, self.kind)
        pairs = [head(levels, grids[at]) for head, grids in zip(self.heads, self.tokens.grids, strict=True)]
        return tuple(x for pair in pairs for x in pair)

    @torch.no_grad()
    def targets(self, batch: Batch) -> TokenTargets:
        maps, found = [], self.tokens(batch)
        with torch.autocast(batch.views[0].device.type, enabled=False):
            for basis, teacher in zip(self.tokens.bases, found, strict=True):
                made = basis.standardize(teacher.kept) if self.standardized else basis.restore(teacher.kept)
                maps.append(made.mT.unflatten(2, teacher.grid))
        drawn = counter_rng.uniform(batch.seed, batch.epoch, batch.indices, TEACHERS, len(found))
        return TokenTargets(tuple(x.features for x in found), tuple(maps), drawn.to(maps[0].device))
