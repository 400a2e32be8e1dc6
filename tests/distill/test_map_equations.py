"""Losses on feature maps equal their papers' equations, written as loops in float64; maps before a ReLU are what it takes."""
import math
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.method import Student, Targets, maps_of
from distill.method.fsp import FSP
from distill.method.ickd import ICKD
from distill.method.nst import discrepancy
from distill.method.ofd import OFD
from distill.method.reviewkd import ReviewKD, hierarchical
from distill.method.srd import SRD, power
from distill.method.vid import Gaussian
from distill.pre_activation import PreActivation
from vision import encoders

B, E = 3, 5
CLOSE = dict(rtol=1e-9, atol=1e-11)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 2


def same(found: Tensor, expected) -> None:
    torch.testing.assert_close(found, torch.tensor(float(expected), dtype=torch.float64), **CLOSE)


def places(x: Tensor) -> list[tuple[int, int]]:
    return [(i, j) for i in range(x.shape[-2]) for j in range(x.shape[-1])]


def networks(shapes: list[tuple[int, int, int]]) -> dict:
    teacher = SimpleNamespace(name="t", dim=E, classes=("a", "b", "c"), map_shapes=lambda count: shapes[-count:])
    return {"encoder": encoders.create("test_resnet", 1, 16), "teacher": teacher, "classes": 3}


def test_vid():
    student, teacher = normal(B, 4, 2, 2, seed=1), normal(B, E, 2, 2, seed=2)
    gaussian = Gaussian(4, E).double()
    with torch.no_grad():
        assert F.softplus(gaussian.scale).tolist() == pytest.approx([5.0 - 1e-5] * E, rel=1e-6)
        gaussian.scale.copy_(normal(E, seed=3))
    means = student
    for layer in gaussian.mean:
        means = torch.einsum("oc,bchw->bohw", layer.weight[:, :, 0, 0], means) if isinstance(layer, nn.Conv2d) else means.relu()
    value = 0.0
    for c in range(E):
        variance = math.log(1 + math.exp(gaussian.scale[c].item())) + 1e-5
        for b in range(B):
            for i, j in places(teacher):
                value += 0.5 * ((means[b, c, i, j].item() - float(teacher[b, c, i, j])) ** 2 / variance + math.log(variance))
    same(gaussian(student, teacher), value / (B * E * 4))


@pytest.mark.parametrize(("ours", "theirs", "side"), [(4, 3, 2), (2, 3, 3)])
def test_nst(ours, theirs, side):
    """Both ways of computing it: more channels than positions, and fewer."""
    student, teacher = normal(B, ours, side, side, seed=1), normal(B, theirs, 2 * side, 2 * side, seed=2)
    value = 0.0
    for b in range(B):
        windows = [teacher[b, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2] for i in range(side) for j in range(side)]
        small = torch.stack([window.mean((1, 2)) for window in windows], 1).unflatten(1, (side, side))
        s, t = ([F.normalize(row, dim=0) for row in x.flatten(1)] for x in (student[b], small))
        means = [sum(float(x @ y) ** 2 for x in m for y in n) / len(m) / len(n) for m, n in ((s, s), (t, t), (s, t))]
        value += (means[0] + means[1] - 2 * means[2]) / B
    same(discrepancy(student, teacher), value)


def test_ickd():
    method = ICKD(**networks([(E, 2, 2)]), ce=0.0, weight=2.5).double()
    ours = method.shapes[-1][0]
    student, teacher = normal(B, *ours, seed=1), normal(B, E, 3, 3, seed=2)
    with torch.no_grad():
        connected = torch.einsum("ec,bchw->behw", method.connector[0].weight[:, :, 0, 0], student)
        mean, variance = connected.mean((0, 2, 3), keepdim=True), connected.var((0, 2, 3), correction=0, keepdim=True)
        connected = (connected - mean) / (variance + 1e-5).sqrt()
    value = 0.0
    for b in range(B):
        rows = []
        for x in (connected[b].flatten(1), teacher[b].flatten(1)):
            gram = [[float(p @ q) for q in x] for p in x]
            rows.append([[v / math.sqrt(sum(w * w for w in row)) for v in row] for row in gram])
        value += sum((rows[0][c][d] - rows[1][c][d]) ** 2 for c in range(E) for d in range(E)) / (E * B)
    same(method.distill(Student(student, maps=(student,)), Targets(maps=(teacher,)), 0.0).loss, value)


def test_fsp():
    shapes = [(4, 8, 8), (E, 4, 4), (6, 2, 2)]
    method = FSP(**networks(shapes), ce=0.0, weight=50.0).double()
    student = [normal(B, *ours, seed=i) for i, (ours, _) in enumerate(method.shapes)]
    teacher = [normal(B, *shape, seed=9 + i) for i, shape in enumerate(shapes)]
    with torch.no_grad():
        connected = [x if isinstance(c, nn.Identity) else torch.einsum("ec,bchw->behw", c.weight[:, :, 0, 0], x)
                     for c, x in zip(method.connectors, student, strict=True)]
    value = 0.0
    for ours, theirs in zip(pairwise(connected), pairwise(teacher), strict=True):
        flows = []
        for first, second in (ours, theirs):
            ratio = first.shape[2] // second.shape[2]
            flow = torch.zeros(B, first.shape[1], second.shape[1], dtype=torch.float64)
            for i, j in places(second):
                part = first[:, :, ratio * i : ratio * (i + 1), ratio * j : ratio * (j + 1)].mean((2, 3))
                flow += part[:, :, None] * second[:, None, :, i, j] / len(places(second))
            flows.append(flow)
        value += float(sum(v * v for v in (flows[0] - flows[1]).flatten().tolist())) / flows[0].numel()
    found = method.distill(Student(student[0], maps=tuple(student)), Targets(maps=tuple(teacher)), 0.0)
    same(found.loss, value)


@pytest.mark.parametrize("loss", ["distance", "correlation"])
def test_srd(loss):
    student, teacher = normal(B, E, seed=1), normal(B, E, seed=2)
    if loss == "distance":
        value = sum((a - b) ** 4 for a, b in zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True))
    else:
        value = sum((sum(float(student[b, d] * teacher[b, d]) for b in range(B)) / B - 1) ** 4 for d in range(E))
    same(power(student, teacher, loss), math.log(value))


def test_srd_has_kd_beside_it_and_normalizes_both():
    parts = networks([]) | {"encoder": nn.Identity()}
    parts["encoder"].dim = 4
    method = SRD(**parts, ce=0.5, weight=2.0, loss="distance", kd=1.0, kd_temperature=2.0).double()
    features, theirs, logits = normal(B, 1, 4, seed=1), normal(B, 1, E, seed=2), normal(B, 1, 3, seed=3)
    labels = torch.tensor([0, 2, 1])
    output = method.objective(features, Targets(theirs, logits, labels=labels), 0.0)
    ours = method.head(features[:, 0])
    norms = [F.batch_norm(x, None, None, training=True, eps=1e-4) for x in (method.projector(features[:, 0]), theirs[:, 0])]
    p = (logits[:, 0] / 2).softmax(1)
    expected = 0.5 * F.cross_entropy(ours, labels) + 2 * (norms[0] - norms[1]).pow(4).sum().log()
    torch.testing.assert_close(output.loss, expected + 4 * (p * (p.log() - (ours / 2).log_softmax(1))).sum(1).mean(), **CLOSE)


def test_ofd_over_two_steps():
    """The margin of a channel: the mean of the teacher's negative responses that came before, 0 at first."""
    shapes = [(4, 4, 4), (E, 2, 2), (6, 1, 1)]
    method = OFD(**networks(shapes), ce=0.0, weight=1.0).double()
    seen: list[list[list[float]]] = [[[] for _ in range(c)] for c, _, _ in shapes]
    for step in (0, 1):
        teacher = [normal(B, *shape, seed=9 * step + i) for i, shape in enumerate(shapes)]
        widths = [ours[0] for ours, _ in method.shapes]
        student = [normal(B, width, *shape[1:], seed=20 + step) for width, shape in zip(widths, shapes, strict=True)]
        output = method.distill(Student(student[0], maps=tuple(student)), Targets(maps=tuple(teacher)), 0.0)
        value = 0.0
        for i, (s, t) in enumerate(zip(student, teacher, strict=True)):
            with torch.no_grad():
                x = torch.einsum("ec,bchw->behw", method.connectors[i][0].weight[:, :, 0, 0], s)
                x = (x - x.mean((0, 2, 3), keepdim=True)) / (x.var((0, 2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
            for c in range(t.shape[1]):
                margin = sum(seen[i][c]) / len(seen[i][c]) if seen[i][c] else 0.0
                for b in range(B):
                    for j, k in places(t):
                        target, found = max(float(t[b, c, j, k]), margin), float(x[b, c, j, k])
                        if not (found <= target <= 0):
                            value += (found - target) ** 2 / B / 2 ** (2 - i)
        same(output.loss, value)
        method.after_step(output.staged, 0.0)
        for i, t in enumerate(teacher):
            for c in range(t.shape[1]):
                seen[i][c] += [v for v in t[:, c].flatten().tolist() if v < 0]


@pytest.mark.parametrize("side", [1, 2, 3, 8])
def test_reviews_hierarchical_loss(side):
    student, teacher = normal(B, E, side, side, seed=1), normal(B, E, side, side, seed=2)
    weights, losses = [1.0], [float((student - teacher).square().sum()) / student.numel()]
    for level in (4, 2, 1):
        if level < side:
            cuts = [slice(i * side // level, -(-(i + 1) * side // level)) for i in range(level)]  # torch's windows
            a, b = (torch.stack([x[:, :, rows, columns].mean((2, 3)) for rows in cuts for columns in cuts])
                    for x in (student, teacher))
            weights.append(weights[-1] / 2)
            losses.append(float((a - b).square().sum()) / a.numel())
    same(hierarchical(student, teacher), sum(w * x for w, x in zip(weights, losses, strict=True)) / sum(weights))


def test_review_from_the_deepest_on():
    """Attention-based fusion with BatchNorm at its running statistics, one level after the other."""
    shapes = [(4, 8, 8), (5, 4, 4), (6, 2, 2)]
    method = ReviewKD(**networks(shapes), ce=0.0, weight=1.0, warmup=0.5).double().eval()
    maps = [normal(B, *ours, seed=i) for i, (ours, _) in enumerate(method.shapes)]
    features, theirs = normal(B, method.encoder.dim, seed=5), normal(B, E, seed=6)
    teacher = [*(normal(B, *shape, seed=9 + i) for i, shape in enumerate(shapes)), theirs[:, :, None, None]]
    value, deeper = 0.0, None
    for level, x in reversed(list(enumerate([*maps, features[:, :, None, None]]))):
        fusion, size = method.fusions[level], (shapes[level][1:] if level < 3 else (1, 1))
        x = F.conv2d(x, fusion.enter[0].weight) / math.sqrt(1 + 1e-5)
        if deeper is not None:
            ratio = x.shape[2] // deeper.shape[2]
            deeper = deeper.repeat_interleave(ratio, 2).repeat_interleave(ratio, 3)
            z = F.conv2d(torch.cat([x, deeper], 1), fusion.attention.weight, fusion.attention.bias).sigmoid()
            x = x * z[:, :1] + deeper * z[:, 1:]
        if x.shape[2] < size[0]:
            x = x.repeat_interleave(size[0] // x.shape[2], 2).repeat_interleave(size[0] // x.shape[2], 3)
        elif x.shape[2] > size[0]:
            x = x[:, :, :: x.shape[2] // size[0], :: x.shape[2] // size[0]]
        deeper = x
        value += float(hierarchical(F.conv2d(x, fusion.leave[0].weight, padding=1) / math.sqrt(1 + 1e-5), teacher[level]))
    targets = Targets(theirs, maps=tuple(teacher[:3]))
    for progress, share in ((0.1, 0.2), (0.7, 1.0)):
        same(method.distill(Student(features, maps=tuple(maps)), targets, progress).loss, share * value)


@pytest.mark.parametrize("name", ["cifar_resnet20", "resnet18", "cifar_vgg8", "test_convnext"])
def test_maps_before_their_relu(name):
    """What a ReLU makes of them is the map, in place or not, by module or by function; without one they are the map."""
    encoder = encoders.create(name, 3, 32).eval()
    for norm in (m for m in encoder.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.ones_(norm.weight)  # timm's begin with 0 at the end of a block
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    read = PreActivation(encoder, 3)
    with torch.no_grad():
        before, features = read(images)
        after, expected = maps_of(encoder, images, 3)
    assert torch.equal(features, expected)
    for a, b in zip(before, after, strict=True):
        assert torch.equal(a if name == "test_convnext" else a.relu(), b)
        assert name == "test_convnext" or (a < 0).any()


def test_gradients_pass_maps_before_their_relu():
    encoder = encoders.create("cifar_resnet20", 3, 16).train()
    maps, _ = PreActivation(encoder, 3)(torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    maps[-1].square().mean().backward()
    assert next(encoder.parameters()).grad.abs().sum() > 0
