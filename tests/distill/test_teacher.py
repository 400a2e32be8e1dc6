"""What a teacher sees and says, asked or read from what was kept."""
import numpy as np
import pytest
import torch
from test_distillation_methods import CLASSES, SIZE, teacher_made
from torch import nn
from torch.nn import functional as F

from core.method import Batch
from distill import teacher
from distill.cache import Cache
from distill.teacher import Member, Teacher
from vision import artifact, encoders
from vision.augment import Augmentation

NEEDS = ("features", "logits")


def some(epoch: int = 0, start: int = 0) -> Batch:
    views = [torch.randn(4, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(10 * epoch + v)) for v in (0, 1)]
    return Batch(views, torch.arange(start, start + 4), None, epoch)


def test_outputs_are_the_networks_to_half_precision():
    network = teacher_made()
    features, logits = network(some(), NEEDS).values()
    with torch.no_grad():
        for v, view in enumerate(some().views):
            expected = network.members[0].encoder(view)
            torch.testing.assert_close(features[:, v], expected.half().float(), rtol=0, atol=0)
            torch.testing.assert_close(logits[:, v], network.head(expected).half().float(), rtol=0, atol=0)


def test_methods_that_want_different_things_share_what_was_kept(tmp_path):
    network = teacher_made()
    network.cache = Cache(tmp_path, {}, 20, 2 * (network.dim + len(CLASSES)), 1e9)
    features, logits = network(some(), NEEDS).values()
    assert torch.equal(network(some(), ("logits",))["logits"], logits)
    assert torch.equal(network(some(), ("features",))["features"], features)
    assert (network.cache.hits, network.cache.misses) == (2, 1)


def test_kept_equals_asked_to_the_bit_and_the_network_is_not_asked_again(tmp_path):
    asked = [teacher_made()(some(epoch), NEEDS) for epoch in (0, 1)]
    network = teacher_made()
    width = 2 * (network.dim + len(CLASSES))
    network.cache = Cache(tmp_path, {"a": 1}, 20, width, 1e9)
    first = [network(some(epoch), NEEDS) for epoch in (0, 1)]
    later = teacher_made()
    later.cache = Cache(tmp_path, {"a": 1}, 20, width, 1e9)
    later.outputs = None  # it cannot be asked
    again = [later(some(epoch), NEEDS) for epoch in (0, 1)]
    for one, two, three in zip(asked, first, again, strict=True):
        for name in NEEDS:
            assert torch.equal(one[name], two[name])
            assert torch.equal(one[name], three[name])
    assert (later.cache.hits, later.cache.misses) == (2, 0)


def test_a_damaged_row_is_computed_again_and_another_teacher_finds_nothing(tmp_path):
    rows = np.arange(20, dtype=np.float16).reshape(4, 5)
    cache = Cache(tmp_path, {"teacher": "a"}, 8, 5, 1e9)
    assert cache.get(0, np.arange(4)) is None
    cache.put(0, np.arange(4), rows)
    np.testing.assert_array_equal(cache.get(0, np.array([2, 1])), rows[[2, 1]])
    assert cache.get(0, np.array([3, 4])) is None  # 4 was not written
    assert cache.get(1, np.arange(4)) is None  # another epoch
    assert Cache(tmp_path, {"teacher": "b"}, 8, 5, 1e9).get(0, np.arange(4)) is None
    with open(next(cache.folder.glob("00000.rows")), "r+b") as file:
        file.seek(2 * 5 * 2 + 3)
        file.write(b"\xff")
    again = Cache(tmp_path, {"teacher": "a"}, 8, 5, 1e9)
    assert again.get(0, np.array([2])) is None
    np.testing.assert_array_equal(again.get(0, np.array([0, 1, 3])), rows[[0, 1, 3]])


def test_what_exceeds_the_limit_is_not_kept(tmp_path):
    cache = Cache(tmp_path, {}, 8, 5, 2 * 8 * (2 * 5 + 8))  # two epochs
    for epoch in range(4):
        cache.put(epoch, np.arange(8), np.ones((8, 5), np.float16))
    assert [cache.get(epoch, np.arange(8)) is not None for epoch in range(4)] == [True, True, False, False]
    assert sum(path.stat().st_size for path in cache.folder.glob("0*")) <= 2 * 8 * (2 * 5 + 8)


def test_views_are_brought_to_the_teachers_size_channels_and_normalisation():
    encoder = encoders.create("test_resnet", 3, 24)
    member = Member("colour", encoder, None, None, torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.1]))
    network = Teacher([member], torch.tensor([0.3]), torch.tensor([0.25]))
    levels = torch.rand(2, 1, SIZE, SIZE)
    seen = network.seen((levels - 0.3) / 0.25, member)
    wanted = F.interpolate(levels.expand(-1, 3, -1, -1), (24, 24), mode="bilinear", align_corners=False)
    wanted = (wanted - member.mean.view(3, 1, 1)) / member.std.view(3, 1, 1)
    torch.testing.assert_close(seen, wanted, atol=1e-5, rtol=0)


def test_an_ensembles_logits_are_the_log_of_its_mean_probability():
    members = [teacher_made().members[0], teacher_made().members[0]]
    members[1].head.weight.data.normal_()
    both = Teacher(members, torch.zeros(1), torch.ones(1))
    view = some().views[0]
    features, logits = both.outputs(view).split([both.dim, len(CLASSES)], 1)
    with torch.no_grad():
        each = [m.head(m.encoder(view)).softmax(1) for m in members]
    torch.testing.assert_close(logits.softmax(1), sum(each) / 2)
    torch.testing.assert_close(features.norm(dim=1), torch.full((4,), 2**0.5))


def test_teachers_from_files_and_what_is_none(tmp_path):
    torch.manual_seed(0)
    encoder, head = encoders.create("test_resnet", 1, SIZE), nn.Linear(96, 4)
    recipe = Augmentation(SIZE, [0.2], [0.3])
    plain, whole = tmp_path / "e.safetensors", tmp_path / "c.safetensors"
    plain.write_bytes(artifact.dumps(encoder, recipe, {}))
    whole.write_bytes(artifact.dumps(encoder, recipe, {}, head, CLASSES))
    assert teacher.load(str(plain), [0.2], [0.3]).classes is None
    told = teacher.load(str(whole), [0.2], [0.3])
    assert told.classes == CLASSES
    assert torch.equal(told.head.weight, head.weight)
    assert teacher.load(f"{plain},{whole}", [0.2], [0.3]).dim == 192
    assert told.fingerprint() != teacher.load(str(plain), [0.2], [0.3]).fingerprint()
    (tmp_path / "x.safetensors").write_text("no")
    for wrong, said in ((tmp_path / "x.safetensors", "teacher=.*is not an encoder"), ("resnet1888", "teacher=resnet1888")):
        with pytest.raises(ValueError, match=said):
            teacher.load(str(wrong), [0.2], [0.3])


def test_a_teacher_sees_a_rectangle_in_its_own_shape():
    torch.manual_seed(0)
    network = encoders.create("test_resnet", 1, (24, 16))
    member = Member("a", network, None, None, torch.tensor([0.5]), torch.tensor([0.25]))
    found = Teacher([member], torch.tensor([0.5]), torch.tensor([0.25])).seen(view := torch.randn(2, 1, 32, 40), member)
    assert torch.equal(found, F.interpolate(view, (24, 16), mode="bilinear", antialias=True, align_corners=False))
