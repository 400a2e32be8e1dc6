"""Every method's loss beside the paper's equation, with inputs that have a row an image, so that processes can share them."""
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import equations
import torch
from torch import Tensor, nn

from core.method import Batch
from ssl.losses import log_sum_exp
from ssl.masked_crops import koleo_loss, masked_rows
from ssl.method.all4one import feature_loss
from ssl.method.barlow_twins import EPS, barlow_twins_loss
from ssl.method.byol import byol_loss
from ssl.method.dcl import dcl_loss
from ssl.method.dino import DINO, dino_loss
from ssl.method.dinov2 import class_loss
from ssl.method.dinov3 import gram_loss
from ssl.method.ibot import patch_loss
from ssl.method.ijepa import ijepa_loss
from ssl.method.lejepa import LeJEPA, directions_at, invariance_loss, sigreg
from ssl.method.mae import mae_loss, normalized
from ssl.method.nnclr import nnclr_loss
from ssl.method.simdinov2 import alignment, coding_rate
from ssl.method.simmim import simmim_loss
from ssl.method.simsiam import negative_cosine
from ssl.method.supcon import supcon_loss
from ssl.method.swav import sinkhorn, swapped_prediction
from ssl.method.vicreg import vicreg_loss
from ssl.method.visreg import visreg_terms
from ssl.sinkhorn import balanced, cross_entropy, expected_prototypes

N, V, P, K = 8, 3, 4, 6  # images, views, dimensions, prototypes
FEATURES = 12
PROGRESS, SLICES, KNOTS = 0.3, 5, 7


@dataclass(frozen=True)
class Case:
    ours: Callable[..., Tensor]
    paper: Callable[..., Tensor]
    shapes: tuple[tuple[int, ...], ...]  # of each input beyond its rows; each gets a gradient
    rows: tuple[Tensor, ...] = ()  # integers that an image brings along
    sharpest: float = 1.0  # 1/T: what rounding of a similarity is multiplied by
    half: bool = True  # makes float32 of half-precision inputs itself
    scores: bool = False  # takes inner products of unit vectors

    def inputs(self, dtype: torch.dtype = torch.float64, scale: float = 1.0, offset: float = 0.0) -> list[Tensor]:
        generator = torch.Generator().manual_seed(5)
        found = [0.8 * scale * torch.randn(N, *shape, generator=generator) + offset for shape in self.shapes]
        return [(x.tanh() if self.scores else x).to(dtype) for x in found]


def value_and_gradients(
    loss: Callable, inputs: list[Tensor], rows: tuple[Tensor, ...] = (), autocast: bool = False
) -> list[Tensor]:
    """The loss and what each input's gradient is.  autocast: forward runs in it, as in a run; backward never does."""
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        value = loss(*inputs, *rows)
    gradients = torch.autograd.grad(value, inputs, allow_unused=True, materialize_grads=True)
    return [value.detach(), *(g.detach() for g in gradients)]


def _fixed(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(6), dtype=torch.float64)


def like(fixed: Tensor, x: Tensor) -> Tensor:
    return fixed.to(torch.promote_types(x.dtype, torch.float32))


def swav_loss(first: Tensor, second: Tensor) -> Tensor:
    codes = [sinkhorn(scores.detach(), 0.05, 3) for scores in (first, second)]
    return (swapped_prediction(second, codes[0], 0.1) + swapped_prediction(first, codes[1], 0.1)) / 2


class Flat(nn.Module):
    dim = FEATURES

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


def lejepa(dim: int, slices: int, knots: int) -> LeJEPA:
    """Its objective takes what would come out of the projector."""
    method = LeJEPA(Flat(), 8, dim, slices, knots, 0.05)
    method.projector = nn.Identity()
    return method


def dino(warmup: float) -> DINO:
    """Temperature .04 → .07, centre momentum .9, no BatchNorm."""
    return DINO(Flat(), 16, 8, K, False, 0.1, (0.04, 0.07), warmup, (0.9, 1.0), 0.9, 0.0).double()


def dino_views(count: int = N) -> Batch:
    """Two views of vectors, which its encoder passes on."""
    return Batch([torch.randn(count, FEATURES).double() + 1 for _ in range(2)], torch.arange(count))


def lejepa_paper(z: Tensor) -> Tensor:
    """Over the same random directions. The authors' code has the prediction's mean over dimensions: 1/P of the paper's."""
    directions = directions_at(PROGRESS, P, SLICES, z.device).double()
    return 0.05 * equations.sigreg(z, directions, KNOTS) + 0.95 * equations.lejepa_prediction(z, 2) / P


def _vicreg(*weights: float) -> Case:
    """Our weights are those of the authors' code: invariance is a mean over dimensions, 1/P of eq. 5, and variance half of
    eq. 6's sum over views. Covariance is eq. 6's sum.
    """

    def paper(a: Tensor, b: Tensor) -> Tensor:
        s, v, c = equations.vicreg(a, b)
        return weights[0] * s / P + weights[1] * v / 2 + weights[2] * c

    return Case(lambda a, b: vicreg_loss(a, b, *weights), paper, ((P,), (P,)))


def dinov2_classes(student: Tensor, teacher: Tensor) -> Tensor:
    ours, theirs = (like(c, student) for c in PROTOTYPES)
    targets = balanced(teacher.detach().flatten(0, 1), theirs, 0.4)
    return class_loss(student, targets, ours, 0.5)


def dinov2_patches(student: Tensor, teacher: Tensor, masked: Tensor) -> Tensor:
    ours, theirs = (like(c, student) for c in PROTOTYPES)
    rows = masked_rows(masked)
    expected = expected_prototypes(balanced(teacher.detach()[rows.chosen], theirs, 0.4, rows.counted), ours)
    return rows.mean(cross_entropy(student[rows.chosen], ours, 0.5, expected))


LABELS = torch.tensor([1, 0, 2, 1, 1, 0, 3, 1])  # 3 has one image
SKIPPED = torch.stack([torch.randperm(11, generator=torch.Generator().manual_seed(i))[:3] for i in range(N)])
DIRECTIONS = torch.nn.functional.normalize(_fixed(P, SLICES), dim=0)
MASKED = torch.arange(N * 2 * 3).view(N, 2, 3) % 5 < 2  # some crops have none
UNEVEN = MASKED & (torch.arange(N) > 3)[:, None, None]  # none of the first images, so none on the first of two processes
PROTOTYPES = _fixed(K, P), _fixed(K, P).flip(0) / 2  # student's, teacher's
CENTRE, KEYS = _fixed(K), _fixed(11, P) / 2

CASES = {
    "byol": Case(byol_loss, equations.byol, ((P,), (P,))),
    "simsiam": Case(negative_cosine, equations.simsiam, ((P,), (P,))),
    "barlow_twins": Case(
        lambda a, b: barlow_twins_loss(a, b, 0.0051), lambda a, b: equations.barlow_twins(a, b, 0.0051, EPS), ((P,), (P,))
    ),
    "vicreg": _vicreg(25.0, 25.0, 1.0),
    "vicreg_invariance": _vicreg(1.0, 0.0, 0.0),
    "vicreg_variance": _vicreg(0.0, 1.0, 0.0),
    "vicreg_covariance": _vicreg(0.0, 0.0, 1.0),
    "swav": Case(
        swav_loss, lambda a, b: equations.swav(a, b, 0.1, 0.05, 3), ((K,), (K,)), sharpest=1 / 0.05, scores=True
    ),
    "dino": Case(
        lambda s, t: dino_loss(s, t, like(CENTRE, s), 0.1, 0.04),
        lambda s, t: equations.dino(s, t, CENTRE, 0.1, 0.04),
        ((V, K), (2, K)),
        sharpest=1 / 0.04,
    ),
    "nnclr": Case(lambda n, p: nnclr_loss(n, p, 0.1), lambda n, p: equations.nnclr(n, p, 0.1), ((P,), (P,)), sharpest=10),
    "dcl": Case(lambda a, b: dcl_loss(a, b, 0.1), lambda a, b: equations.dcl(a, b, 0.1), ((P,), (P,)), sharpest=10),
    "dclw": Case(
        lambda a, b: dcl_loss(a, b, 0.1, 0.5), lambda a, b: equations.dcl(a, b, 0.1, 0.5), ((P,), (P,)), sharpest=10
    ),
    "supcon": Case(
        lambda z, y: supcon_loss(z, y, 0.1), lambda z, y: equations.supcon(z, y, 0.1), ((2, P),), (LABELS,), sharpest=10
    ),
    "all4one_features": Case(feature_loss, equations.all4one_features, ((2, P), (2, P))),
    "sigreg": Case(
        lambda z: sigreg(z, like(DIRECTIONS, z), KNOTS), lambda z: equations.sigreg(z, DIRECTIONS, KNOTS), ((V, P),)
    ),
    "lejepa_invariance": Case(
        invariance_loss, lambda z: equations.lejepa_prediction(z, 2) / P, ((V, P),), half=False
    ),  # its one caller hands it float32
    "lejepa": Case(lambda z: lejepa(P, SLICES, KNOTS).objective(z, None, PROGRESS).loss, lejepa_paper, ((V, P),)),
    "visreg": Case(
        lambda z: visreg_terms(z, like(DIRECTIONS, z)).sum(),
        lambda z: equations.visreg(z, DIRECTIONS, NormalDist().inv_cdf),
        ((V, P),),
    ),
    "mae": Case(lambda p, x: mae_loss(p, normalized(x)), equations.mae, ((3, P), (3, P)), half=False),  # targets are float32
    "simmim": Case(simmim_loss, equations.simmim, ((3, P), (3, P))),
    "ijepa": Case(lambda p, t: ijepa_loss(p, t.detach()), equations.ijepa, ((2, 2, P), (2, 2, P))),
    "ibot": Case(
        lambda s, t, masked: patch_loss(s, t, masked, like(CENTRE, s), 0.1, 0.04),
        lambda s, t, masked: equations.ibot_patches(s, t, masked, CENTRE, 0.1, 0.04),
        ((2, 3, K), (2, 3, K)),
        (MASKED,),
        sharpest=1 / 0.04,
    ),
    "dinov2_classes": Case(
        dinov2_classes, lambda s, t: equations.dinov2_classes(s, t, PROTOTYPES, 0.5, 0.4), ((V, P), (2, P)), sharpest=10,
        half=False,
    ),  # the objective hands them float32
    "dinov2_patches": Case(
        dinov2_patches, lambda s, t, masked: equations.dinov2_patches(s, t, masked, PROTOTYPES, 0.5, 0.4),
        ((2, 3, P), (2, 3, P)), (UNEVEN,), sharpest=10, half=False,
    ),
    "gram": Case(lambda s, t: gram_loss(s, t.detach()), equations.gram, ((2, 3, P), (2, 3, P))),
    "koleo": Case(lambda z: koleo_loss(z, "dinov2"), equations.koleo, ((P,),), sharpest=10),
    "coding_rate": Case(lambda z: coding_rate(z, 0.05), lambda z: equations.coding_rate(z, 0.05), ((P,),), sharpest=10,
                        scores=True),
    "simdinov2_alignment": Case(
        alignment, equations.simdinov2_alignment, ((V, P), (2, P)),
        half=False,
    ),
    "log_sum_exp": Case(
        lambda q, skipped: log_sum_exp(q, like(KEYS, q), 0.2, skipped).mean(),
        lambda q, skipped: equations.log_sum_exp(q, KEYS, 0.2, skipped),
        ((P,),),
        (SKIPPED,),
        sharpest=5,
        half=False,
    ),  # its callers do
}
