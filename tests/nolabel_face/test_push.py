"""`python -m nolabel.push`: what it writes is timm's, to the last bit, without anything of ours."""
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import nn

from nolabel import push
from vision import artifact, encoders
from vision.augment import Augmentation

MOMENTS = Augmentation(size=32, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
ORIGIN = {"tool": "ssl.pretrain", "words": {"method": "simclr", "epochs": 3}}


def written(folder: Path, name: str, stem: str = "full", size: int = 32, **options) -> Path:
    torch.manual_seed(0)
    encoder = encoders.create(name, 3, size, stem)
    encoder.train()(torch.randn(4, 3, size, size))  # BatchNorm statistics that are not the default
    path = folder / "encoder.safetensors"
    path.write_bytes(artifact.dumps(encoder.eval(), MOMENTS, ORIGIN, **options))
    return path


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "mobilenetv3_small_050"])
@pytest.mark.slow
def test_timm_loads_it_exactly(name, tmp_path):
    path = written(tmp_path, name)
    (tmp_path / "test.json").write_text(json.dumps({"raw pixels": {"knn": 81.0}, "pretrained": {"knn": 91.25, "knn_std": 1}}))
    folder = push.write_timm(path, tmp_path / "out")
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    images = torch.randn(3, 3, 32, 32)
    torch.save(images, tmp_path / "images.pt")
    program = (f"import sys, timm, torch; images = torch.load({str(tmp_path / 'images.pt')!r}); "
               f"model = timm.create_model({f'local-dir:{folder}'!r}, pretrained=True).eval(); "
               "assert not {'vision', 'nolabel'} & {*sys.modules}; "
               f"torch.save(model(images).detach(), {str(tmp_path / 'features.pt')!r})")
    ended = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    encoder, _ = artifact.load(path)
    with torch.inference_mode():
        torch.testing.assert_close(torch.load(tmp_path / "features.pt"), encoder(images), rtol=1e-5, atol=1e-6)
    card = (folder / "README.md").read_text()
    assert "| pretrained | 91.2 |" in card
    assert "| raw pixels | 81.0 |" in card
    assert "- method: simclr" in card
    assert "pipeline_tag: image-feature-extraction" in card


def test_timms_transform_makes_the_encoders_input(tmp_path):
    from PIL import Image

    path = written(tmp_path, "test_resnet")
    folder = push.write_timm(path, tmp_path / "out")
    model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    from nolabel import load

    torch.testing.assert_close(transform(image), load(path).preprocess(image), atol=0.03, rtol=0)  # a level of 255


def test_a_classifier_keeps_its_head_and_names(tmp_path):
    encoder = encoders.create("test_resnet", 3, 32, "full")
    head = nn.Linear(encoder.dim, 2)
    path = tmp_path / "classifier.safetensors"
    path.write_bytes(artifact.dumps(encoder.eval(), MOMENTS, ORIGIN, head, ("cat", "dog")))
    folder = push.write_timm(path, tmp_path / "out")
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(model(images), artifact.load_classifier(path)[0](images))
    assert json.loads((folder / "config.json").read_text())["label_names"] == ["cat", "dog"]


@pytest.mark.parametrize(("name", "stem", "why"), [
    ("resnet18", "small", "its stem (small) is not timm's; pretrain with --stem full"),
    ("lenet5", "full", "lenet5 is a network that timm does not have"),
])
def test_what_timm_cannot_express_is_refused(name, stem, why, tmp_path, capsys):
    path = written(tmp_path, name, stem)
    assert push.main(["--encoder", str(path), "--folder", str(tmp_path / "out")]) == 2
    line = capsys.readouterr().err
    assert why in line
    assert "deploy.export" in line
    assert line.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["encoder.safetensors"]


def test_nothing_is_overwritten_and_a_missing_file_is_one_line(tmp_path, capsys):
    path = written(tmp_path, "test_resnet")
    (tmp_path / "out").mkdir()
    assert push.main(["--encoder", str(path), "--folder", str(tmp_path / "out")]) == 2
    assert "is there already" in capsys.readouterr().err
    assert push.main(["--encoder", str(tmp_path / "x.safetensors"), "--folder", str(tmp_path / "new")]) == 2
    assert capsys.readouterr().err.strip().endswith("no such file")


def test_the_hub_gets_the_same_files(tmp_path, monkeypatch):
    """A stand-in for the Hub: nothing leaves the machine."""
    import huggingface_hub

    sent = {}

    class Hub:
        def create_repo(self, repository, private, exist_ok):
            sent.update(repository=repository, private=private)
            return f"hub/{repository}"

        def upload_folder(self, repo_id, folder_path, commit_message):
            sent["files"] = sorted(p.name for p in Path(folder_path).iterdir())

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    assert push.upload(written(tmp_path, "test_resnet"), "me/mine") == "hub/me/mine"
    assert sent == {"repository": "me/mine", "private": True, "files": ["README.md", "config.json", "model.safetensors"]}
