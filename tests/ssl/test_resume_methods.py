"""Killed in the middle of an epoch and started again, every method ends with the bytes of a run that was left alone."""
import pytest
import torch
from commands import shortened
from small_methods import NAMES, words_of

from core import loop, training
from core.processes import World
from core.run import Run
from vision import loaders
from vision.build import build_encoder
from vision.data import build_data

STEPS = 6


class Killed(Exception):
    pass


def trained(name: str, folder, killed_at: int | None = None, *more: str) -> dict[str, torch.Tensor]:
    """What the method holds after STEPS steps, saved after the third; killed_at: the step whose batch never comes."""
    words = words_of(name, "data=synthetic", f"steps={STEPS}", "batch_size=16", "optim.warmup=0", *more)
    device = torch.device("cpu")
    world = World(0, 1, 0, 1, device)
    run = Run(folder, {})
    torch.manual_seed(7)
    dataset = build_data(words)
    encoder, recipe = build_encoder(words, dataset)
    method = training.build_method(words, encoder)
    deal = loaders.BatchSampler(48, words.batch_size, words.seed, world)  # epochs of 3 steps
    method.prepare(deal.images, deal.batch_size)
    optimizer, config = training.build(words, method, world, deal.steps_an_epoch, None, evals=frozenset({4}))
    batches = loaders.loader(dataset.pretrain, recipe, deal, encoder.spec.channels).batches

    def until_killed():
        for step, batch in enumerate(batches(run.step, STEPS), start=run.step):
            if step == killed_at:
                raise Killed
            yield batch

    run.restore(method, optimizer)
    run.begin()
    loop.train(method, until_killed(), optimizer, config, run, device, evaluate=lambda step: {})
    momenta = {f"optimizer {i} {key}": value for i, s in enumerate(optimizer.state.values()) for key, value in s.items()}
    return method.state_dict() | {key: value for key, value in momenta.items() if isinstance(value, torch.Tensor)}


@pytest.mark.parametrize("name", shortened(NAMES, 5))
def test_killed_and_started_again_ends_with_the_same_bytes(name, tmp_path):
    alone = trained(name, tmp_path / "alone")
    with pytest.raises(Killed):
        trained(name, tmp_path / "run", 5)  # after the save of step 4, in the second epoch
    again = trained(name, tmp_path / "run")
    assert alone.keys() == again.keys()
    different = [key for key in alone if not torch.equal(alone[key], again[key])]
    assert different == []


def test_the_comparison_would_see_a_forgotten_queue(tmp_path, monkeypatch):
    alone = trained("nnclr", tmp_path / "alone")
    with pytest.raises(Killed):
        trained("nnclr", tmp_path / "run", 5)
    restore = Run.restore

    def forgetful(self, method, optimizer):
        fresh = method.queue.rows.clone()
        restore(self, method, optimizer)
        method.queue.rows.copy_(fresh)

    monkeypatch.setattr(Run, "restore", forgetful)
    again = trained("nnclr", tmp_path / "run")
    assert not torch.equal(alone["queue.rows"], again["queue.rows"])
