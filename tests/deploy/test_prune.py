"""Pruning: the most important channels stay, in a file that every tool reads, within the share that was set."""
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from commands import shortened

from core import cli, training
from deploy import prune
from deploy.pruning import prune_channels, prune_weights
from deploy.settings import PruneSettings
from vision import artifact, cost, encoders, pruned
from vision.augment import Augmentation

RECIPE = Augmentation(28, (0.3,), (0.3,))


def images(count: int = 4) -> torch.Tensor:
    return torch.randn(count, 1, 28, 28, generator=torch.Generator().manual_seed(0))


SEARCHED = encoders.Spec("searched_resnet", 1, 28, "half", {"stages": (("bottleneck", 1, 32, 5), ("basic", 2, 64, 3))})


@pytest.mark.parametrize("name", shortened(["tiny", "mobilenetv3_small_050", SEARCHED]))
def test_half_of_the_multiply_adds_stay_and_the_file_holds_what_is_left(name, tmp_path):
    encoder = (encoders.create(name, 1, 28) if isinstance(name, str) else encoders.build(name)).eval()
    before = cost.macs(encoder)
    prune_channels(encoder, encoder, 0.5, 8)
    assert 0.3 * before < cost.macs(encoder) <= 0.5 * before
    (tmp_path / "encoder.safetensors").write_bytes(artifact.dumps(encoder, RECIPE, {}))
    again, header = artifact.load(tmp_path / "encoder.safetensors")
    assert header.dim == again.dim == encoder.dim
    with torch.no_grad():
        assert torch.equal(again(images()), encoder(images()))
        assert torch.equal(encoders.build(header.spec).eval()(images()).isnan(), torch.zeros(4, encoder.dim, dtype=torch.bool))
    twice = prune_channels(again, again, 0.5, 4)
    assert cost.macs(twice) <= 0.25 * before
    (tmp_path / "twice.safetensors").write_bytes(artifact.dumps(twice, RECIPE, {}))
    assert artifact.load(tmp_path / "twice.safetensors")[1].dim == twice.dim


def test_times_that_varied_are_not_compared():
    """As once measured: 497 ms before and 8.53 after became 2 %."""
    costs = {"parameters": 1.0, "macs": 2.0, "latency p50": 497.0, "latency p95": 1500.0}
    after = {"parameters": 0.5, "macs": 1.0, "latency p50": 8.53, "latency p95": 9.0}
    text = prune.PruneResult(Path("x"), costs, after).text
    assert "| macs, M | 2 | 1 | 50% |" in text
    assert "| latency p50, ms | 497 | 8.53 | not compared |" in text
    assert "Times varied too much to compare: before took 497 ms in the median, and 1.5e+03 ms at the 95th percentile." in text
    assert "| latency p50, ms | 497 | 8.53 | 2% |" in prune.PruneResult(Path("x"), costs | {"latency p95": 500.0}, after).text


def test_plain_timm_loads_it_by_the_lines_that_reports_show(tmp_path):
    encoder = prune_channels(*2 * [encoders.create("tiny", 1, 28).eval()], 0.5, 8)
    path = tmp_path / "encoder.safetensors"
    path.write_bytes(artifact.dumps(encoder, RECIPE, {}))
    scope: dict = {}
    exec(f"import safetensors.torch, timm, torch\n{artifact.snippet(artifact.read_header(path), str(path))}", scope)
    with torch.no_grad():
        assert torch.equal(scope["model"](images()), encoder(images()))


def test_channels_that_do_nothing_leave_first():
    """With half of a block's channels at zero, cutting a little changes no output."""
    torch.manual_seed(0)
    encoder = encoders.create("tiny", 1, 28).eval()
    block = encoder.layer2[0]
    with torch.no_grad():
        for tensor in (block.conv1.weight, block.bn1.weight, block.bn1.bias):
            tensor[16:] = 0
        block.conv2.weight[:, 16:] = 0
        expected = encoder(images())
    prune_channels(encoder, encoder, 0.96, 8)
    assert block.conv1.out_channels < 32
    with torch.no_grad():
        torch.testing.assert_close(encoder(images()), expected, rtol=1e-4, atol=1e-5)


def test_a_classifier_stays_one():
    from torch import nn

    encoder = encoders.create("tiny", 1, 28)
    model = artifact.Classifier(encoder, nn.Linear(encoder.dim, 7)).eval()
    prune_channels(model, encoder, 0.5, 8)
    assert model(images()).shape == (4, 7)
    assert model.head.in_features == encoder.dim < 128


def test_single_weights_become_zero_and_no_others():
    encoder = encoders.create("tiny", 1, 28)
    before = {name: p.detach().clone() for name, p in encoder.named_parameters()}
    prune_weights(encoder, 0.25)
    weights = [p.flatten() for p in encoder.parameters() if p.ndim > 1]
    assert torch.cat(weights).count_nonzero() / torch.cat(weights).numel() == pytest.approx(0.25, abs=1e-3)
    least = min(float(p[p != 0].abs().min()) for p in weights)
    for name, p in encoder.named_parameters():
        gone = (p == 0) & (before[name] != 0)
        assert torch.equal(p[~gone], before[name][~gone])
        assert not gone.any() or before[name][gone].abs().max() <= least


def test_shapes_are_of_what_differs():
    small, large = encoders.create("tiny", 1, 28), encoders.create("small", 1, 28)
    found = pruned.shapes(small, large)
    assert found["layer1.0.conv1"] == tuple(small.layer1[0].conv1.weight.shape)
    assert {n: t.shape for n, t in pruned.reshape(large, found).state_dict().items()} == {
        n: t.shape for n, t in small.state_dict().items()
    }
    with pytest.raises(ValueError, match="the unpruned one's tensors"):
        pruned.shapes(small, encoders.create("resnet18", 1, 28))


def test_as_a_command_it_overwrites_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    (tmp_path / "encoder.safetensors").write_bytes(artifact.dumps(encoders.create("tiny", 1, 28), RECIPE, {}))
    begin = partial(training.start, prune.TOOL, prune.check, prune.run)
    arguments = ["--encoder=encoder.safetensors", "--keep=0.6", "--out=out"]
    assert cli.main(prune.TOOL, begin, arguments) == 0
    assert "| macs, M |" in capsys.readouterr().out
    kept = json.loads((tmp_path / "out" / "pruned.json").read_text())
    assert kept["after"]["macs"] <= 0.6 * kept["before"]["macs"]
    assert cli.main(prune.TOOL, begin, arguments) == 2
    assert "holds encoder.safetensors already" in capsys.readouterr().err


def test_as_a_function_it_returns_the_file_and_the_costs(tmp_path):
    (tmp_path / "encoder.safetensors").write_bytes(artifact.dumps(encoders.create("tiny", 1, 28), RECIPE, {}))
    settings = PruneSettings(encoder=str(tmp_path / "encoder.safetensors"), keep=0.6, out=str(tmp_path / "out"))
    result = prune.prune(settings)
    assert cost.macs(artifact.load(result.file)[0]) == pytest.approx(result.after["macs"])
    assert result.after["macs"] <= 0.6 * result.before["macs"]
    with pytest.raises(ValueError, match=r"holds encoder\.safetensors already"):
        prune.prune(settings)
    with pytest.raises(ValueError, match="keep=2: must be a share"):
        prune.prune(replace(settings, keep=2))


@pytest.mark.parametrize(("arguments", "message"), [
    (["--encoder=x"], "encoder=x: give a file"),
    (["--encoder=x.safetensors", "--keep=1"], "keep=1.0: must be a share"),
    (["--encoder=x.safetensors", "--kind=n:m"], "kind=n:m: must be structured or unstructured"),
    (["--encoder=x.safetensors"], "no such file"),
    (["--encoder=vit.safetensors"], "cannot be pruned by channels"),
    (["--encoder=tiny.safetensors", "--keep=0.0001"], "keeps"),
])
def test_a_mistake_is_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, model in (("vit", "vit_tiny_patch16_224"), ("tiny", "tiny")):
        if any(name in argument for argument in arguments):
            encoder = encoders.create(model, 1, 28)
            (tmp_path / f"{name}.safetensors").write_bytes(artifact.dumps(encoder, RECIPE, {}))
    begin = partial(training.start, prune.TOOL, prune.check, prune.run)
    assert cli.main(prune.TOOL, begin, arguments)
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert message in lines[0]
