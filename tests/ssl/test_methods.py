"""One suite over every method in ssl/method/: what the contract promises, and the formula of each paper."""
import copy

import pytest
import torch
from lightly.loss import NTXentLoss
from small_methods import NAMES, B, batch, made
from torch import Tensor, nn
from torch.nn import functional as F

from core import optim
from core.batchnorm import SplitBatchNorm
from core.method import Batch
from core.schedule import cosine

PROGRESS = 0.4
TEACHERS = [name for name in NAMES if hasattr(made(name), "teacher")]
QUEUES = [name for name in NAMES if hasattr(made(name), "queue")]
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def snapshot(method: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in method.state_dict().items() if not name.endswith(STATISTICS)}


def changed(before: dict[str, Tensor], method: nn.Module) -> set[str]:
    after = snapshot(method)
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_the_listed_methods_are_those_we_know():
    assert {"simclr", "moco_v2", "moco_v3", "moco_v3_vit"} <= set(NAMES)
    assert {"moco_v2", "moco_v3", "moco_v3_vit"} <= set(TEACHERS)
    assert "moco_v2" in QUEUES


@pytest.mark.parametrize("name", NAMES)
def test_forward_gives_a_loss_and_changes_nothing_but_batchnorms_statistics(name):
    method = made(name)
    before = snapshot(method)
    loss, scalars = method(batch(name), PROGRESS)
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
    method(batch(name), PROGRESS)[0].backward()
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
    optimizer = optim.build(method, "adamw", 2e-3, 0.0)
    losses = []
    for _ in range(15):
        loss, _ = method(fixed, 0.0)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if hasattr(method, "fresh"):
            method.fresh.clear()  # no after_step: the task stays the same
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0], losses


@pytest.mark.parametrize("name", NAMES)
def test_bf16_autocast_stays_finite_and_near(name):
    exact = made(name)(batch(name), PROGRESS)[0]
    method = made(name)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = method(batch(name), PROGRESS)
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(p.grad.isfinite().all() for p in method.parameters() if p.grad is not None)
    assert loss.item() == pytest.approx(exact.item(), rel=0.1)  # 8 bits through ten layers, divided by T = 0.2


# ---- teachers


@pytest.mark.parametrize("name", TEACHERS)
def test_the_teacher_starts_as_the_student_and_moves_as_the_equation_says(name):
    method = made(name)
    students = nn.Sequential(method.encoder, method.projector)
    pairs = list(zip(method.teacher.parameters(), students.parameters(), strict=True))
    assert all(torch.equal(teacher, student) for teacher, student in pairs)
    assert not {id(t) for t, _ in pairs} & {id(s) for _, s in pairs}

    with torch.no_grad():
        for _, student in pairs:
            student.add_(torch.randn_like(student))
    olds = [t.clone() for t, _ in pairs]
    method(batch(name), PROGRESS)
    buffers = [b.clone() for b in method.teacher.buffers()]
    method.after_step(PROGRESS)
    m = cosine(PROGRESS, *method.momentum)
    assert 0.9 < m < 1
    for old, (teacher, student) in zip(olds, pairs, strict=True):
        expected = m * old.double() + (1 - m) * student.detach().double()
        torch.testing.assert_close(teacher.double(), expected, rtol=1e-6, atol=1e-6)  # float32
    assert all(torch.equal(a, b) for a, b in zip(buffers, method.teacher.buffers(), strict=True))  # its own statistics


# ---- queues


@pytest.mark.parametrize("name", QUEUES)
def test_the_queue_holds_the_newest_keys_in_order_and_wraps_around(name):
    """48 places: 16 keys a step, or 32 when symmetric, so that the second step wraps around."""
    for symmetric in ("false", "true"):
        method = made(name, f"method.symmetric={symmetric}")
        K, all_keys = len(method.queue), []
        for step in range(4):
            before = method.queue.clone()
            method(batch(name, step), PROGRESS)
            assert torch.equal(method.queue, before)  # a step's keys are not among its negatives
            keys = torch.cat(method.fresh)
            assert len(keys) == (2 * B if symmetric == "true" else B)
            assert (method.queue @ keys.T).max() < 0.999  # not even by chance
            all_keys.extend(keys)
            method.after_step(PROGRESS)
            assert method.fresh == []
            start, newest = int(method.oldest), torch.stack(all_keys[-K:])
            in_order = method.queue.roll(-start, 0)  # from the oldest to the newest
            assert torch.equal(in_order[-len(newest) :], newest)
    assert len(all_keys) > 2 * K


@pytest.mark.parametrize("name", QUEUES)
def test_a_batch_larger_than_the_queue_leaves_its_last_keys(name):
    method = made(name, "method.queue_size=10", "method.symmetric=false")
    method(batch(name), PROGRESS)
    keys = torch.cat(method.fresh)
    method.after_step(PROGRESS)
    assert torch.equal(method.queue.roll(-int(method.oldest), 0), keys[-10:])


@pytest.mark.parametrize("name", QUEUES)
def test_a_queue_longer_than_the_data_is_shortened_and_said(name):
    method = made(name)
    assert method.prepare(images=1000, batch_size=B) == []
    assert len(method.queue) == 48
    (note,) = method.prepare(images=70, batch_size=B)  # half of 70, in whole batches
    assert "method.queue_size=48 shortened to 32" in note
    assert method.queue.shape == (32, 16)


# ---- shuffling BatchNorm


class Recorder(nn.Module):
    """A teacher whose keys are its inputs, and that remembers the order they came in."""

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x
        return x.flatten(1)


def test_keys_are_computed_in_other_groups_and_come_back_to_their_rows():
    method = made("moco_v2")
    view = torch.arange(64.0)[:, None, None, None] + torch.randn(64, 1, 4, 4) / 100
    method.teacher = Recorder()
    indices = torch.randperm(1000)[:64]
    keys = method.keys(view, indices)
    assert torch.equal(keys, F.normalize(view.flatten(1), dim=1))  # row i's key is of row i's view

    order = method.teacher.seen[:, 0, 0, 0].round().long()
    assert sorted(order.tolist()) == list(range(64))
    groups = [set(g.tolist()) for g in order.chunk(4)]
    mates_as_queries = [len(g & set(range(16 * i, 16 * i + 16))) for g in groups for i in range(4)]
    assert max(mates_as_queries) < 10  # of 16; by chance 4 ± 1.5 in each of the 16 pairs of groups
    method.keys(view, (indices + 1) % 1000)
    assert not torch.equal(order, method.teacher.seen[:, 0, 0, 0].round().long())  # other images, other groups


def test_batchnorm_sees_each_group_alone():
    """Queries of a group do not depend on another group's images; with bn=sync they do."""
    data = batch("moco_v2")
    first = data.views[0].clone()
    first[8:] = torch.randn_like(first[8:])
    for bn, alone in (("shuffle", True), ("sync", False)):
        method = made("moco_v2", f"method.bn={bn}")
        assert any(isinstance(m, SplitBatchNorm) for m in method.modules()) is alone
        a, b = method.encoder(data.views[0])[:8], method.encoder(first)[:8]
        assert torch.allclose(a, b, atol=1e-5) is alone


# ---- the papers' formulas, in one dense matrix


def embeddings(method, view: Tensor) -> Tensor:
    return F.normalize(method.projector(method.encoder(view)), dim=1)


def test_simclr_is_lightlys_loss_on_both_views_in_one_batch():
    method, data = made("simclr"), batch("simclr")
    first, second = method.projector(method.encoder(torch.cat(data.views))).chunk(2)
    expected = NTXentLoss(temperature=method.temperature)(first, second)
    torch.testing.assert_close(method(data, 0.0)[0], expected, rtol=1e-5, atol=0)  # float32
    torch.testing.assert_close(method.objective(method.embed(data), 0.0)[0], expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("symmetric", ["true", "false"])
@pytest.mark.parametrize("bn", ["sync", "shuffle"])
def test_moco_v2_is_algorithm_1(bn, symmetric):
    method, data = made("moco_v2", f"method.bn={bn}", f"method.symmetric={symmetric}"), batch("moco_v2")
    twin = copy.deepcopy(method)
    losses = []
    for query_view, key_view in (data.views, data.views[::-1])[: 2 if symmetric == "true" else 1]:
        q, k = embeddings(twin, query_view), twin.keys(key_view, data.indices)
        logits = torch.cat([torch.einsum("nc,nc->n", q, k)[:, None], q @ twin.queue.T], dim=1)
        losses.append(F.cross_entropy(logits / method.temperature, torch.zeros(B, dtype=torch.long)))
    torch.testing.assert_close(method(data, 0.0)[0], sum(losses) / len(losses), rtol=1e-5, atol=0)  # float32


@pytest.mark.parametrize("name", ["moco_v3", "moco_v3_vit"])
def test_moco_v3_is_algorithm_1(name):
    """ctr(q1, k2) + ctr(q2, k1), each 2·T·cross entropy of q·k/T against the diagonal."""
    method, data = made(name), batch(name)
    T = method.temperature

    def ctr(query_view: Tensor, key_view: Tensor) -> Tensor:
        q = F.normalize(method.predictor(method.projector(method.encoder(query_view))), dim=1)
        with torch.no_grad():
            k = F.normalize(method.teacher(key_view), dim=1)
        return 2 * T * F.cross_entropy(q @ k.T / T, torch.arange(B))

    first, second = data.views
    torch.testing.assert_close(method(data, 0.0)[0], ctr(first, second) + ctr(second, first), rtol=1e-5, atol=0)


def test_moco_v3_vit_freezes_the_patch_embedding_of_student_and_teacher_alike():
    method = made("moco_v3_vit")
    assert not any(p.requires_grad for p in method.encoder.patch_embed.parameters())
    teacher = method.teacher[0]
    assert torch.equal(teacher.patch_embed.proj.weight, method.encoder.patch_embed.proj.weight)
    assert torch.equal(teacher.pos_embed, method.encoder.pos_embed)
    assert method.encoder.pos_embed.abs().sum() > 0


def test_what_cannot_work_is_refused():
    with pytest.raises(ValueError, match=r"method\.bn=batch: there are shuffle and sync"):
        made("moco_v2", "method.bn=batch")
    method = made("moco_v2")
    data = batch("moco_v2")
    with pytest.raises(ValueError, match=r"15 images .* 4 equal groups"):
        method(Batch([v[:15] for v in data.views], data.indices[:15]), 0.0)
