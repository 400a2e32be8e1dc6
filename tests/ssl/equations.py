"""The papers' equations as loops over images, views and dimensions, in float64: slow, and with nothing left to get wrong.

Each takes the tensors that ours takes and returns a scalar; autograd through the loops gives the paper's gradient.
"""
from itertools import pairwise
from math import exp as number_exp

import torch
from torch import Tensor, exp, log, sqrt


def dot(a: Tensor, b: Tensor) -> Tensor:
    return sum(x * y for x, y in zip(a, b, strict=True))


def unit(a: Tensor) -> Tensor:
    return a / sqrt(dot(a, a))


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return dot(unit(a), unit(b))


def softmax(row: Tensor) -> list[Tensor]:
    below = sum(exp(x) for x in row)
    return [exp(x) / below for x in row]


def byol(q: Tensor, z: Tensor) -> Tensor:
    """2006.07733, eq. 2: ‖q̄ − z̄‖² of unit vectors, mean over images."""
    return sum(dot(d, d) for d in (unit(a) - unit(b) for a, b in zip(q, z, strict=True))) / len(q)


def simsiam(p: Tensor, z: Tensor) -> Tensor:
    """2011.10566, eq. 1 with eq. 3's stop-gradient."""
    return -sum(cosine(a, b) for a, b in zip(p, z.detach(), strict=True)) / len(p)


def barlow_twins(a: Tensor, b: Tensor, off_diagonal: float, eps: float) -> Tensor:
    """2103.03230, eq. 1 and 2: C_ij = Σ_b a_bi b_bj / (√Σ_b a_bi² · √Σ_b b_bj²) of centred a and b.

    eps: added to each variance, 0 in the paper; the authors' code centres and scales by BatchNorm, which has 1e-5.
    """
    N, P = a.shape

    def column(z: Tensor, i: int) -> list[Tensor]:
        mean = sum(z[b, i] for b in range(N)) / N
        return [z[b, i] - mean for b in range(N)]

    def length(column: list[Tensor]) -> Tensor:
        return sqrt(sum(x * x for x in column) + N * eps)

    loss = 0
    for i in range(P):
        for j in range(P):
            x, y = column(a, i), column(b, j)
            C = sum(s * t for s, t in zip(x, y, strict=True)) / (length(x) * length(y))
            loss = loss + ((1 - C) ** 2 if i == j else off_diagonal * C**2)
    return loss


def vicreg(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """2105.04906: s(Z,Z') of eq. 5, v(Z) + v(Z') of eq. 1 and 2, c(Z) + c(Z') of eq. 3 and 4."""
    N, P = a.shape
    s = sum((a[i, d] - b[i, d]) ** 2 for i in range(N) for d in range(P)) / N
    v = c = 0
    for z in (a, b):
        means = [sum(z[i, d] for i in range(N)) / N for d in range(P)]
        for j in range(P):
            for k in range(P):
                covariance = sum((z[i, j] - means[j]) * (z[i, k] - means[k]) for i in range(N)) / (N - 1)
                if j == k:
                    v = v + torch.clamp(1 - sqrt(covariance + 1e-4), min=0) / P  # γ = 1, ε = 1e-4
                else:
                    c = c + covariance**2 / P
    return s, v, c


def sinkhorn(scores: Tensor, epsilon: float, iterations: int) -> list[list[float]]:
    """2006.09882, eq. 5: Q* = Diag(u) exp(CᵀZ/ε) Diag(v), u and v found by turns; here a sample's weights sum to 1."""
    N, K = scores.shape
    kernel = [[number_exp(s / epsilon) for s in row] for row in scores.tolist()]  # N,K
    v = [1.0] * N
    for _ in range(iterations):
        u = [1 / (K * sum(kernel[n][k] * v[n] for n in range(N))) for k in range(K)]
        v = [1 / (N * sum(kernel[n][k] * u[k] for k in range(K))) for n in range(N)]
    return [[N * u[k] * kernel[n][k] * v[n] for k in range(K)] for n in range(N)]


def swav(first: Tensor, second: Tensor, T: float, epsilon: float, iterations: int) -> Tensor:
    """2006.09882, eq. 1 and 2: ℓ(z_t, q_s) + ℓ(z_s, q_t), here halved: the mean over the two directions."""
    N, loss = len(first), 0
    for of, by in ((first, second), (second, first)):
        for q, scores in zip(sinkhorn(of, epsilon, iterations), by, strict=True):
            loss = loss - sum(w * log(p) for w, p in zip(q, softmax(scores / T), strict=True))
    return loss / (2 * N)


def dino(student: Tensor, teacher: Tensor, centre: Tensor, T: float, teacher_T: float) -> Tensor:
    """2104.14294, eq. 3 and algorithm 1: H(P_t(x), P_s(x')) over all pairs of a teacher's view with another view."""
    N, loss, terms = len(student), 0, 0
    for t in range(teacher.shape[1]):
        for s in range(student.shape[1]):
            if s == t:
                continue
            terms += 1
            for n in range(N):
                P_t = softmax((teacher[n, t].detach() - centre) / teacher_T)
                P_s = softmax(student[n, s] / T)
                loss = loss - sum(p * log(q) for p, q in zip(P_t, P_s, strict=True)) / N
    return loss / terms


def nnclr(neighbours: Tensor, predictions: Tensor, T: float) -> Tensor:
    """2104.14548, algorithm 1: a neighbour's own image's prediction against those of the whole batch."""
    N = len(predictions)
    shares = [softmax(torch.stack([cosine(n, p) / T for p in predictions])) for n in neighbours]
    return -sum(log(shares[i][i]) for i in range(N)) / N


def dcl(first: Tensor, second: Tensor, T: float, sigma: float | None = None) -> Tensor:
    """2110.06848, eq. 6: for view k of image i −w·⟨z¹,z²⟩/T + log Σ_{l, j ≠ i} exp(⟨z_i^k, z_j^l⟩/T), mean of 2N terms.

    w = 2 − exp(⟨z¹,z²⟩/σ) / E_i exp(⟨z¹,z²⟩/σ): weights, and so held constant; the paper does not say.
    """
    N = len(first)
    views = [[unit(z) for z in view] for view in (first, second)]
    positive = [dot(a, b) for a, b in zip(*views, strict=True)]
    weights = [1.0] * N
    if sigma is not None:
        density = [exp(s.detach() / sigma) for s in positive]
        weights = [2 - d / (sum(density) / N) for d in density]
    loss = 0
    for view in views:
        for i in range(N):
            below = sum(exp(dot(view[i], other[j]) / T) for other in views for j in range(N) if j != i)
            loss = loss - weights[i] * positive[i] / T + log(below)
    return loss / (2 * N)


def supcon(z: Tensor, labels: Tensor, T: float) -> Tensor:
    """2004.11362, eq. 2: L_out, the mean over positives outside the logarithm; mean over anchors, as in the code."""
    rows = [unit(row) for views in z for row in views]
    classes = [int(label) for label in labels for _ in range(z.shape[1])]
    loss = 0
    for i, row in enumerate(rows):
        others = [a for a in range(len(rows)) if a != i]
        positives = [p for p in others if classes[p] == classes[i]]
        below = sum(exp(dot(row, rows[a]) / T) for a in others)
        loss = loss - sum(log(exp(dot(row, rows[p]) / T) / below) for p in positives) / len(positives)
    return loss / len(rows)


def all4one_features(student: Tensor, teacher: Tensor) -> Tensor:
    """2303.09417, with the authors' roots and halves: columns of one view's teacher against those of the other's student."""
    N, _, P = student.shape
    on, off = 0, 0
    for t, s in ((0, 1), (1, 0)):
        for i in range(P):
            for j in range(P):
                a, b = [teacher[n, t, i] for n in range(N)], [student[n, s, j] for n in range(N)]
                C = dot(a, b) / sqrt(dot(a, a) * dot(b, b))
                if i == j:
                    on = on + (1 - C) ** 2 / P
                else:
                    off = off + C**2 / (P * (P - 1))
    return (sqrt(on / 2) + sqrt(off / 2)) / 2


def sigreg(z: Tensor, directions: Tensor, knots: int) -> Tensor:
    """2511.08544, §4: N ∫_{−3}^{3} |φ_N(t) − e^{−t²/2}|² e^{−t²/2} dt, by trapezoids; a mean over directions and views.

    The interval and its knots (17 from 0 to 3) are those of the authors' minimal example.
    """
    N, V, _ = z.shape
    t = [3 * k / (knots - 1) for k in range(1 - knots, knots)]

    def error(x: list[Tensor], s: float) -> Tensor:
        normal = number_exp(-s * s / 2)
        real, imaginary = sum(torch.cos(s * a) for a in x) / N, sum(torch.sin(s * a) for a in x) / N
        return ((real - normal) ** 2 + imaginary**2) * normal

    loss = 0
    for v in range(V):
        for a in directions.T:
            errors = [error([dot(z[n, v], a) for n in range(N)], s) for s in t]
            loss = loss + N * sum((e + f) / 2 * 3 / (knots - 1) for e, f in pairwise(errors))
    return loss / (V * directions.shape[1])


def lejepa_prediction(z: Tensor, centre_views: int) -> Tensor:
    """2511.08544, §5: ‖µ_n − z_nv‖², µ the mean of an image's global views; a mean over views and images.

    A sum over dimensions, as the paper has it; the authors' code takes their mean.
    """
    N, V, P = z.shape
    loss = 0
    for n in range(N):
        for v in range(V):
            for d in range(P):
                mean = sum(z[n, g, d] for g in range(centre_views)) / centre_views
                loss = loss + (z[n, v, d] - mean) ** 2
    return loss / (N * V)


def log_sum_exp(queries: Tensor, keys: Tensor, T: float, skipped: Tensor) -> Tensor:
    """Mean over queries of log Σ_j exp(q·k_j/T), j not among the row's skipped keys."""
    rows = [
        log(sum(exp(dot(q, k) / T) for j, k in enumerate(keys) if j not in left_out))
        for q, left_out in zip(queries, skipped.tolist(), strict=True)
    ]
    return sum(rows) / len(rows)


def mae(predictions: Tensor, patches: Tensor) -> Tensor:
    """2111.06377, §3 and §4.1: squared error of each masked patch's pixels, the target less its mean and over its deviation.

    patches: raw pixels. The authors' code takes the variance without bias and adds 1e-6.
    """
    images = []
    for image, target in zip(predictions, patches, strict=True):
        errors = []
        for predicted, pixels in zip(image, target, strict=True):
            n = len(pixels)
            mean = sum(pixels) / n
            deviation = sqrt(sum((x - mean) ** 2 for x in pixels) / (n - 1) + 1e-6)
            errors.append(sum((p - (x - mean) / deviation) ** 2 for p, x in zip(predicted, pixels, strict=True)) / n)
        images.append(sum(errors) / len(errors))
    return sum(images) / len(images)


def simmim(predictions: Tensor, pixels: Tensor) -> Tensor:
    """2111.09886, eq. 1: |y − x| summed over masked pixels, over their number."""
    terms = [abs(p - x) for image, target in zip(predictions, pixels, strict=True)
             for patch, of in zip(image, target, strict=True) for p, x in zip(patch, of, strict=True)]
    return sum(terms) / len(terms)


def visreg(z: Tensor, directions: Tensor, quantile) -> Tensor:
    """2606.02572: scale (eq. 1), shape (eq. 2 to 5) and center (eq. 6), each a mean over views; their sum.

    quantile: of a standard Gaussian.  Deviations are divided by N, and 1e-4 is added where the shape is divided by them.
    """
    N, V, P = z.shape
    loss = 0
    for v in range(V):
        means = [sum(z[n, v, d] for n in range(N)) / N for d in range(P)]
        deviations = [sqrt(sum((z[n, v, d] - means[d]) ** 2 for n in range(N)) / N) for d in range(P)]
        loss = loss + sum((1 - s) ** 2 for s in deviations) / P + sum(m**2 for m in means) / P
        for a in directions.T:
            rows = [dot([(z[n, v, d] - means[d]) / (deviations[d].detach() + 1e-4) for d in range(P)], a) for n in range(N)]
            ordered = sorted(rows, key=lambda x: x.item())
            errors = [(x - quantile((i + 1) / (N + 1))) ** 2 for i, x in enumerate(ordered)]
            loss = loss + sum(errors) / N / directions.shape[1]
    return loss / V


def ijepa(predictions: Tensor, tokens: Tensor) -> Tensor:
    """2301.08243, §3, with the authors' code's distance: smooth L1 to tokens that are normalized without weights (1e-5)."""
    N, T, M, D = predictions.shape
    loss = 0
    for n in range(N):
        for t in range(T):
            for m in range(M):
                row = tokens[n, t, m].detach()
                mean = sum(row) / D
                deviation = sqrt(sum((x - mean) ** 2 for x in row) / D + 1e-5)
                for p, x in zip(predictions[n, t, m], row, strict=True):
                    e = abs(p - (x - mean) / deviation)
                    loss = loss + (e * e / 2 if e < 1 else e - 0.5)
    return loss / (N * T * M * D)


def ibot_patches(student: Tensor, teacher: Tensor, masked: Tensor, center: Tensor, T: float, teacher_T: float) -> Tensor:
    """2111.07832, eq. 2 and the authors' code: H(P_t(u), P_s(û)) of a crop's masked patches, their mean; mean over crops."""
    N, G, M, _ = student.shape
    loss = 0
    for n in range(N):
        for g in range(G):
            terms = []
            for m in range(M):
                if masked[n, g, m]:
                    P_t, P_s = softmax((teacher[n, g, m].detach() - center) / teacher_T), softmax(student[n, g, m] / T)
                    terms.append(-sum(p * log(q) for p, q in zip(P_t, P_s, strict=True)))
            loss = loss + (sum(terms) / len(terms) if terms else 0)
    return loss / (N * G)


def balanced(scores: Tensor, T: float, counted: list[bool], iterations: int) -> list[list[float]]:
    """2304.07193, §4, Sinkhorn-Knopp as matrices: exp(s/T), prototypes of equal sums over the counted rows, rows of sum 1."""
    Q = [[number_exp(s / T) for s in row] for row in scores.tolist()]
    for _ in range(iterations):
        sums = [sum(q[k] for q, one in zip(Q, counted, strict=True) if one) for k in range(len(Q[0]))]
        Q = [[x / total for x, total in zip(q, sums, strict=True)] for q in Q]
        Q = [[x / sum(q) for x in q] for q in Q]
    return Q


def dinov2_classes(student: Tensor, teacher: Tensor, prototypes: tuple[Tensor, Tensor], T: float, teacher_T: float) -> Tensor:
    """2304.07193, §4: DINO's loss with balanced targets, both global crops of all images in one balance."""
    N, V, _ = student.shape
    ours, theirs = prototypes
    rows = [teacher[n, g] for n in range(N) for g in range(2)]
    scores = torch.stack([torch.stack([dot(row.detach(), c) for c in theirs]) for row in rows])
    Q = balanced(scores, teacher_T, [True] * len(rows), 3)
    loss, terms = 0, 0
    for n in range(N):
        for t in range(2):
            for v in range(V):
                if v != t:
                    terms += 1
                    P = softmax(torch.stack([dot(student[n, v], c) / T for c in ours]))
                    loss = loss - sum(q * log(p) for q, p in zip(Q[2 * n + t], P, strict=True))
    return loss / terms


def dinov2_patches(
    student: Tensor, teacher: Tensor, masked: Tensor, prototypes: tuple[Tensor, Tensor], T: float, teacher_T: float
) -> Tensor:
    """2304.07193, §4, and the authors' code: all masked patches of the batch in one balance; a mean a crop, and of crops."""
    ours, theirs = prototypes
    places = [place for place in torch.cartesian_prod(*map(torch.arange, masked.shape)).tolist() if masked[*place]]
    scores = torch.stack([torch.stack([dot(teacher[*place].detach(), c) for c in theirs]) for place in places])
    loss = 0
    for (n, g, m), q in zip(places, balanced(scores, teacher_T, [True] * len(places), 3), strict=True):
        P = softmax(torch.stack([dot(student[n, g, m], c) / T for c in ours]))
        loss = loss - sum(x * log(p) for x, p in zip(q, P, strict=True)) / int(masked[n, g].sum())
    return loss / (masked.shape[0] * masked.shape[1])


def koleo(z: Tensor) -> Tensor:
    """1806.03198, with DINOv2's 1e-8: the logarithm of the distance to the nearest other, less, on the sphere."""
    rows = [unit(row) for row in z]
    nearest = [min(sqrt(dot(a - b, a - b)) for j, b in enumerate(rows) if j != i) for i, a in enumerate(rows)]
    return -sum(log(d + 1e-8) for d in nearest) / len(rows)


def coding_rate(z: Tensor, eps: float) -> Tensor:
    """2502.10385: (P + n)/(P n) times half the log-determinant of I + P/(n ε) ZᵀZ, here by Gaussian elimination."""
    n, P = z.shape
    rows = [[sum(z[i, a] * z[i, b] for i in range(n)) * P / (n * eps) + (a == b) for b in range(P)] for a in range(P)]
    total = 0
    for a in range(P):
        total = total + log(rows[a][a])
        for b in range(a + 1, P):
            factor = rows[b][a] / rows[a][a]
            rows[b] = [x - factor * y for x, y in zip(rows[b], rows[a], strict=True)]
    return (P + n) / (P * n) * total / 2


def simdinov2_alignment(student: Tensor, teacher: Tensor) -> Tensor:
    """2502.10385: the mean product of a teacher's crop with every other crop."""
    N, V, _ = student.shape
    found = [dot(student[n, v], teacher[n, t]) for n in range(N) for t in range(2) for v in range(V) if v != t]
    return sum(found) / len(found)


def gram(student: Tensor, teacher: Tensor) -> Tensor:
    """2508.10104 and the authors' code: squared differences of all cosines between an image's patches; their mean."""
    found = []
    for ours, theirs in zip(student.flatten(0, 1), teacher.detach().flatten(0, 1), strict=True):
        found += [(cosine(a, b) - cosine(c, d)) ** 2 for a, c in zip(ours, theirs, strict=True)
                  for b, d in zip(ours, theirs, strict=True)]
    return sum(found) / len(found)
