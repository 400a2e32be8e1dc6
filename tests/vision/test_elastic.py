"""One encoder that holds others: parts are views of its weights, and leave it as encoders of their own."""
import copy
import itertools
import random

import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from core.batchnorm import SyncBatchNorm, sync_batchnorm
from nas.space import StubTrial, largest, smallest
from nas.space import elastic as space
from vision import artifact, elastic, encoders
from vision.encoders import Spec

SIZE = 16


def spec_of(stages, stem: int = 8, **more) -> Spec:
    return Spec("searched_resnet", 1, SIZE, "half", {"stages": tuple(stages), "stem_width": stem, **more})


WHOLE = spec_of([("basic", 2, 24, 5), ("basic", 2, 32, 5)])
PART = spec_of([("basic", 1, 16, 3), ("basic", 2, 24, 5)])


@pytest.fixture
def encoder():
    encoder = elastic.elastic(encoders.build(WHOLE))
    with torch.no_grad():
        for module in encoder.modules():
            if isinstance(module, _BatchNorm):  # statistics and scales that differ from channel to channel
                for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                    tensor.uniform_(0.5, 1.5)
    return encoder


def images(count: int = 6) -> torch.Tensor:
    return torch.randn(count, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def test_a_part_has_the_leading_channels_and_the_centers_of_kernels(encoder):
    part, whole = elastic.extract(encoder, PART), dict(encoder.named_parameters())
    kernel = dict(part.named_parameters())["stages.0.0.conv1_kxk.conv.weight"]
    assert kernel.shape == (16, 8, 3, 3)
    torch.testing.assert_close(kernel, whole["stages.0.0.conv1_kxk.conv.weight"][:16, :8, 1:4, 1:4], rtol=0, atol=0)
    assert not any("stages.0.1" in name for name in part.state_dict())
    statistics = part.state_dict()["stages.1.0.conv1_kxk.bn.running_mean"]
    assert torch.equal(statistics, encoder.state_dict()["stages.1.0.conv1_kxk.bn.running_mean"][:24])


@pytest.mark.parametrize("training", [False, True])
def test_shown_inside_the_whole_it_gives_what_it_gives_alone(encoder, training):
    part = elastic.extract(encoder, PART).train(training)
    encoder.train(training)
    with encoder.activated(PART):
        features = encoder(images())
    assert features.shape == (6, 32)
    torch.testing.assert_close(features[:, :24], part(images()), rtol=1e-5, atol=1e-6)
    assert not features[:, 24:].any()


def test_gradient_reaches_the_shared_weights_and_no_others(encoder):
    part = elastic.extract(encoder, PART).train()
    encoder.train()
    with encoder.activated(PART):
        encoder(images()).square().sum().backward()
    part(images()).square().sum().backward()
    separate = {name: p.grad for name, p in part.named_parameters()}
    for name, p in encoder.named_parameters():
        if name not in separate:
            assert p.grad is None
            continue
        inside = elastic._slice(p.grad, separate[name].shape, name)
        torch.testing.assert_close(inside, separate[name], rtol=1e-3, atol=1e-4)
        assert p.grad.count_nonzero() == inside.count_nonzero()


def test_the_whole_is_untouched_by_its_parts_and_as_it_was_without_them(encoder):
    before, plain = copy.deepcopy(encoder.state_dict()), encoders.build(WHOLE)
    encoder.train()
    with torch.no_grad(), encoder.activated(PART):
        encoder(images())
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    plain.load_state_dict(before)
    assert torch.equal(encoder.eval()(images()), plain.eval()(images()))
    assert artifact.dumps(encoder, _Normalization, {}) == artifact.dumps(plain, _Normalization, {})


class _Normalization:
    mean, std = (0.5,), (0.5,)


def test_activation_ends_also_after_an_error(encoder):
    with pytest.raises(RuntimeError), encoder.activated(PART):
        encoder(torch.zeros(1, 3, SIZE, SIZE))
    assert encoder.active_spec is None
    assert copy.deepcopy(encoder).active_spec is None


def test_synchronised_norms_are_the_parts_too():
    assert not any(isinstance(m, SyncBatchNorm) for m in elastic.skeleton(PART).modules())
    whole = elastic.elastic(encoders.build(WHOLE), sync_batchnorm)
    assert any(isinstance(m, SyncBatchNorm) for m in elastic.skeleton(PART, whole.post_build).modules())


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (spec_of([("basic", 3, 16, 3), ("basic", 1, 24, 3)]), "the largest encoder has no stages.0.2"),  # deeper
        (spec_of([("basic", 1, 32, 3), ("basic", 1, 32, 3)]), "no leading part"),  # wider
        (spec_of([("basic", 1, 8, 3), ("basic", 1, 24, 3)]), None),  # its shortcut is the identity, without a tensor: a part
        (spec_of([("basic", 1, 16, 3), ("basic", 1, 24, 3)], attention="se"), "the largest encoder has no"),
        (Spec("resnet18", 1, SIZE, "small"), "the largest encoder has no"),
    ],
)
def test_what_is_no_part_is_refused_in_a_line(part, message):
    if message is None:
        elastic.check_nested(WHOLE, part)
        return
    with pytest.raises(ValueError, match=message) as caught:
        elastic.check_nested(WHOLE, part)
    assert "\n" not in str(caught.value)


def test_heads_of_a_transformer_are_no_leading_part():
    def vit(heads: int) -> Spec:
        arguments = {"img_size": SIZE, "patch_size": 4, "depth": 1, "num_heads": heads, "embed_dim": 16 * heads}
        return Spec("vit_tiny_patch16_224", 1, SIZE, "full", arguments)

    with pytest.raises(ValueError, match="qkv"):
        elastic.check_nested(vit(3), vit(2))


@pytest.mark.parametrize("size", [14, 28, 96])
def test_all_of_the_elastic_space_are_parts_of_its_largest(size):
    whole, dice = space(largest, 1, size), random.Random(0)
    drawn = [space(StubTrial(dice.randrange), 1, size) for _ in range(20)]
    for part in [space(smallest, 1, size), *drawn]:
        elastic.check_nested(whole, part)
    shapes = {tuple(itertools.chain(*spec.arguments["stages"])) for spec in drawn}
    assert len(shapes) == 20
