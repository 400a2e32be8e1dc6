"""Every method of distill/method/, found by listing the folder: the teacher does not move, processes are one, it learns."""
from pathlib import Path

import pytest
import torch
from processes import on
from torch import Tensor, nn

from core import cli, optim
from core.batchnorm import sync_batchnorm
from core.method import Batch
from core.processes import local_rows, world_size, wrap
from core.settings import OptimSettings
from core.training import build_method
from distill.teacher import Member, Teacher
from distill.train import TOOL
from vision import encoders

NAMES = sorted(path.stem for path in (Path(__file__).resolve().parents[2] / "distill" / "method").glob("*.yaml"))
B, IMAGES, CLASSES, SIZE = 16, 100, ("a", "b", "c", "d"), 16
SMALLER = {"hidden": 24, "queue_size": 48, "prototypes": 20, "negatives": 40, "dim": 12}


def teacher_made(dtype=torch.float32, classes=CLASSES, name="test_resnet", channels=1, size=SIZE) -> Teacher:
    torch.manual_seed(11)
    encoder = encoders.create(name, channels, size)
    for module in encoder.modules():  # statistics of its own, as a trained one has
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    head = nn.Linear(encoder.dim, len(classes)) if classes else None
    normalisation = torch.zeros(channels), torch.ones(channels)
    member = Member("a teacher", encoder.to(dtype), head and head.to(dtype), classes, *normalisation)
    return Teacher([member], torch.zeros(1), torch.ones(1))


def made(name: str, *more: str, dtype=torch.float32, smooth: bool = False, prepared: bool = True, teacher=None):
    text = (TOOL.primary.parent / "method" / f"{name}.yaml").read_text()
    words = [f"method.{word}={value}" for word, value in SMALLER.items() if f"\n  {word}:" in text]
    words = cli.compose(TOOL, ["teacher=t", f"method={name}", "data=synthetic", *words, *more])
    teacher = teacher or teacher_made(dtype)
    torch.manual_seed(3)
    method = build_method(words, encoders.create("test_resnet", 1, SIZE).train(), teacher=teacher, classes=len(CLASSES))
    for module in list(method.modules()) if smooth else ():
        for child in [n for n, m in module.named_children() if isinstance(m, nn.ReLU)]:
            setattr(module, child, nn.SiLU())
    if prepared:
        method.prepare(IMAGES, B)
    if world_size() > 1:
        sync_batchnorm(method)
    return method.to(dtype=dtype, memory_format=torch.channels_last)


def batch(method, step: int = 0, dtype=torch.float32) -> Batch:
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(B, 1, SIZE, SIZE, generator=generator)
    views = [images + 0.5 * torch.randn(images.shape, generator=generator) for _ in range(method.traits.views)]
    indices = torch.randperm(IMAGES, generator=generator)[:B]
    labels = torch.randint(len(CLASSES), (B,), generator=generator)
    return Batch([local_rows(view.to(dtype)) for view in views], local_rows(indices), local_rows(labels), epoch=step)


def steps(name: str, dtype, count: int) -> dict[str, Tensor]:
    """Gradients of the first and the last of some steps of plain SGD, and all that the method then holds."""
    method = made(name, dtype=dtype, smooth=True)
    model, found = wrap(method), {}
    trained = [p for p in method.parameters() if p.requires_grad]
    for step in range(count):
        output = model(batch(method, step, dtype), step / count)
        output.loss.backward()
        found[f"gradient of step {step}"] = torch.cat([p.grad.flatten() for p in trained])
        with torch.no_grad():
            for p in trained:
                p -= 0.01 * p.grad / p.grad.norm().clamp(min=1)
                p.grad = None
        method.after_step(output.staged, step / count)
    return found | {f"state: {key}": value.clone() for key, value in method.state_dict().items()}


def everything(names: list[str], count: int) -> list[dict[str, Tensor]]:
    return [steps(name, torch.float64, count) for name in names]


@pytest.mark.parametrize(("names", "count"), [(NAMES[::3], 2), pytest.param(NAMES, 3, marks=pytest.mark.long)])
@pytest.mark.slow
def test_two_processes_are_one(names, count):
    """float64, after so many steps: 1e-9 is roundings alone, far below what a missing or doubled term changes."""
    several = on(2, everything, names, count)
    for i, name in enumerate(names):
        for key, expected in steps(name, torch.float64, count).items():
            for rank, found in enumerate(several):
                error = (found[i][key].double() - expected.double()).norm() / expected.double().norm().clamp(min=1e-3)
                assert error < 1e-9, f"{name}, process {rank}: {key} is off by {error:.1e}"


@pytest.mark.parametrize("name", NAMES)
def test_the_teacher_does_not_move_and_the_student_learns(name):
    method = made(name)
    told = method.teacher.members[0]
    before = {k: v.clone() for k, v in (told.encoder.state_dict() | told.head.state_dict()).items()}
    assert not any("teacher." in key for key in method.state_dict())  # no part of a checkpoint
    optimizer, losses = optim.build(method, OptimSettings(name="adamw", weight_decay=0.0), 2e-3), []
    fixed = batch(method)
    for step in range(30):
        method.train()
        loss = method(fixed, 0.5).loss
        loss.backward()
        assert all(p.grad is None for m in (told.encoder, told.head) for p in m.parameters())
        if step == 0:
            assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in list(method.encoder.parameters())[:3])
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] * 0.97, losses[::10]
    assert not told.encoder.training
    after = told.encoder.state_dict() | told.head.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


@pytest.mark.parametrize("name", NAMES)
def test_a_step_after_a_teacher_of_another_width_size_and_channels(name):
    teacher = teacher_made(name="test_byobnet", channels=3, size=24)
    method = made(name, teacher=teacher)
    assert method.encoder.dim != teacher.dim
    output = method(batch(method), 0.5)
    assert output.loss.isfinite()
    output.loss.backward()
    assert all(p.grad.isfinite().all() for p in method.encoder.parameters())
    assert sum(p.grad.abs().sum() for p in method.encoder.parameters()) > 0
    method.after_step(output.staged, 0.5)


@pytest.mark.parametrize("name", NAMES)
def test_forward_changes_nothing_that_is_remembered(name):
    method = made(name)
    before = {k: v.clone() for k, v in method.state_dict().items() if "running" not in k and "num_batches" not in k}
    method(batch(method), 0.5)
    assert all(torch.equal(value, method.state_dict()[key]) for key, value in before.items())


@pytest.mark.parametrize("name", NAMES)
def test_from_a_saved_state_it_goes_on_to_the_same_bits(name):
    def run(method, start: int, stop: int) -> None:
        for step in range(start, stop):
            torch.manual_seed(step)
            output = method(batch(method, step), step / 4)
            output.loss.backward()
            with torch.no_grad():
                for p in method.parameters():
                    if p.grad is not None:
                        p -= 0.01 * p.grad / p.grad.norm().clamp(min=1)
                        p.grad = None
            method.after_step(output.staged, step / 4)

    whole, first, second = made(name), made(name), made(name)
    run(whole, 0, 4)
    run(first, 0, 2)
    second.load_state_dict(first.state_dict())
    run(second, 2, 4)
    assert all(torch.equal(value, second.state_dict()[key]) for key, value in whole.state_dict().items())


def test_methods_refuse_what_a_teacher_cannot_say():
    words = cli.compose(TOOL, ["teacher=t", "method=kd", "data=synthetic"])
    student = encoders.create("test_resnet", 1, SIZE)
    with pytest.raises(ValueError, match="has no classifier"):
        build_method(words, student, teacher=teacher_made(classes=None), classes=4)
    words = cli.compose(TOOL, ["teacher=t", "method=fitnet", "data=synthetic"])
    pair = Teacher(teacher_made().members * 2, torch.zeros(1), torch.ones(1))
    with pytest.raises(ValueError, match="an ensemble has several"):
        build_method(words, student, teacher=pair, classes=4)
    without = encoders.create("test_resnet", 1, SIZE)
    without.forward_intermediates = None
    with pytest.raises(ValueError, match=r"student=test_resnet\S* gives no 2 feature maps"):
        build_method(words, without, teacher=teacher_made(), classes=4)


@pytest.mark.parametrize(("name", "word", "right"), [
    ("cosine", "hidden=-5", "0 or more"), ("queue_kl", "hidden=-5", "0 or more"),
    ("dino", "teachers_temperature=0.0", "more than 0"), ("dino", "center_momentum=1.5", "from 0 to 1"),
    ("dkd", "warmup=-0.1", "0 or more"), ("dkd", "beta=-1.0", "0 or more"),
    ("dkd", "alpha=-1.0", "0 or more"), ("dist", "gamma=-1.0", "0 or more"), ("crd", "momentum=1.5", "from 0 to 1"),
    ("crd", "momentum=-0.5", "from 0 to 1"), ("rkd", "distance=-1.0", "0 or more"), ("rkd", "angle=-1.0", "0 or more"),
])
def test_methods_refuse_numbers_out_of_range(name, word, right):
    with pytest.raises(ValueError, match=rf"method\.{word}: must be {right}"):
        made(name, f"method.{word}")


def test_simkds_classifier_is_the_teachers_on_what_it_projects():
    method = made("simkd", dtype=torch.float64)
    x = torch.randn(5, method.encoder.dim, dtype=torch.float64)
    torch.testing.assert_close(method.head(x), method.teacher.head(method.projector(x)))


def test_crd_with_kd_adds_hintons_loss():
    """The paper's CRD+KD: at the same weights, the loss differs by kd · KD of the teacher's and the student's logits."""
    alone, both = (made("crd", "method.ce=0.5", f"method.kd={kd}", dtype=torch.float64) for kd in (0, 3))
    both.load_state_dict(alone.state_dict())
    some = batch(alone, dtype=torch.float64)
    less, more = alone(some, 0.0).loss, both(some, 0.0)
    student = both.head(both.encoder(some.views[0])) / 4
    teacher = both.teacher(some, ("logits",))["logits"][:, 0].double() / 4
    divergence = (teacher.softmax(1) * (teacher.log_softmax(1) - student.log_softmax(1))).sum(1).mean() * 4**2
    torch.testing.assert_close(more.loss - less, 3 * divergence)
    torch.testing.assert_close(more.scalars["kd"], divergence.detach())
    with pytest.raises(ValueError, match=r"method\.kd=-1\.0: must be 0 or more"):
        made("crd", "method.kd=-1.0")


def test_methods_of_features_need_no_labels_where_ce_is_0():
    for name in ("rkd", "pkt", "crd"):
        method = made(name, "method.ce=0")
        assert not method.traits.needs_labels
        assert method.head is None
        some = batch(method)
        assert method(Batch(some.views, some.indices, None), 0.0).loss.isfinite()
