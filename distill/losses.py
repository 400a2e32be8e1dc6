"""Losses between a student and its teacher, as pure functions, written for the global batch.

Over W processes each returns the mean over this process's rows; the mean of those over processes is the loss of the joined
batch, and so is the averaged gradient. Teachers come first in no function: it is (student, teacher, …) throughout. All compute
in float32 at least.
"""
import torch
from torch import Tensor
from torch.nn import functional as F

from core.method import at_least_fp32
from core.numerics import cosine, safe_sqrt, unit
from core.processes import gather, rank, total, world_size

EPSILON = 1e-7


def kd(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T² · mean_i KL(softmax(t_i / T) ‖ softmax(s_i / T)).  Logits B,K.  Hinton et al. 2015, arXiv 1503.02531, §2."""
    ours, theirs = ((at_least_fp32(z) / temperature).log_softmax(1) for z in (student, teacher))
    return F.kl_div(ours, theirs, reduction="batchmean", log_target=True) * temperature**2


def standardised(logits: Tensor, unbiased: bool = True) -> Tensor:
    """(z − mean) / (deviation + 1e-7) over classes, each image by itself.  B,K.  Sun et al. 2024, arXiv 2403.01427, alg. 1.

    unbiased: the deviation divides by K − 1, as in the authors' code; else by K. Equal logits become zeros, and the
    deviation has no gradient there, as theirs. Raises ValueError for one class, whose deviation is not defined.
    """
    K = logits.shape[1]
    if K < 2:
        raise ValueError("method.standardise: one class has no deviation to divide by; use method=kd without it")
    centred = at_least_fp32(logits) - at_least_fp32(logits).mean(1, keepdim=True)
    variance = centred.square().sum(1, keepdim=True) / (K - 1) if unbiased else centred.square().mean(1, keepdim=True)
    return centred / (safe_sqrt(variance) + EPSILON)


def dkd(student: Tensor, teacher: Tensor, labels: Tensor, alpha: float, beta: float, temperature: float) -> Tensor:
    """T² · (α · TCKD + β · NCKD).  Logits B,K with labels B.  Zhao et al. 2022, arXiv 2203.08679, eq. 7.

    TCKD: KL of (target's probability, all others'); NCKD: KL of the softmax over the other classes alone. Raises ValueError
    for one class, which leaves no other.
    """
    if student.shape[1] < 2:
        raise ValueError("method=dkd: one class leaves none beside the target; use a method that needs no logits")
    target = F.one_hot(labels, student.shape[1]).bool()

    def parts(logits: Tensor) -> tuple[Tensor, Tensor]:
        logp = (at_least_fp32(logits) / temperature).log_softmax(1)
        others = logp[~target].unflatten(0, (len(logits), -1))  # B,K-1
        rest = others.logsumexp(1, keepdim=True)
        return torch.cat([logp[target][:, None], rest], 1), others - rest

    ours, theirs = parts(student), parts(teacher)
    tckd, nckd = (F.kl_div(f, t, reduction="batchmean", log_target=True) for f, t in zip(ours, theirs, strict=True))
    return (alpha * tckd + beta * nckd) * temperature**2


def dist(student: Tensor, teacher: Tensor, beta: float, gamma: float, temperature: float) -> Tensor:
    """T² · (β · (1 − ρ over classes, mean over images) + γ · (1 − ρ over images, mean over classes)), ρ Pearson's.

    Of softmax(z / T).  Logits B,K.  Huang et al. 2022, arXiv 2205.10536, eqs. 6–10.
    """
    ours, theirs = ((at_least_fp32(z) / temperature).softmax(1) for z in (student, teacher))
    between = 1 - _pearson(ours, theirs).mean()
    within = 1 - _pearson(gather(ours).T, gather(theirs).T).mean()
    return (beta * between + gamma * within) * temperature**2


def _pearson(a: Tensor, b: Tensor) -> Tensor:
    """Of each row.  N,M → N"""
    return cosine(a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True))


def attention(student: Tensor, teacher: Tensor) -> Tensor:
    """mean (a_S − a_T)², a = vec(mean_c A_c²) of length 1.  Maps B,C,h,w, brought to the smaller of the two sizes.

    Zagoruyko and Komodakis 2017, arXiv 1612.03928, eq. 2 with p = 2; the mean over positions and images, as the CIFAR-100
    comparison has it (Tian et al., arXiv 1910.10699).
    """
    student, teacher = same_size(at_least_fp32(student), at_least_fp32(teacher))
    a, b = (unit(x.square().mean(1).flatten(1), dim=1) for x in (student, teacher))
    return (a - b).square().mean()


def same_size(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps at the smaller of their two sizes, by averaging.  B,C,h,w and B,c,H,W"""
    size = [min(a, b) for a, b in zip(student.shape[2:], teacher.shape[2:], strict=True)]
    return tuple(x if list(x.shape[2:]) == size else F.adaptive_avg_pool2d(x, size) for x in (student, teacher))


def similarity_preserving(student: Tensor, teacher: Tensor) -> Tensor:
    """‖G_S − G_T‖² / B², G = rows of Q Qᵀ at length 1, Q the flattened maps.  B,… and B,… → scalar

    Tung and Mori 2019, arXiv 1907.09682, eqs. 1–4. B is the global batch.
    """
    rows = (at_least_fp32(maps).flatten(1) for maps in (student, teacher))
    ours, theirs = (unit(q @ gather(q).T, dim=1) for q in rows)
    return (ours - theirs).square().mean()


def probabilistic_transfer(student: Tensor, teacher: Tensor) -> Tensor:
    """mean over pairs of p_T · log(p_T / p_S), p = rows of (cosine + 1) / 2 that sum to 1.  B,D and B,E

    Passalis and Tefas 2018, arXiv 1803.10837, eqs. 3–6 with the cosine kernel, an image with itself included as in their code.
    """

    def shares(x: Tensor) -> Tensor:
        x = at_least_fp32(x)
        x = x / (x.norm(dim=1, keepdim=True) + EPSILON)
        p = ((x @ gather(x).T + 1) / 2).clamp(min=0)  # a cosine of −1 may be less by rounding
        return p / p.sum(1, keepdim=True)

    ours, theirs = shares(student), shares(teacher)
    return (theirs * ((theirs + EPSILON) / (ours + EPSILON)).log()).mean()


def relational_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """mean over pairs of huber(ψ_S − ψ_T), ψ = ‖x_i − x_j‖ / its mean over pairs.  B,D and B,E

    Park et al. 2019, arXiv 1904.05068, eqs. 4–6. Pairs of an image with itself count in the mean, not in ψ's. As in the
    authors' code no distance of two images is less than 1e-6: with equal features ψ is 1 for all, without gradient.
    """

    def psi(x: Tensor) -> Tensor:
        x = at_least_fp32(x)
        B, N = len(x), len(x) * world_size()
        square = (x[:, None] - gather(x)).square().sum(2)  # B,N
        own = torch.arange(B, device=x.device)[:, None] + rank() * B == torch.arange(N, device=x.device)
        distance = square.clamp(min=1e-12).sqrt() * ~own
        return distance / (total(distance.sum()) / max(N * (N - 1), 1)).clamp(min=1e-7)  # the clamp is for a single image

    return F.smooth_l1_loss(psi(student), psi(teacher))


def relational_angle(student: Tensor, teacher: Tensor) -> Tensor:
    """mean over triplets of huber(cos ∠_S − cos ∠_T) of the angle at x_i between x_j and x_k.  B,D and B,E

    Park et al. 2019, eqs. 7–9. Memory: B·B·D numbers a network.
    """

    def cosines(x: Tensor) -> Tensor:
        x = at_least_fp32(x)
        e = unit(gather(x) - x[:, None], dim=2)  # B,W*B,D: from each vertex to all others
        return e @ e.transpose(1, 2)  # B,W*B,W*B

    return F.smooth_l1_loss(cosines(student), cosines(teacher))


def similarity_kl(
    student: Tensor, teacher: Tensor, anchors: Tensor, teachers_anchors: Tensor, temperature: float, teachers_temperature: float
) -> Tensor:
    """Cross-entropy of similarities to anchors: mean_i −Σ_j softmax(t_i·a'_j / τ_T) log softmax(s_i·a_j / τ_S).

    Rows of length 1: student B,P with anchors K,P; teacher B,Q with its anchors K,Q.  CompRess (arXiv 2010.14713, eqs. 1–3)
    gives each network anchors of its own; regression by KL gives both the teacher's.
    """
    found = at_least_fp32(student) @ at_least_fp32(anchors).T / temperature
    return soft_cross_entropy(found, at_least_fp32(teacher) @ at_least_fp32(teachers_anchors).T / teachers_temperature)


def soft_cross_entropy(student: Tensor, teacher: Tensor) -> Tensor:
    """mean_i −Σ_j softmax(t_i)_j log softmax(s_i)_j.  B,K"""
    return -(at_least_fp32(teacher).softmax(1) * at_least_fp32(student).log_softmax(1)).sum(1).mean()


def contrastive(
    anchors: Tensor, positives: Tensor, negatives: Tensor, allowed: Tensor, temperature: float, log_constant: Tensor
) -> Tensor:
    """−mean_i [log h(a_i, p_i) + Σ_j log(1 − h(a_i, n_j))], h = p(a·b) / (p(a·b) + N/M), p(x) = e^{x/τ} / Z.

    Rows of length 1: anchors, positives B,P; negatives N,P; allowed B,N: which are some other class's, N of them to an
    image. log_constant: log(Z/M), M images of the data; M itself cancels. Tian et al. 2020, arXiv 1910.10699, eqs. 10 and
    19, with the constant Z of the authors' code, without which a thousand negatives drown the positive; here the negatives
    are shared by the batch.
    """
    anchors, positives, negatives = at_least_fp32(anchors), at_least_fp32(positives), at_least_fp32(negatives)
    shift = torch.log(allowed.sum(1).clamp(min=1).to(anchors.dtype)) + log_constant  # B: log(N Z/M)
    positive = (anchors * positives).sum(1) / temperature - shift
    negative = anchors @ negatives.T / temperature - shift[:, None]
    return -(F.logsigmoid(positive) + (F.logsigmoid(-negative) * allowed).sum(1)).mean()
