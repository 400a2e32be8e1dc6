"""PHI-S: rotations after which all dimensions of a distribution have the same variance.

Ranzinger, Barker, Heinrich, Molchanov, Catanzaro, Tao 2024, "PHI-S: distribution balancing for label-free multi-teacher
distillation", arXiv 2410.01680: rotate by the eigenvectors of the covariance, then by a Hadamard matrix, and divide by one
number. Several teachers get targets of one scale, no direction is blown up as whitening would, and the map is invertible.
"""
import torch
from torch import Tensor


def equal_variances(variances: Tensor) -> Tensor:
    """A rotation R for which all diagonal entries of R · diag(variances) · Rᵀ are their mean.  D → D,D float64

    Hadamard's matrix of order D divided by √D where one is found (`hadamard`): it serves any variances. Other orders get D − 1
    plane rotations, each of which brings one more dimension to the mean (Bendel and Mickey 1978).
    """
    D = len(variances)
    matrix = hadamard(D)
    return _by_planes(variances) if matrix is None else matrix / D**0.5


def hadamard(order: int) -> Tensor | None:
    """A matrix of ±1 with H Hᵀ = order · I, or None where this rule finds none.  → D,D float64

    Twice a known order by Sylvester's construction (every power of two); else, for multiples of four, Paley's first (order
    q + 1, q a prime of the form 4 n + 3) or second (order 2 (q + 1), q a prime of the form 4 n + 1). So 384 and 768 are 12
    doubled, 1280 is 20 doubled; no odd order but 1 has a Hadamard matrix, and no 2 · odd one but 2.
    """
    if order == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    two = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    half = hadamard(order // 2) if order % 2 == 0 else None
    if half is not None:
        return torch.kron(two, half)
    if order % 4:
        return None
    if _prime(q := order - 1):  # 4 n + 3
        core = _jacobsthal(q)
        core[1:, 0] = -1
        return core + torch.eye(order, dtype=torch.float64)
    if _prime(q := order // 2 - 1) and q % 4 == 1:
        alone = torch.tensor([[1.0, -1.0], [-1.0, -1.0]], dtype=torch.float64)
        return torch.kron(_jacobsthal(q), two) + torch.kron(torch.eye(q + 1, dtype=torch.float64), alone)
    return None


def _prime(q: int) -> bool:
    return q > 1 and all(q % d for d in range(2, int(q**0.5) + 1))


def _jacobsthal(q: int) -> Tensor:
    """Quadratic characters of i − j modulo q, with a border of ones and a corner of 0.  → q+1,q+1"""
    squares = torch.full((q,), -1.0, dtype=torch.float64)
    squares[torch.arange(q) ** 2 % q] = 1
    squares[0] = 0
    at, bordered = torch.arange(q), torch.ones(q + 1, q + 1, dtype=torch.float64)
    bordered[1:, 1:] = squares[(at[:, None] - at) % q]
    bordered[0, 0] = 0
    return bordered


def _by_planes(variances: Tensor) -> Tensor:
    left, rotation = variances.double().tolist(), torch.eye(len(variances), dtype=torch.float64)
    mean, open_ = sum(left) / len(left), set(range(len(left)))
    while len(open_) > 1:
        low, high = min(open_, key=left.__getitem__), max(open_, key=left.__getitem__)
        width = left[high] - left[low]
        share = min(max((mean - left[low]) / width, 0.0), 1.0) if width > 0 else 0.0
        s, c = share**0.5, (1 - share) ** 0.5
        rotation[[low, high]] = torch.stack([c * rotation[low] + s * rotation[high], c * rotation[high] - s * rotation[low]])
        left[high] += left[low] - mean
        open_.discard(low)
    return rotation
