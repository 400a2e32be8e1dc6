"""MoCo: shuffling BatchNorm, algorithm 1, and the vision transformer's frozen patches."""
import copy

import pytest
import torch
from small_methods import B, batch, made
from torch import Tensor, nn
from torch.nn import functional as F

from core.batchnorm import SplitBatchNorm
from core.method import Batch


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


def embeddings(method, view: Tensor) -> Tensor:
    return F.normalize(method.projector(method.encoder(view)), dim=1)


@pytest.mark.parametrize("symmetric", ["true", "false"])
@pytest.mark.parametrize("bn", ["sync", "shuffle"])
def test_moco_v2_is_algorithm_1(bn, symmetric):
    method, data = made("moco_v2", f"method.bn={bn}", f"method.symmetric={symmetric}"), batch("moco_v2")
    twin = copy.deepcopy(method)
    losses = []
    for query_view, key_view in (data.views, data.views[::-1])[: 2 if symmetric == "true" else 1]:
        q, k = embeddings(twin, query_view), twin.keys(key_view, data.indices)
        logits = torch.cat([torch.einsum("nc,nc->n", q, k)[:, None], q @ twin.queue.rows.T], dim=1)
        losses.append(F.cross_entropy(logits / method.temperature, torch.zeros(B, dtype=torch.long)))
    torch.testing.assert_close(method(data, 0.0).loss, sum(losses) / len(losses), rtol=1e-5, atol=0)  # float32


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
    torch.testing.assert_close(method(data, 0.0).loss, ctr(first, second) + ctr(second, first), rtol=1e-5, atol=0)


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
