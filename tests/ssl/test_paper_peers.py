"""Losses equal lightly's figures and gradients; where a convention differs, the factor is written and explained here."""
import copy

import equations
import faiss
import lightly.loss as lightly
import pytest
import torch
from lightly.loss.lejepa_loss import SIGReg
from lightly.models.utils import patchify
from loss_cases import Flat, K, dino, dino_views, lejepa, value_and_gradients
from small_methods import batch, made
from torch import Tensor, nn
from torch.nn import functional as F

from core.method import joined
from ssl import losses
from ssl.losses import nearest
from ssl.method import pairs, unordered_pairs
from ssl.method.barlow_twins import barlow_twins_loss
from ssl.method.dcl import dcl_loss
from ssl.method.dino import dino_loss
from ssl.method.lejepa import directions_at, sigreg
from ssl.method.nnclr import nnclr_loss
from ssl.method.simsiam import negative_cosine
from ssl.method.supcon import supcon_loss
from ssl.method.swav import sinkhorn, swapped_prediction
from ssl.method.vicreg import vicreg_loss
from ssl.method.visreg import VISReg, visreg_terms
from vision.patches import patches_of

N, P = 24, 10
ROUNDING = 1e-12  # float64 on both sides


def views(*shape: int, count: int = 2) -> list[Tensor]:
    """Views that resemble one another."""
    image = torch.randn(N, *shape, dtype=torch.float64)
    return [image + 0.5 * torch.randn(N, *shape, dtype=torch.float64) for _ in range(count)]


def assert_equal(ours, peer, inputs: list[Tensor], relative: float = ROUNDING) -> None:
    for mine, theirs in zip(value_and_gradients(ours, inputs), value_and_gradients(peer, inputs), strict=True):
        assert (mine - theirs).norm() <= relative * theirs.norm()


def test_barlow_twins_is_lightlys():
    """Both standardise as BatchNorm does: biased variance, and 1e-5 added to it."""
    assert_equal(lambda a, b: barlow_twins_loss(a, b, 0.02), lightly.BarlowTwinsLoss(0.02), views(P))


def test_vicreg_is_lightlys():
    """Both take the authors' code's factors: mean of both views' variances, sum of their covariances, unbiased both."""
    a, b = views(P)
    assert_equal(lambda a, b: vicreg_loss(a, b, 25.0, 20.0, 2.0), lightly.VICRegLoss(25.0, 20.0, 2.0), [0.8 * a, 0.8 * b])


def test_simsiam_is_lightlys_with_the_target_detached():
    """lightly leaves the stop-gradient to its caller."""
    peer = lightly.NegativeCosineSimilarity()
    assert_equal(negative_cosine, lambda p, z: peer(p, z.detach()), views(P))


def test_dcl_is_lightlys():
    assert_equal(lambda a, b: dcl_loss(a, b, 0.1), lightly.DCLLoss(0.1), views(P))


@pytest.mark.filterwarnings("ignore:To copy construct from a tensor")  # lightly's
def test_weighted_dcl_is_lightlys():
    """Both hold the weights constant."""
    assert_equal(lambda a, b: dcl_loss(a, b, 0.1, 0.5), lightly.DCLWLoss(0.1, 0.5), views(P))


def test_supcon_with_all_labels_different_is_nt_xent():
    """Then an image's other view is its only positive."""
    a, b = views(P)
    ours = lambda a, b: supcon_loss(torch.stack([a, b], 1), torch.randperm(N), 0.2)  # noqa: E731
    assert_equal(ours, lightly.NTXentLoss(0.2), [a, b])


def test_nnclr_is_lightlys_loss_with_the_other_predictions_as_its_memory():
    """lightly has no loss with NNCLR's N terms: its NT-Xent has 2N − 1, unless a memory bank brings the negatives.

    So image by image, with the other images' predictions in the bank, which passes them no gradient: the neighbours' is
    compared. The loops have the predictions' too.
    """
    neighbours, predictions = views(P)

    def peer(neighbours: Tensor) -> Tensor:
        terms = []
        for i in range(N):
            loss = lightly.NTXentLoss(0.1, memory_bank_size=(N - 1, P))
            loss.memory_bank.bank = F.normalize(torch.cat([predictions[:i], predictions[i + 1 :]]), dim=1)
            terms.append(loss(neighbours[i, None], predictions[i, None]))
        return torch.stack(terms).mean()

    assert_equal(lambda n: nnclr_loss(n, predictions, 0.1), peer, [neighbours])


def test_sinkhorn_and_swapped_prediction_are_lightlys_with_local_crops_and_a_queue():
    scores = [x.tanh() for x in views(30, count=4)]  # two views and two local crops, 30 prototypes
    queues = [x.tanh() for x in views(30)]

    def ours(*scores: Tensor) -> Tensor:
        codes = [sinkhorn(torch.cat([scores[t].detach(), queues[t]]), 0.05, 3)[:N] for t in range(2)]
        return torch.stack([swapped_prediction(scores[v], codes[t], 0.1) for t, v in pairs(4)]).mean()

    assert_equal(ours, lambda *s: lightly.SwaVLoss(0.1, 3, 0.05)(s[:2], s[2:], queues).squeeze(), scores)


def test_sigreg_and_the_lejepa_objective_are_lightlys(monkeypatch):
    """On the same directions, which lightly draws anew each time. Its view is the first axis."""
    progress, crops = 0.7, views(P, count=4)
    monkeypatch.setattr(SIGReg, "_generate_unit_vectors", lambda *_: directions)
    directions = directions_at(progress, P, 16, torch.device("cpu")).double()
    method = lejepa(P, 16, 17)
    peer = lightly.LeJEPALoss(0.05, sigreg_num_vectors=16)
    rounded = 1e-6  # lightly keeps e^(−t²/2) and the weights in float32
    assert_equal(lambda *z: sigreg(torch.stack(z, 1), directions), lambda *z: peer.sigreg(torch.stack(z)), crops, rounded)
    assert_equal(
        lambda *z: method.objective(torch.stack(z, 1), None, progress).loss,
        lambda *z: peer(global_proj=torch.stack(z[:2]), local_proj=torch.stack(z[2:])),
        crops,
        rounded,
    )


def test_visreg_is_lightlys_on_the_same_directions():
    """Which lightly draws from torch's generator; so do we here, before it does. Its view is the first axis."""
    crops = views(P, count=3)

    def seeded(*z: Tensor) -> Tensor:
        torch.manual_seed(0)
        return torch.stack(lightly.VISRegLoss(1.0, 16).forward_components(global_proj=torch.stack(z[:2]),
                                                                          local_proj=torch.stack(z[2:]))[2:])

    torch.manual_seed(0)
    directions = F.normalize(torch.randn(P, 16, dtype=torch.float64), dim=0)
    found = visreg_terms(torch.stack(crops, 1), directions)
    torch.testing.assert_close(found, seeded(*crops), rtol=1e-6, atol=0)  # lightly's quantiles are float32
    method = VISReg(Flat(), 8, P, 16, 0.6, 1.0, 2.0, 0.5)
    method.projector = nn.Identity()
    own = directions_at(0.3, P, 16, torch.device("cpu")).double()
    invariance = F.mse_loss(torch.stack(crops, 1), torch.stack(crops[:2], 1).mean(1, keepdim=True).expand(-1, 3, -1))
    expected = 0.6 * (visreg_terms(torch.stack(crops, 1), own) * torch.tensor([1.0, 2.0, 0.5])).sum() + 0.4 * invariance
    torch.testing.assert_close(method.objective(torch.stack(crops, 1), None, 0.3).loss, expected, rtol=1e-9, atol=0)


def test_mae_predicts_lightlys_patches():
    """Masked patches cut by lightly, normalized by torch's figures, and mean squared error as in lightly's example."""
    method, data = made("mae"), batch("mae")
    seen, wanted = method.places(data)
    patches = patchify(data.views[0], 16)
    assert torch.equal(patches_of(data.views[0], (6, 6)), patches)
    assert seen.shape[1] == 9  # a quarter of 36
    assert torch.equal(torch.cat([seen, wanted], 1).sort(1).values, torch.arange(36).expand(len(seen), -1))
    target = patches[torch.arange(len(patches))[:, None], wanted]
    target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(method(data, 0.0).loss, nn.MSELoss()(method.embed(data), target))


def test_ibots_class_token_loss_is_dinos_of_the_masked_crops():
    """And its center of patches is the mean over all of them, masked or not, of the teacher's head."""
    method, data = made("ibot").eval(), batch("ibot")
    features, targets = method.embed(data), method.targets(data)
    output = method.objective(features, targets, 0.5)
    cls = dino_loss(method.projector(features[0]), method.teacher[1](targets.cls), method.center, 0.1, 0.07)
    torch.testing.assert_close(output.scalars["cls_loss"], cls)
    everywhere = method.teacher[1](targets.patches).mean((0, 1, 2))
    torch.testing.assert_close(output.staged.patches[0], everywhere, rtol=1e-4, atol=1e-6)  # float32 sums in another order
    mask = method.masking.masks(data)
    assert 0 < mask.any(2).float().mean() < 1  # of the crops, some
    assert torch.equal(targets.masked.sum(2), mask.sum(2))


def test_dino_is_lightlys_with_local_crops_and_a_centre():
    student, teacher, peer = views(30, count=4), views(30), lightly.DINOLoss(30, student_temp=0.1)
    peer.center = torch.randn(1, 1, 30, dtype=torch.float64)
    centre = peer.center.flatten()
    assert_equal(
        lambda *s: dino_loss(torch.stack(s, 1), torch.stack(teacher, 1), centre, 0.1, 0.05),
        lambda *s: copy.deepcopy(peer)(teacher, list(s), teacher_temp=0.05),  # it moves its centre in forward
        student,
        1e-7,  # lightly rounds the temperature to float32
    )


def test_dinos_centre_and_temperature_over_steps_are_the_papers_and_lightlys():
    """Eq. 4: c ← m·c + (1 − m)·mean of this step's teacher outputs, both views', after the step. The temperature rises
    linearly over the warm-up and stays. lightly, as the authors, counts its rise in epochs: 6 of them, the last at the end.
    """
    method, peer = dino(warmup=0.5), lightly.DINOLoss(K, 0.04, 0.07, 6, 0.1, 0.9).double()
    with torch.no_grad():
        method.projector.prototypes.add_(torch.randn_like(method.projector.prototypes))  # not the teacher's any more
    expected = [0.0] * K
    for epoch in range(9):
        progress, batch = epoch / 10, dino_views(N)
        teacher = [method.teacher(view) for view in batch.views]
        student = [method.projector(method.encoder(view)) for view in batch.views]
        output = method(batch, progress)
        loss, scalars = output.loss, output.scalars
        T = min(0.04 + 0.03 * progress / 0.5, 0.07)
        assert scalars["teacher_temperature"] == pytest.approx(T, rel=ROUNDING)
        centre = torch.tensor(expected, dtype=torch.float64)
        paper = equations.dino(torch.stack(student, 1), torch.stack(teacher, 1), centre, 0.1, T)
        assert loss.item() == pytest.approx(paper.item(), rel=ROUNDING)
        assert loss.item() == pytest.approx(peer(teacher, student, epoch=epoch).item(), rel=1e-6)  # temperatures in float32
        method.after_step(output.staged, progress)
        mean = [sum(float(view[n, k]) for n in range(N) for view in teacher) / (2 * N) for k in range(K)]
        expected = [0.9 * c + 0.1 * m for c, m in zip(expected, mean, strict=True)]
        assert method.centre.tolist() == pytest.approx(expected, rel=1e-9)
        assert peer.center.flatten().tolist() == pytest.approx(expected, rel=1e-9)
    assert method.centre.abs().max() > 0.01


def test_dinos_centre_moves_once_a_step_by_all_pieces_of_the_batch():
    """Gradient accumulation: two forwards before one after_step."""
    method, pieces = dino(warmup=0.0), [dino_views(N // 2) for _ in range(2)]
    teacher = torch.stack([method.teacher(view) for piece in pieces for view in piece.views])
    staged = []
    for piece in pieces:
        staged.append(method(piece, 0.5).staged)
        assert method.centre.count_nonzero() == 0
    method.after_step(joined(staged), 0.5)
    torch.testing.assert_close(method.centre, 0.1 * teacher.mean((0, 1)), rtol=1e-9, atol=0)


@pytest.mark.parametrize("count", [1, 5])
def test_nearest_is_faiss(count, monkeypatch):
    queries, queue = torch.randn(150, P), torch.randn(300, P)
    index = faiss.IndexFlatIP(P)
    index.add(queue.numpy())
    _, rows = index.search(queries.numpy(), count)
    expected = queue[torch.from_numpy(rows)]
    assert torch.equal(nearest(queries, queue, count), expected)
    monkeypatch.setattr(losses, "TILE", 1)  # tiles of 64 queries, and a last one of 22
    found = nearest(queries.requires_grad_(), queue, count)
    assert torch.equal(found, expected)
    assert not found.requires_grad


def test_pairs_of_views_are_each_counted_once():
    """Two views that are targets, two local crops that only predict; the losses above are means over these."""
    assert pairs(4) == [(0, 1), (0, 2), (0, 3), (1, 0), (1, 2), (1, 3)]
    assert unordered_pairs(4) == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3)]
    assert pairs(2) == [(0, 1), (1, 0)]
    assert unordered_pairs(2) == [(0, 1)]
