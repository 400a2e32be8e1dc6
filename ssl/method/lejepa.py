"""LeJEPA: Balestriero, LeCun, "LeJEPA: provable and scalable self-supervised learning without the heuristics", 2025,
arXiv 2511.08544.

No teacher, no stop-gradient, no negatives: views are pulled to their mean, and SIGReg pulls the distribution of each
view's embeddings over the global batch to an isotropic Gaussian, one random direction at a time. Directions are a
function of progress, so they are the same on every process and after a resume.
"""
import hashlib
import struct
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.method import Method, Output, Traits, at_least_fp32, check_share, each_view
from core.processes import total, world_size
from vision.heads import mlp

LIMIT = 3.0  # the characteristic functions are compared from 0 to here


def sigreg(z: Tensor, directions: Tensor, knots: int = 17) -> Tensor:
    """Sketched isotropic Gaussian regularisation: the Epps–Pulley statistic of each direction, averaged (§4).

    N·∫ |φ_N(t) − φ(t)|² φ(t) dt over [−3, 3], φ(t) = exp(−t²/2), φ_N(t) = mean_i exp(i·t·z_i·a), by the trapezoidal rule.
    z: B,V,P, each view a sample of N rows over the global batch; directions: P,M of unit length.
    """
    with torch.autocast(z.device.type, enabled=False):
        N = len(z) * world_size()
        projected = at_least_fp32(z) @ directions.to(torch.promote_types(z.dtype, torch.float32))  # B,V,M
        step = LIMIT / (knots - 1)
        t = torch.linspace(0, LIMIT, knots, dtype=projected.dtype, device=z.device)
        phi = (-t.square() / 2).exp()
        weights = torch.full_like(t, 2 * step)  # the integrand is even
        weights[0] = weights[-1] = step
        real, imaginary = total(_Characteristic.apply(projected, step, knots)) / N  # knots,V,M each
        error = (real - phi[:, None, None]).square() + imaginary.square()
        return N * torch.einsum("t,tvm->vm", weights * phi, error).mean()


class _Characteristic(torch.autograd.Function):
    """Σ_i cos(k·s·x_i) and Σ_i sin(k·s·x_i) for k = 0 … knots−1.  x: B,V,M → 2,knots,V,M

    One k at a time, so that memory is that of x, and each from the one before: exp(i·k·θ) = exp(i·(k−1)·θ)·exp(i·θ), so
    that sine and cosine are computed once, not knots times.
    """

    @staticmethod
    def forward(ctx, x: Tensor, step: float, knots: int) -> Tensor:
        ctx.save_for_backward(x)
        ctx.step, ctx.knots = step, knots
        sums = [torch.stack([cos.sum(0), sin.sum(0)]) for cos, sin in _multiples(x * step, knots)]
        return torch.stack(sums, dim=1)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        (x,) = ctx.saved_tensors
        out = torch.zeros_like(x)
        for k, (cos, sin) in enumerate(_multiples(x * ctx.step, ctx.knots)):
            real, imaginary = gradient[:, k] * (k * ctx.step)
            out.addcmul_(cos, imaginary).addcmul_(sin, real, value=-1)
        return out, None, None


def _multiples(angle: Tensor, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """cos(k·θ) and sin(k·θ) for k = 0 … count−1; float32 loses a rounding a k."""
    cos, sin = angle.cos(), angle.sin()
    c, s = torch.ones_like(angle), torch.zeros_like(angle)
    for _ in range(count):
        yield c, s
        c, s = c * cos - s * sin, s * cos + c * sin


def directions_at(progress: float, dim: int, count: int, device: torch.device) -> Tensor:
    """`count` random unit vectors.  → P,M"""
    seed = int.from_bytes(hashlib.blake2b(struct.pack("d", progress), digest_size=4).digest())
    a = torch.randn(dim, count, generator=torch.Generator().manual_seed(seed))
    return F.normalize(a, dim=0).to(device, non_blocking=True)


def invariance_loss(z: Tensor, centre_views: int = 2) -> Tensor:
    """Squared distance of every view from the mean of the first ones, averaged over dimensions too.  B,V,P"""
    return (z - z[:, :centre_views].mean(1, keepdim=True)).square().mean()


class LeJEPA(Method):
    traits = Traits(joint_views=True)

    def __init__(self, encoder: nn.Module, hidden: int, dim: int, slices: int, knots: int, weight: float):
        super().__init__()
        check_share(weight=weight)
        if slices < 1 or knots < 2:
            raise ValueError(f"method.slices={slices}, method.knots={knots}: needs 1 slice and 2 knots at least")
        self.encoder = encoder
        self.projector = mlp([encoder.dim, hidden, hidden, dim])
        self.dim, self.slices, self.knots, self.weight = dim, slices, knots, weight

    def objective(self, features: Tensor, targets: None, progress: float) -> Output:
        z = at_least_fp32(each_view(self.projector, features, joint=True))  # B,V,P
        gaussian = sigreg(z, directions_at(progress, self.dim, self.slices, z.device), self.knots)
        invariance = invariance_loss(z, self.traits.views)
        loss = self.weight * gaussian + (1 - self.weight) * invariance
        return Output(loss, {"sigreg": gaussian.detach(), "invariance": invariance.detach()})
