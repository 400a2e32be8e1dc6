"""One process and two give one curve: 20 steps of the real loop at the same global batch, for each method."""
from dataclasses import replace

import pytest
import torch
from commands import SMALL, shortened
from processes import on

METHODS = {
    "simclr": [],
    "moco_v2": ["--method.queue_size=64", "--method.bn_splits=2"],
    "moco_v2, sync": ["--method.queue_size=64", "--method.bn=sync"],
    "moco_v3": [],
}


def curve(name: str, out: str, rate: float = 1.0) -> list[float]:
    """Losses of 20 steps, in float64, by the objects of ssl/pretrain.py.  rate: times the learning rate."""
    from core import cli, loop, processes, training
    from core.processes import World, rank, world_size
    from core.run import Run
    from ssl.pretrain import TOOL
    from vision import loaders
    from vision.build import build_encoder
    from vision.data import build_data

    said, _ = cli.parse([*SMALL, "--steps=20", f"--method={name.split(',')[0]}", *METHODS[name]])
    words = cli.compose(TOOL, said)
    world = World(rank(), world_size(), rank(), world_size(), torch.device("cpu"))
    torch.manual_seed(0)
    dataset = build_data(words)
    encoder, recipe = build_encoder(words, dataset)
    method = training.build_method(words, encoder).double()
    deal = loaders.BatchSampler(len(dataset.pretrain), words.batch_size, words.seed, world)
    optimizer, config = training.build(words, method, world, deal.steps_an_epoch, None, evals=frozenset())
    batches = loaders.loader(dataset.pretrain, recipe, deal, encoder.spec.channels).batches(0, config.steps)
    doubled = (replace(b, views=[view.double() for view in b.views]) for b in batches)
    run = Run(f"{out}/{world.size}-{rate}", {})
    run.begin()
    config = replace(config, rate=lambda p, at=config.rate: rate * at(p))
    loop.train(method, doubled, optimizer, config, run, world.device, evaluate=lambda step: {})
    assert processes.world_size() == world.size
    return [row["loss"] for row in run.metrics()] if processes.is_main() else []


@pytest.mark.long
@pytest.mark.parametrize("name", shortened(METHODS))
def test_one_process_and_two_give_one_curve(tmp_path, name):
    """float64, where rounding stays rounding: a change of 1e-12 in the weights is 4e-10 after 12 steps (measured), and
    the rows of metrics.jsonl hold 8 digits. A learning rate that is wrong by 1 % shows that the curves could differ.
    """
    two = on(2, curve, name, str(tmp_path))[0]
    one = on(1, curve, name, str(tmp_path))[0]
    other = on(1, curve, name, str(tmp_path), 1.01)[0]
    assert len(one) == len(two) == 20
    apart = max(abs(a - b) / a for a, b in zip(one, two, strict=True))
    yardstick = max(abs(a - b) / a for a, b in zip(one, other, strict=True))
    assert apart < 1e-7
    assert yardstick > 100 * 1e-7
