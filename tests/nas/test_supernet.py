"""A supernet: its loss is the mean of its parts', on one process or two, cut or whole; the search in it, as a user runs it."""
import json
import os
from functools import partial
from pathlib import Path

import pytest
import torch
from commands import ROOT, real
from processes import on
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from core import cli, gradcache, training
from core.batchnorm import sync_batchnorm
from core.method import Batch
from core.processes import local_rows, world_size, wrap
from linear_eval.features import evenly, images_of, of_encoder
from nas import search, space, supernet
from nas.evaluators import TrainEvaluator
from nas.space import StubTrial, elastic, largest, smallest
from nas.supernet_evaluator import BATCHNORM_IMAGES
from vision import artifact, encoders
from vision.data import build_data
from vision.elastic import extract

SIZE, B = 16, 8
OPTIONS = ["--data=digits", "--space=elastic", "--batch_size=64", "--method.hidden=32", "--method.dim=16"]
STUDY = [*OPTIONS, "--study=s", "--strategy=supernet", "--trials=5", "--finalists=2", "--epochs=1", "--supernet_epochs=2"]
STUDY += ["--sampler=random", "--interval=20"]
plain = partial(torch.autocast, "cpu", enabled=False)


def make_method(name: str = "simclr", dtype: torch.dtype = torch.float64, whole_only: bool = False):
    """whole_only: the method as it is, on the largest encoder."""
    smaller = {"simclr": ["method.hidden=32", "method.dim=16"], "moco_v2": ["method.queue_size=24", "method.dim=16"]}
    settings = cli.compose(supernet.TOOL, [f"method={name}", f"batch_size={B}", *smaller.get(name, [])])
    torch.manual_seed(3)
    method = training.build_method(settings, encoders.build(elastic(largest, 1, SIZE)).train())
    if not whole_only:
        method = supernet.sandwiched(method, elastic, 1, seed=5)
    method.prepare(100, B)
    with torch.no_grad():
        for module in method.modules():
            if isinstance(module, _BatchNorm) and module.affine:
                module.weight.uniform_(0.5, 1.5)  # some begin at zero, and hide what is behind them
    if world_size() > 1:
        sync_batchnorm(method)
    return method.to(dtype=dtype, memory_format=torch.channels_last)


def batch(step: int = 0, dtype: torch.dtype = torch.float64) -> Batch:
    generator = torch.Generator().manual_seed(step)
    views = [torch.randn(B, 1, SIZE, SIZE, generator=generator, dtype=torch.float64) for _ in range(2)]
    return Batch([local_rows(view.to(dtype)) for view in views], local_rows(torch.arange(B)))


def test_the_loss_is_the_mean_of_the_parts_losses():
    method = make_method()
    output = method(batch(), 0.5)
    loss, scalars = output.loss, output.scalars
    kind, losses = type(method).__mro__[2], []
    specs = method.parts(0)
    assert specs[0] is None
    assert specs[1] == elastic(smallest, 1, SIZE)
    assert len(specs) == 3
    for spec in specs:
        encoder = method.encoder if spec is None else extract(method.encoder, spec).double().train()
        D = method.encoder.dim
        rows = encoder(torch.cat(batch().views)).unflatten(0, (2, B)).transpose(0, 1)  # B,2,d
        rows = torch.nn.functional.pad(rows, (0, D - rows.shape[-1]))
        losses.append(kind.objective(method, rows, None, 0.5).loss)
    torch.testing.assert_close(loss, torch.stack(losses).mean(), rtol=1e-9, atol=0)
    torch.testing.assert_close(scalars["loss_smallest"], losses[1], rtol=1e-9, atol=0)
    assert len({float(one.detach()) for one in losses}) == 3


def test_other_parts_are_sampled_at_every_step_and_the_same_after_a_cut():
    method = make_method()
    sampled = [method.parts(step)[2] for step in range(12)]
    assert len({str(spec) for spec in sampled}) > 8
    assert sampled == [make_method().parts(step)[2] for step in range(12)]
    method.after_step(None, 0.1)
    again = make_method()
    again.load_state_dict(method.state_dict())
    assert int(again.sandwiches) == 1


def test_a_queue_takes_a_batch_a_step_however_many_parts_there_are():
    after = []
    for method in (make_method("moco_v2"), make_method("moco_v2", whole_only=True)):
        before = method.queue.rows.clone()  # K,D
        output = method(batch(), 0.5)
        assert torch.equal(method.queue.rows, before)
        method.after_step(output.staged, 0.5)
        after.append(int((method.queue.rows != before).any(dim=1).sum()))
    assert after[0] == after[1] > 0


def gradients(name: str) -> Tensor:
    method = make_method(name)
    model = wrap(method)
    loss = model(batch(), 0.4).loss
    loss.backward()
    return torch.cat([p.grad.flatten() for p in method.parameters() if p.requires_grad])


@pytest.mark.long
def test_two_processes_are_one():
    expected = gradients("simclr")
    for found in on(2, gradients, "simclr"):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_in_chunks_too_every_part_is_trained():
    method = make_method()
    gradcache.backward(method, batch(), 4, 0.4, plain)  # BatchNorm sees a chunk: no equality
    assert all(p.grad is not None and p.grad.any() for p in method.parameters() if p.requires_grad and p.ndim > 1)


@pytest.mark.parametrize(("name", "message"), [
    ("resnet", "space: "), ("vit", "space: "), ("names:resnet18,resnet34", "specs of one image size"),
])
def test_a_space_whose_encoders_do_not_nest_is_refused(name, message):
    with pytest.raises(ValueError, match=message) as caught:
        supernet.largest_spec(space.space_by_name(name), 1, 28)
    assert "\n" not in str(caught.value)


def test_statistics_are_the_average_of_the_images_batches():
    encoder = encoders.build(elastic(smallest, 1, SIZE))
    images = torch.randint(0, 256, (512, 1, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = torch.tensor([0.5]), torch.tensor([0.25])
    supernet.recompute_batchnorm(encoder, images, mean, std)
    first = encoder.stem.conv(((images.float() / 255) - 0.5) / 0.25)
    torch.testing.assert_close(encoder.stem.bn.running_mean, first.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    assert not encoder.training
    assert encoder.stem.bn.momentum == 0.1
    again = {name: t.clone() for name, t in encoder.state_dict().items()}
    supernet.recompute_batchnorm(encoder, images, mean, std)
    assert all(torch.equal(t, again[name]) for name, t in encoder.state_dict().items())


# ------------------------------------------------------------------------------------------------------------ as a command


def ended(job) -> tuple[str, str]:
    out, err = job.communicate(timeout=240)
    assert job.returncode == 0, err
    return out, err


def begin(folder: Path, *options: str, module: str):
    folder.mkdir(exist_ok=True)
    return real(*options, module=module, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})


@pytest.mark.long
def test_paused_and_resumed_it_leaves_the_same_bytes(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    jobs = [begin(tmp_path, *OPTIONS, "--epochs=2", f"--out={whole}", module="nas.supernet"),
            begin(tmp_path, *OPTIONS, "--epochs=2", "--pause_at=1", f"--out={cut}", module="nas.supernet")]
    for job in jobs:
        ended(job)
    ended(begin(tmp_path, *OPTIONS, "--epochs=2", f"--out={cut}", module="nas.supernet"))
    files = [folder / "encoder.safetensors" for folder in (whole, cut)]
    assert files[0].read_bytes() == files[1].read_bytes()
    encoder, card = artifact.load(files[0])
    assert encoder(torch.zeros(1, 1, 8, 8)).shape == (1, card.dim)


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    _, err = ended(begin(folder, *STUDY, "--parallel=2", module="nas.search"))
    assert "supernet" in err
    assert "front: trial" in err
    return folder


@pytest.mark.long
def test_all_are_evaluated_without_training_and_the_best_are_trained_further(study):
    found = json.loads((study / "runs" / "nas" / "s" / "results.json").read_text())
    trials = found["trials"]
    assert len(trials) == 5
    assert all(t["rungs"][0]["epochs"] == 0 for t in trials)
    finalists = [t for t in trials if len(t["rungs"]) == 2]
    assert len(finalists) == 2
    assert found["epochs"] == 2
    least = max(t["rungs"][0]["figures"]["knn"] for t in trials)
    assert least in [t["rungs"][0]["figures"]["knn"] for t in finalists]  # the most accurate is promoted
    assert {t["number"] for t in finalists} >= set(found["front"])


@pytest.mark.long
def test_a_parts_accuracy_is_that_of_the_file_it_begins_from(study):
    """Saved, loaded, evaluated again: the very same figure."""
    place = study / "runs" / "nas" / "s"
    found = json.loads((place / "results.json").read_text())["trials"]
    settings = cli.compose(search.TOOL, [option.lstrip("-") for option in STUDY])
    evaluator = TrainEvaluator(settings, torch.device("cpu"), build_data(settings))
    for t in (t for t in found if len(t["rungs"]) == 2):
        encoder, card = artifact.load(place / "trials" / f"{t['hash']}.safetensors")
        assert evaluator.evaluate(encoder, card, BATCHNORM_IMAGES, lambda: None)["knn"] == t["rungs"][0]["figures"]["knn"]
        assert card.origin["tool"] == "nas.supernet"


@pytest.mark.long
def test_inherited_weights_beat_random_ones(study):
    """A part's features beat an untrained encoder's of the same shape, whose statistics were recomputed alike."""
    place = study / "runs" / "nas" / "s"
    whole, card = artifact.load(place / "supernet" / "encoder.safetensors")
    settings = cli.compose(search.TOOL, [option.lstrip("-") for option in STUDY])
    evaluator = TrainEvaluator(settings, torch.device("cpu"), build_data(settings))
    images = images_of(evaluator.data.pretrain, evenly(len(evaluator.data.pretrain), 2000), 8, 1)
    spec = elastic(StubTrial(lambda count: count // 2), 1, 8)
    trained = supernet.inherited_encoder(whole, card, spec, images, torch.device("cpu"))
    torch.manual_seed(0)
    untrained = supernet.recompute_batchnorm(encoders.build(spec), images, torch.tensor(card.mean), torch.tensor(card.std))
    scores = [evaluator.evaluate(e, card, 2000, lambda: None)["knn"] for e in (trained, untrained)]
    assert scores[0] > scores[1]


@pytest.mark.parametrize(("options", "message"), [
    (["--tune=lr"], "tune=lr: must be left out"),
    (["--objectives=loss,macs"], "objectives=loss,macs: must be without loss"),
    (["--proxy=macs"], "proxy=macs: must be none"),
    (["--finalists=0"], "finalists=0: must be more than 0"),
    (["--subnets=-1"], "subnets=-1: must be 0 or more"),
    (["--compile"], "compile=True: must be false"),
])
def test_a_mistake_is_one_line(options, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(search.TOOL, search.begin, ["--strategy=supernet", "--space=elastic", *options]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert message in lines[0]


@pytest.mark.parametrize(("options", "message"), [
    (["--encoder=resnet18"], "encoder=resnet18: a supernet's encoder is the largest of space=elastic"),
    (["--compile"], "compile=true: a supernet is another encoder at every step"),
    (["--subnets=-1"], "subnets=-1: must be 0 or more"),
])
def test_a_mistake_of_the_training_alone_is_one_line(options, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    begin = partial(training.start, supernet.TOOL, supernet.check, supernet.run)
    assert cli.main(supernet.TOOL, begin, options) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert message in lines[0]


@pytest.mark.long
def test_a_space_that_does_not_nest_ends_the_search_with_the_reason(tmp_path):
    options = [option for option in STUDY if not option.startswith("--space")]
    job = begin(tmp_path, *options, "--space=resnet", module="nas.search")
    _, err = job.communicate(timeout=120)
    assert job.returncode
    assert "space=elastic is one whose encoders are all parts of the largest" in err


def test_a_source_is_described_the_same_within_the_whole():
    """`of_encoder` asks the encoder for its output alone: an elastic class is no obstacle."""
    encoder = make_method(dtype=torch.float32).encoder.eval()
    source = of_encoder("encoder", encoder, torch.tensor([0.5]), torch.tensor([0.25]), torch.device("cpu"))
    assert source.parts["pooled"][0] == slice(0, encoder.dim)
