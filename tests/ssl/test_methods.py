"""One suite over every method in ssl/method/: what the contract promises, and the formula of each paper."""
import pytest
import torch
from lightly.loss import NTXentLoss
from small_methods import NAMES, B, batch, made
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from core import loop, optim
from core.memory import Queue
from core.method import Method
from core.schedule import cosine
from core.settings import OptimSettings
from ssl.method import pairs, unordered_pairs

PROGRESS = 0.4
TEACHERS = [name for name in NAMES if hasattr(made(name), "teacher")]
FAMILY = {"simclr", "moco_v2", "moco_v3", "byol", "simsiam", "barlow_twins", "vicreg", "swav", "dino", "nnclr", "dcl", "supcon"}
FAMILY |= {"all4one", "lejepa", "moco_v3_vit", "dino_vit", "lejepa_vit", "mae", "simmim", "visreg", "ijepa", "ibot"}
FAMILY |= {"dinov2", "simdinov2", "dinov3"}
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def snapshot(method: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in method.state_dict().items() if not name.endswith(STATISTICS)}


def changed(before: dict[str, Tensor], method: nn.Module) -> set[str]:
    after = snapshot(method)
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_the_listed_methods_are_those_we_know():
    assert set(NAMES) >= FAMILY
    assert {"moco_v2", "moco_v3", "moco_v3_vit", "byol", "dino", "dino_vit", "all4one", "ijepa", "ibot"} <= set(TEACHERS)


@pytest.mark.parametrize("name", NAMES)
def test_forward_gives_a_loss_and_changes_nothing_but_batchnorms_statistics(name):
    method = made(name)
    before = snapshot(method)
    output = method(batch(name), PROGRESS)
    loss, scalars = output.loss, output.scalars
    assert loss.shape == ()
    assert loss.isfinite()
    assert all(isinstance(value, (int, float, Tensor)) for value in scalars.values())
    loss.backward()
    assert changed(before, method) == set()


@pytest.mark.parametrize("name", NAMES)
def test_gradient_reaches_the_whole_encoder_and_never_the_teacher(name):
    method = made(name)
    with torch.no_grad():
        for p in method.encoder.parameters():  # residual branches start as nothing: their last norm's γ is 0
            p.add_(0.01 * torch.randn_like(p))
    method(batch(name), PROGRESS).loss.backward()
    for key, parameter in method.named_parameters():
        if key.startswith("teacher."):
            assert not parameter.requires_grad, key
        if parameter.requires_grad:
            assert parameter.grad is not None, f"{key} is not reached"
            assert parameter.grad.norm() > 0, f"{key} has no gradient"
    assert any(p.requires_grad for p in method.encoder.parameters())
    frozen = [k for k, p in method.encoder.named_parameters() if not p.requires_grad]
    assert all(k.startswith(("patch_embed", "pos_embed")) for k in frozen)
    held = {id(p) for group in optim.parameter_groups(method, 0.1) for p in group["params"]}
    assert held == {id(p) for p in method.parameters() if p.requires_grad}


@pytest.mark.parametrize("name", NAMES)
def test_a_fixed_batch_is_learned(name):
    method, fixed = made(name), batch(name)
    optimizer = optim.build(method, OptimSettings(name="adamw", weight_decay=0.0), 2e-3)
    losses = []
    for _ in range(15):  # no after_step: the task stays the same
        loss = method(fixed, PROGRESS).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0], losses


@pytest.mark.parametrize("name", NAMES)
def test_bf16_autocast_stays_finite_and_near(name):
    exact = made(name)(batch(name), PROGRESS).loss
    method = made(name)
    with torch.autocast("cpu", torch.bfloat16):
        loss = method(batch(name), PROGRESS).loss
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(p.grad.isfinite().all() for p in method.parameters() if p.grad is not None)
    assert loss.item() == pytest.approx(exact.item(), rel=0.1)  # 8 bits through ten layers, divided by T = 0.2


# ---- pieces of a batch, local crops


def gradients(name: str, count: int, *more: str) -> Tensor:
    """Of the loop's accumulation over `count` pieces, float64, BatchNorm at its running statistics."""
    method = made(name, *more, dtype=torch.float64)
    for norm in (m for m in method.modules() if isinstance(m, _BatchNorm)):
        norm.eval()
    for _, piece in loop.pieces(batch(name, dtype=torch.float64), count):
        (method(piece, PROGRESS).loss / count).backward()
    return torch.cat([p.grad.flatten() for p in method.parameters() if p.requires_grad])


@pytest.mark.parametrize("name", NAMES)
def test_accumulation_is_the_large_batch_where_the_loss_is_a_mean_over_images_and_only_there(name):
    """`per_image` says which: where it is False, a piece has only its own negatives, statistics or assignments."""
    whole, accumulated = gradients(name, 1), gradients(name, 4)
    apart = (whole - accumulated).norm() / whole.norm()
    assert (apart < 1e-10) if made(name).traits.per_image else (apart > 1e-3), apart


def test_pairs_of_views():
    assert pairs(2) == [(0, 1), (1, 0)]
    assert pairs(4) == [(0, 1), (0, 2), (0, 3), (1, 0), (1, 2), (1, 3)]  # local crops 2 and 3 are no targets
    assert unordered_pairs(2) == [(0, 1)]
    assert unordered_pairs(4) == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3)]


@pytest.mark.parametrize("name", NAMES)
def test_a_method_takes_local_crops_or_refuses_them(name):
    """Their gradient counts and the teacher never sees them. Methods that have no use for them refuse them."""
    if not made(name).traits.local_crops:
        with pytest.raises(ValueError, match=rf"augment\.local\.views=2: method={name} takes no local crops"):
            made(name, "augment.local.views=2")
        return
    method = made(name, "augment.local.views=2")
    seen = []
    if hasattr(method, "teacher"):
        teacher = method.teacher[0].patch_embed if method.traits.on_tokens else method.teacher[0]
        teacher.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[-1]))
    data = batch(name, local=2)
    for view in data.views:
        view.requires_grad_()
    loss = method(data, PROGRESS).loss
    loss.backward()
    assert all(view.grad.norm() > 0 for view in data.views)
    assert set(seen) == ({data.views[0].shape[-1]} if hasattr(method, "teacher") else set())
    assert data.views[2].shape[-1] == data.views[0].shape[-1] // 2


def test_what_a_method_is_made_of_is_refused_when_no_paper_means_it():
    for word, said in {
        "byol method.momentum=[0.9,1.5]": "momentum",
        "dino method.temperature=0": "temperature",
        "dcl method.sigma=0": "sigma",
        "swav method.epsilon=0": "epsilon",
        "nnclr method.queue_size=0": "queue_size",
        "all4one method.neighbours=1": "neighbours",
        "dcl method.sigma=often": "sigma",
        "dino method.teacher_temperature=[0.0,0.07]": "teacher_temperature",
        "dino method.centre_momentum=2": "centre_momentum",
        "vicreg method.variance=-1": "variance",
        "barlow_twins method.scale=-1": "off_diagonal",
        "all4one method.dim=12": "dim",
        "lejepa method.weight=2": "weight",
        "lejepa method.knots=1": "knots",
        "visreg method.weight=2": "weight",
        "visreg method.shape=-1": "shape",
        "mae method.mask_ratio=1": "mask_ratio",
        "mae method.mask_ratio=0": "mask_ratio",
        "mae method.decoder_width=30": "decoder_width",
        "simmim method.mask_ratio=0.99": "mask_ratio",
        "simmim method.mask_cell=0": "mask_cell",
        "ijepa method.targets=5": "targets",
        "ijepa method.momentum=[0.9,1.5]": "momentum",
        "ibot method.mask_ratio=[0.5,0.1]": "mask_ratio",
        "ibot method.mask_ratio=[0.01,0.02]": "mask_ratio",
        "ibot method.masked_crops=2": "masked_crops",
        "dinov2 method.mask_ratio=[0.5,0.1]": "mask_ratio",
        "dinov2 method.koleo=-1": "koleo",
        "dinov2 method.iterations=0": "iterations",
        "dinov2 method.layer_decay=0": "layer_decay",
        "dinov2 method.teacher_temperature=[0.0,0.07]": "teacher_temperature",
        "dinov3 method.gram_at=[0.5,0.2,0.9]": "gram_at",
        "dinov3 method.rope_rescale=0.5": "rope_rescale",
        "simdinov2 method.eps=0": "eps",
        "simdinov2 method.masked_crops=2": "masked_crops",
    }.items():
        with pytest.raises(ValueError, match=rf"method\.{said}="):
            made(*word.split())


# ---- teachers


@pytest.mark.parametrize("name", TEACHERS)
def test_the_teacher_starts_as_the_student_and_moves_as_the_equation_says(name):
    method = made(name)
    student = [method.encoder, method.projector] if hasattr(method, "projector") else [method.encoder]
    students = nn.Sequential(*student)
    pairs = list(zip(method.teacher.parameters(), students.parameters(), strict=True))
    assert all(torch.equal(teacher, student) for teacher, student in pairs)
    assert not {id(t) for t, _ in pairs} & {id(s) for _, s in pairs}

    with torch.no_grad():
        for _, student in pairs:
            student.add_(torch.randn_like(student))
    olds = [t.clone() for t, _ in pairs]
    output = method(batch(name), PROGRESS)
    buffers = [b.clone() for b in method.teacher.buffers()]
    method.after_step(output.staged, PROGRESS)
    m = method.momentum_at(PROGRESS) if hasattr(method, "momentum_at") else cosine(PROGRESS, *method.momentum)
    assert 0.9 < m < 1
    for old, (teacher, student) in zip(olds, pairs, strict=True):
        expected = m * old.double() + (1 - m) * student.detach().double()
        torch.testing.assert_close(teacher.double(), expected, rtol=1e-6, atol=1e-6)  # float32
    assert all(torch.equal(a, b) for a, b in zip(buffers, method.teacher.buffers(), strict=True))  # its own statistics


def test_simclr_is_lightlys_loss_on_both_views_in_one_batch():
    method, data = made("simclr"), batch("simclr")
    first, second = method.projector(method.encoder(torch.cat(data.views))).chunk(2)
    expected = NTXentLoss(temperature=method.temperature)(first, second)
    torch.testing.assert_close(method(data, 0.0).loss, expected, rtol=1e-5, atol=0)  # float32
    torch.testing.assert_close(method.objective(method.embed(data), None, 0.0).loss, expected, rtol=1e-5, atol=0)


# ---- remembered embeddings


def test_a_queue_holds_the_newest_in_order_and_wraps_around():
    queue, remembered = Queue(48, 8), []
    for _ in range(4):
        new = torch.randn(2, 16, 8)
        queue.commit(*new)
        remembered.extend(new.flatten(0, 1))
        newest = torch.stack(remembered[-48:])
        in_order = queue.rows.roll(-int(queue.oldest), 0)  # from the oldest to the newest
        assert torch.equal(in_order[-len(newest) :], newest)
    queue = Queue(10, 8)
    queue.commit(new[1])  # more than fit
    assert torch.equal(queue.rows.roll(-int(queue.oldest), 0), new[1, -10:])


def test_a_queue_longer_than_the_data_is_shortened_and_said():
    queue = Queue(48, 8)
    assert queue.fit(images=1000, batch_size=16) == []
    assert len(queue) == 48
    (note,) = queue.fit(images=70, batch_size=16)  # half of 70, in whole batches
    assert "method.queue_size=48 shortened to 32" in note
    assert queue.rows.shape == (32, 8)


@pytest.mark.parametrize("name", NAMES)
def test_every_queue_is_filled_by_the_step_with_unit_vectors_and_fitted_to_the_data(name):
    method: Method = made(name)
    queues = [m for m in method.modules() if isinstance(m, Queue)]
    for step in range(4):
        before = [queue.rows.clone() for queue in queues]
        output = method(batch(name, step), PROGRESS)
        unchanged = [torch.equal(queue.rows, rows) for queue, rows in zip(queues, before, strict=True)]
        assert all(unchanged), "until the step ends"
        method.after_step(output.staged, PROGRESS)
        for queue, rows in zip(queues, before, strict=True):
            assert B <= (queue.rows != rows).any(1).sum() <= 2 * B
            torch.testing.assert_close(queue.rows.norm(dim=1), torch.ones(48), rtol=1e-5, atol=0)  # float32
    assert any("queue_size" in note for note in method.prepare(images=70, batch_size=B)) is bool(queues)
    assert all(len(queue) == 32 for queue in queues)
