"""`tokens` and `queue_tokens` equal their definitions in loops, in float64; heads, sizes, dropping, pieces and chunks."""
import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from test_distillation_methods import CLASSES, batch, teacher_made
from torch import Tensor, nn
from torch.nn import functional as F

from core import cli, counter_rng, gradcache, loop
from core.method import Batch
from core.training import build_method
from distill.method.tokens import kept_teachers
from distill.student_levels import levels_of
from distill.teacher import Teacher
from distill.train import TOOL
from distill.with_tokens import TEACHERS
from vision import encoders

CLOSE = dict(rtol=1e-9, atol=1e-11)
DOUBLE = torch.float64
plain = partial(torch.autocast, "cpu", enabled=False)


def several(sizes: tuple[int, ...] = (), name: str = "test_resnet", count: int = 2) -> Teacher:
    """Teachers of two widths and grids."""
    members = [teacher_made(DOUBLE).members[0], teacher_made(DOUBLE, name="test_byobnet", size=64).members[0]][:count]
    if name != "test_resnet":
        encoder = encoders.create(name, 1, 32, several_sizes=bool(sizes)).double()
        members = [type(members[0])("a transformer", encoder, None, None, torch.zeros(1), torch.ones(1))]
    teacher = Teacher(members, torch.zeros(1), torch.ones(1))
    teacher.sizes = sizes
    return teacher


def made(name: str, *more: str, teacher: Teacher | None = None, student: str = "test_resnet", fitted: bool = True):
    words = cli.compose(TOOL, ["teacher=t", "data=synthetic", f"method={name}", *more])
    torch.manual_seed(3)
    teacher = teacher or several()
    encoder = encoders.create(student, 1, 64 if student == "test_vit" else 16, several_sizes=len(teacher.sizes) > 1).train()
    method = build_method(words, encoder, teacher=teacher, classes=len(CLASSES)).to(dtype=DOUBLE)
    if fitted:
        method.tokens.fit([images(method, step) for step in range(3)])
    return method


def images(method, step: int = 0) -> Batch:
    """A batch of the student's size."""
    made_small = batch(method, step, DOUBLE)
    size = method.encoder.spec.image_size
    return replace(made_small, views=[F.interpolate(view, size, mode="bilinear") for view in made_small.views], step=step)


def resized(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Bilinear, pixel centers at half, edges repeated: one number after the other.  C,h,w → C,H,W"""
    (C, h, w), (H, W) = x.shape, grid
    found = torch.zeros(C, H, W, dtype=x.dtype)
    for i in range(H):
        for j in range(W):
            y, z = max((i + 0.5) * h / H - 0.5, 0), max((j + 0.5) * w / W - 0.5, 0)
            a, b = min(int(y), h - 1), min(int(z), w - 1)
            c, d = min(a + 1, h - 1), min(b + 1, w - 1)
            top = x[:, a, b] * (1 - (z - b)) + x[:, a, d] * (z - b)
            bottom = x[:, c, b] * (1 - (z - b)) + x[:, c, d] * (z - b)
            found[:, i, j] = top * (1 - (y - a)) + bottom * (y - a)
    return found


def cosine(a: list[float], b: list[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


@pytest.mark.parametrize(("patch_loss", "drop"), [("mse", 0.5), ("smooth_l1", 1.0), ("mse", 0.0)])
def test_tokens(patch_loss, drop):
    """A linear head by itself, its map enlarged to the teacher's grid; cosine of centered features; the worst teacher kept."""
    method = made("tokens", f"method.patch_loss={patch_loss}", f"method.teacher_drop={drop}", "method.components=8",
                  "method.feature_weight=0.7", "method.patch_weight=1.5")
    some = images(method, 5)
    found = method(some, 0.0).loss.detach()
    with torch.no_grad():
        levels = method.encoder.forward_features(some.views[0])
        pooled = method.encoder.forward_head(levels)
        outputs = []
        for member in method.teacher.members:
            seen = method.teacher.seen(some.views[0], member)
            patches = member.encoder.forward_features(seen).float().double()  # the teacher's outputs are kept in less
            outputs.append((patches, member.encoder(seen).float().half().double()))
    value, B = 0.0, len(some.indices)
    draws = counter_rng.uniform(some.seed, some.epoch, some.indices, TEACHERS, 2)
    for i in range(B):
        losses = []
        for t, basis in enumerate(method.tokens.bases):
            head, (theirs, features) = method.heads[t], (x[i] for x in outputs[t])
            grid = tuple(theirs.shape[1:])
            assert grid > tuple(levels.shape[2:]) or t == 0
            angle = 1 - cosine(head.features[0](pooled[i]).tolist(), (features - basis.features_mean).tolist())
            weight, bias = head.maps[0][0].weight.detach(), head.maps[0][0].bias.detach()
            map_ = resized(torch.einsum("kc,chw->khw", weight, levels[i]) + bias[:, None, None], grid)
            kept = ((theirs.permute(1, 2, 0) - basis.mean) @ basis.components).half().double()
            target = torch.einsum("hwk,jk->jhw", kept, basis.rotation) / basis.scale
            error = 0.0
            for a, b in zip(map_.flatten().tolist(), target.flatten().tolist(), strict=True):
                small = patch_loss == "smooth_l1" and abs(a - b) >= 1
                error += abs(a - b) - 0.5 if small else (a - b) ** 2 * (0.5 if patch_loss == "smooth_l1" else 1)
            losses.append(0.7 * angle + 1.5 * error / target.numel())
        worst = losses.index(max(losses))
        kept_ones = [x for t, x in enumerate(losses) if t == worst or float(draws[i, t]) >= drop]
        value += sum(kept_ones) / len(kept_ones) / B
    assert float(found) == pytest.approx(float(value), rel=1e-9)


def test_queue_tokens_over_two_steps():
    """KL over the image's own teacher vector and the queue; KL of the similarities among an image's patches."""
    method = made("queue_tokens", "method.temperature=0.3", "method.patch_temperature=0.4", "method.patch_weight=0.6",
                  "method.queue_size=48", "method.components=8", teacher=several(count=1))
    for step in (7, 8):
        some, queue = images(method, step), method.queues[0].rows.clone()
        ours = method.embed(some)
        targets = method.targets(some)
        pooled, patches, B = 0.0, 0.0, len(some.indices)
        for i in range(B):
            s, t = (F.normalize(x[i], dim=0) for x in (ours[0], targets.features[0]))
            classes = torch.cat([t[None], queue])
            pooled += divergence(classes @ t / 0.3, classes @ s / 0.3) / B
            a, b = (F.normalize(x[i].flatten(1), dim=0) for x in (ours[1], targets.maps[0]))
            for n in range(a.shape[1]):
                patches += divergence(b[:, n] @ b / 0.4, a[:, n] @ a / 0.4) / B / a.shape[1]
        output = method(some, 0.0)
        torch.testing.assert_close(output.loss, torch.tensor(pooled + 0.6 * patches, dtype=DOUBLE), **CLOSE)
        assert torch.equal(method.queues[0].rows, queue), "the queue moves after the step alone"
        method.after_step(output.staged, 0.0)
        newest = F.normalize(targets.features[0], dim=1)
        assert all(any(torch.allclose(row, new) for row in method.queues[0].rows) for new in newest)
        torch.testing.assert_close(targets.maps[0].permute(0, 2, 3, 1).flatten(1, 2), restored(method, some), **CLOSE)


def divergence(teacher: Tensor, student: Tensor) -> float:
    p, q = teacher.softmax(0).tolist(), student.softmax(0).tolist()
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def restored(method, some: Batch) -> Tensor:
    basis, member = method.tokens.bases[0], method.teacher.members[0]
    with torch.no_grad():
        patches = member.encoder.forward_features(some.views[0]).flatten(2).mT.float().double()
    return ((patches - basis.mean) @ basis.components).half().double() @ basis.components.T + basis.mean


def test_the_worst_teacher_stays_and_others_by_the_draw():
    losses, draws = torch.tensor([[1.0, 3.0, 2.0]] * 3), torch.tensor([[0.9, 0.0, 0.1], [0.1, 0.1, 0.5], [0.0, 0.0, 0.0]])
    assert kept_teachers(losses, draws, 0.5).tolist() == [[1, 1, 0], [0, 1, 1], [0, 1, 0]]
    assert kept_teachers(losses, draws, 0.0).tolist() == [[1, 1, 1]] * 3


@pytest.mark.parametrize("name", ["tokens", "queue_tokens"])
def test_pieces_and_chunks_are_the_whole_batch(name):
    def gradient(pieces: int = 1, chunk: int = 0) -> Tensor:
        method = made(name, student="test_vit")
        some = images(method, 1)
        if chunk:
            gradcache.backward(method, some, chunk, 0.4, plain)
        for _, piece in loop.pieces(some, pieces) if not chunk else ():
            (method(piece, 0.4).loss / pieces).backward()
        return torch.cat([p.grad.flatten() for p in method.parameters() if p.requires_grad and p.grad is not None])

    whole = gradient()
    for found in (gradient(pieces=4), gradient(chunk=4)):
        assert (found - whole).norm() / whole.norm() < 1e-10


@pytest.mark.parametrize("student", ["test_resnet", "test_vit", "test_efficientnet", "test_convnext"])
@pytest.mark.parametrize("heads", ["linear", "ladder"])
def test_students_of_every_kind_learn_by_both_heads(student, heads):
    method = made("tokens", f"method.heads={heads}", "method.hidden=8", student=student)
    head = method.heads[0]
    assert (len(head.maps) == 1) == (heads == "linear")
    output = method(images(method, 1), 0.0)
    output.loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.heads.parameters())
    assert next(method.encoder.parameters()).grad.abs().sum() > 0
    with torch.no_grad():  # the last level is what the encoder gives by itself
        views = images(method, 1).views[0]
        method.encoder.eval()
        torch.testing.assert_close(levels_of(method.encoder, views, heads)[-1].features, method.encoder(views), **CLOSE)


@pytest.mark.parametrize("student", ["test_resnet", "test_vit"])
def test_teacher_and_student_change_size_together(student):
    teacher = several((16, 32), name="test_vit")
    method = made("tokens", teacher=teacher, student=student)
    assert method.tokens.sizes == [[16, 32]]
    own = method.encoder.spec.image_size
    assert method.sizes == [own // 2, own]
    seen, grids = [], []
    whole = method.encoder.forward_features
    method.encoder.forward_features = lambda x: seen.append(x.shape[2]) or whole(x)
    for step in (0, 1, 2):
        some = images(method, step)
        output = method(some, 0.0)
        output.loss.backward()
        grids.append(tuple(method.targets(some).maps[0].shape[2:]))
    assert seen == [own // 2, own, own // 2]
    assert grids[0] == grids[2] == method.tokens.grids[0][0]
    assert grids[1] == method.tokens.grids[0][1] > grids[0]


@pytest.mark.parametrize(("words", "match"), [
    (["method.heads=both"], r"method\.heads=both: there are linear, ladder"),
    (["method.hidden=0"], r"method\.hidden=0: must be more than 0"),
    (["method.patch_loss=l1"], r"method\.patch_loss=l1: there are mse, smooth_l1"),
    (["method.components=-1"], r"method\.components=-1: must be more than 0"),
    (["method.teacher_drop=1.5"], r"method\.teacher_drop=1\.5: must be from 0 to 1"),
])
def test_mistakes_are_one_line(words, match):
    with pytest.raises(ValueError, match=match):
        made("tokens", *words)


def test_the_queue_is_as_long_as_the_data_allow():
    method = made("queue_tokens", teacher=several(count=1), fitted=False)
    assert method.prepare(1_000, 16) == ["method.queue_size=0: 256 teacher vectors, for 1000 images"]
    assert len(method.queues[0]) == 256
    method = made("queue_tokens", teacher=several(count=1), fitted=False)
    method.prepare(50_000, 16)
    assert len(method.queues[0]) == 8_192


def test_a_teacher_without_patches_is_named():
    teacher = several(count=1)
    teacher.members[0].encoder.forward_features = lambda x: nn.Flatten()(x)
    with pytest.raises(ValueError, match="teacher=a teacher gives no patches of images of 16 px"):
        made("tokens", teacher=teacher)
