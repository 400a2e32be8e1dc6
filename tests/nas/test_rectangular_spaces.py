"""Searches for encoders of rectangular images."""
import json
import math

import optuna
import pytest
import torch

from nas import proxies, space, supernet
from nas.space import Candidate
from vision import cost, encoders

SIZE = (24, 40)


@pytest.mark.parametrize("name", ["resnet", "resnetd", "mobile", "vit", "tabular", "elastic", "names:test_resnet"])
def test_every_point_takes_such_images(name):
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study, shapes = optuna.create_study(sampler=optuna.samplers.RandomSampler(0)), set()
    for _ in range(4):
        candidate = space.sample(study.ask(), space.space_by_name(name), 1, SIZE, [], {})
        encoder = encoders.build(candidate.spec).eval()
        assert encoder(torch.zeros(2, *candidate.spec.shape)).shape == (2, encoder.dim)
        assert cost.macs(encoder) > 0
        assert Candidate.from_json(json.loads(json.dumps(candidate.json))) == candidate
        shapes.add(candidate.spec.image_size)
    assert shapes <= {SIZE, (18, 30)}


def test_no_patch_that_divides_both_sides_is_one_line():
    with pytest.raises(ValueError, match=r"^image_size=31×40: no patch"):
        space.vit(space.smallest, 1, (31, 40))


def test_a_supernet_has_the_shape_and_proxies_look_at_it():
    spec = supernet.largest_spec(space.elastic, 1, SIZE)
    assert spec.image_size == SIZE
    encoder, images = encoders.build(spec), torch.randn(4, 1, *SIZE)
    scores = [proxies.synflow(encoder), proxies.naswot(encoder, images), *proxies.az(encoder, images).values()]
    assert all(math.isfinite(score) for score in scores)
