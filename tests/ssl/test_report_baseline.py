"""The report's baseline is the encoder that training began with: its architecture, its weights, and a name that says so."""
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import ssl.pretrain
from core import cli
from nas import supernet
from ssl import report_page
from ssl.health import Health
from vision import artifact, encoders

SMALL = ["--data=folder", "--image_size=16", "--batch_size=16", "--steps=2", "--evals=1", "--method.hidden=16"]
SMALL += ["--method.dim=8", "--trackers=none", "--device=cpu", "--workers=0"]
RESNET = [*SMALL, "--encoder=test_resnet"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """60 images of two classes."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for i in range(60):
        path = folder / "ab"[i % 2] / f"{i:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    return folder


@pytest.fixture
def measured(monkeypatch):
    """The weights of the encoders that were calibrated: first when training begins, then for the report."""
    seen, calibrated = [], Health.calibrated

    def noted(self, encoder):
        seen.append((encoder.spec, {name: value.clone() for name, value in encoder.state_dict().items()}))
        return calibrated(self, encoder)

    monkeypatch.setattr(Health, "calibrated", noted)
    return seen


def trained(root, out, *said: str, module=ssl.pretrain):
    """→ test.json and report.md of a run."""
    words, _ = cli.parse([*said, f"--data.root={root}", f"--out={out}"], module.TOOL.settings)
    assert module.run(cli.compose(module.TOOL, words)) == 0
    return json.loads((out / "test.json").read_text()), (out / "report.md").read_text()


def assert_the_same(measured) -> None:
    (spec, first), (again, last) = measured
    assert spec == again
    assert first.keys() == last.keys()
    assert all(torch.equal(first[name], last[name]) for name in first)


def test_of_an_ordinary_run(root, tmp_path, measured, capsys):
    scores, report = trained(root, tmp_path / "run", *RESNET)
    assert_the_same(measured)
    assert list(scores) == ["raw pixels", "HOG", "untrained", "pretrained"]
    assert "untrained: the same architecture with the random weights" in report


def test_a_report_that_fails_leaves_the_run_finished(root, tmp_path, monkeypatch, capsys):
    def broken(*given):
        raise ZeroDivisionError("of nothing")

    monkeypatch.setattr(report_page, "feature_sections", broken)
    _, report = trained(root, tmp_path / "part", *RESNET)
    assert "## Curves" in report
    assert "## Spectrum" not in report
    monkeypatch.setattr(report_page, "tiles", broken)
    words, _ = cli.parse([*RESNET, f"--data.root={root}", f"--out={tmp_path / 'none'}"], ssl.pretrain.TOOL.settings)
    assert ssl.pretrain.run(cli.compose(ssl.pretrain.TOOL, words)) == 0
    left = {path.name for path in (tmp_path / "none").iterdir()}
    assert {"encoder.safetensors", "test.json"} <= left
    assert not {"report.md", "report.html"} & left
    printed = capsys.readouterr()
    assert "note: the report is without what the features hold (ZeroDivisionError: of nothing)" in printed.err
    assert "note: no report (ZeroDivisionError: of nothing)" in printed.err
    assert "Health: " in printed.out.rpartition("encoder: ")[0].rpartition("\n# ")[2]


@pytest.mark.long
def test_of_a_supernet(root, tmp_path, measured, capsys):
    """Whose words say nothing of its encoder, so that they would build the default one."""
    scores, _ = trained(root, tmp_path / "run", *SMALL, "--space=elastic", "--subnets=0", module=supernet)
    assert_the_same(measured)
    assert "untrained" in scores


def test_of_a_method_that_changes_the_encoder(root, tmp_path, measured, capsys):
    """MoCo v3 gives a transformer fixed positions before training begins."""
    words = [word for word in SMALL if not word.startswith("--image_size")]
    trained(root, tmp_path / "run", *words, "--image_size=32", "--encoder=test_vit", "--method=moco_v3_vit")
    assert_the_same(measured)


@pytest.mark.slow
def test_a_run_that_adapts_has_the_rival_of_a_run_from_scratch(root, tmp_path, measured, capsys):
    """Its start keeps the weights' own statistics; the untrained encoder has this data's, and the weights of the run's seed."""
    torch.manual_seed(9)
    encoder = encoders.create("test_resnet", 3, 16, "full")
    with torch.no_grad():
        encoder.train()(torch.randn(8, 3, 16, 16))  # statistics that no data here have
    recipe = SimpleNamespace(mean=torch.zeros(3), std=torch.ones(3), pixels=None)
    file = tmp_path / "encoder.safetensors"
    file.write_bytes(artifact.dumps(encoder, recipe, {}))
    scores, _ = trained(root, tmp_path / "adapted", *SMALL, f"--encoder={file}", "--adapt")
    assert list(scores) == ["raw pixels", "HOG", "before training", "untrained", "pretrained"]
    (_, rival), = measured
    measured.clear()
    trained(root, tmp_path / "scratch", *RESNET, "--stem=full")
    assert all(torch.equal(value, measured[0][1][name]) for name, value in rival.items())


@pytest.mark.long
def test_of_an_encoder_from_a_file(root, tmp_path, measured, capsys):
    """It is not untrained, and is not called so; by scratch=true it is."""
    trained(root, tmp_path / "first", *RESNET)
    file = tmp_path / "first" / "encoder.safetensors"
    measured.clear()
    scores, report = trained(root, tmp_path / "second", *SMALL, f"--encoder={file}")
    assert_the_same(measured[:2])  # the third is the untrained one
    assert list(scores) == ["raw pixels", "HOG", "before training", "untrained", "pretrained"]
    assert report.count("| untrained |") == 1, "on test images alone"
    assert report.count("| before training |") == 2, "on validation and on test images"
    assert f"before training: the weights that training began with, of {file}" in report
    measured.clear()
    scores, report = trained(root, tmp_path / "third", *SMALL, f"--encoder={file}", "--scratch")
    assert_the_same(measured)
    assert list(scores) == ["raw pixels", "HOG", "untrained", "pretrained"]
