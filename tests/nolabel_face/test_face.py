"""`import nolabel`: the command line's settings, runs and refusals, from any folder, and the standard library's ssl intact."""
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import ROOT
from PIL import Image
from sklearn.neighbors import NearestNeighbors

import nolabel
from core import cli
from nolabel import tools
from vision import artifact, encoders
from vision.augment import Augmentation

SMALL = dict(encoder="test_resnet", method__hidden=16, method__dim=8, batch_size=16, steps=4, evals=1, report=False)


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    """An untrained encoder's."""
    torch.manual_seed(0)
    encoder = encoders.create("test_resnet", 3, 32, "full").eval()
    path = tmp_path_factory.mktemp("encoder") / "encoder.safetensors"
    moments = Augmentation(size=32, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
    path.write_bytes(artifact.dumps(encoder, moments, {"tool": "test"}))
    return path


@pytest.fixture
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))


FOREIGN = """
import sys, http.client, urllib.request, ssl
assert not hasattr(ssl, "__path__") and ssl.__file__.endswith("ssl.py"), ssl.__file__
standard = ssl.SSLContext
sys.path.append(sys.argv[1])  # what an editable installation does
import nolabel
import ssl.losses, ssl.pretrain
assert ssl.SSLContext is standard and ssl.create_default_context().verify_mode == ssl.CERT_REQUIRED
assert http.client.HTTPSConnection("localhost")._context is not None
assert urllib.request.HTTPSHandler()
result = nolabel.pretrain(data="synthetic", **SMALL)
print("folder", result.folder)
"""


@pytest.mark.slow
def test_it_works_in_another_folder_after_the_standard_ssl(tmp_path):
    """With -P, so that no folder of the working directory stands before the standard library."""
    program = FOREIGN.replace("**SMALL", f"image_size=8, **{SMALL!r}")
    command = [sys.executable, "-P", "-c", program, str(ROOT)]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    folder = tmp_path / ended.stdout.split("folder ")[1].strip()
    assert (folder / "encoder.safetensors").exists()


def test_a_module_that_hides_a_package_is_named(tmp_path):
    (tmp_path / "core.py").write_text("")
    program = f"import sys; sys.path.append({str(ROOT)!r}); import nolabel"
    ended = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 1
    assert f"nolabel's package core is hidden by {tmp_path / 'core.py'}" in ended.stderr


def composed(monkeypatch, *arguments, **settings):
    """The settings that pretrain would run with, and the command that its provenance names."""
    from core import machine
    from ssl import pretrain as tool

    given = []
    monkeypatch.setattr(tool, "pretrain", lambda settings: given.append((settings, machine.command())))
    nolabel.pretrain(*arguments, **settings)
    return given[0]


def test_settings_are_the_command_lines(monkeypatch, tmp_path):
    from ssl.pretrain import TOOL

    given = dict(optim={"lr": 0.25}, augment__crop=[0.3, 1.0], clip=None, compile=False, out=tmp_path / "it's here")
    settings, command = composed(monkeypatch, "byol", "digits", **given)
    argv = ["--method", "byol", "--data", "digits", "--optim.lr", "0.25", "--augment.crop", "[0.3,1.0]", "--clip", "null",
            "--compile", "false", "--out", str(tmp_path / "it's here")]
    assert cli.document(settings) == cli.document(cli.from_arguments(TOOL, argv))
    assert command.startswith("python -m ssl.pretrain --method byol --data digits --optim.lr 0.25")


def test_a_folder_is_data(monkeypatch, tmp_path, picture):
    for i in range(20):
        picture.rotate(i).save(tmp_path / f"{i}.png")
    settings, _ = composed(monkeypatch, data=tmp_path, plan=False)
    assert (settings.data.name, settings.data.root) == ("folder", str(tmp_path))


@pytest.mark.parametrize(("settings", "line"), [
    (dict(method="simcrl"), "did you mean simclr?"),
    (dict(epohcs=3), "there is no setting 'epohcs'; did you mean epochs?"),
    (dict(optim__lr=-1), "optim.lr=-1.0: must be more than 0"),
    (dict(data="digit"), "did you mean digits?"),
    (dict(data=Path("nowhere")), "data=nowhere: is no folder"),
    (dict(devices=2), "devices=2: from Python a run is one process; give the command python -m ssl.pretrain"),
    (dict(budget="20m", steps=3), "steps=3: must be left out with budget=20m"),
])
def test_a_mistake_is_one_line(settings, line):
    with pytest.raises(ValueError, match=re.escape(line)) as error:
        nolabel.pretrain(**settings)
    assert "\n" not in str(error.value)


def test_children_find_the_package_called_ssl_and_the_environment_comes_back(monkeypatch):
    import os

    monkeypatch.delenv("PYTHONPATH", raising=False)
    with tools._found_by_children():
        assert os.environ["PYTHONPATH"] == str(ROOT)
    assert "PYTHONPATH" not in os.environ


def test_encode_is_the_evaluations_preprocessing(file, picture, tmp_path):
    """The oracle: torchvision's Resize and CenterCrop of the PIL image, by hand normalized."""
    from torchvision.transforms import v2

    path = tmp_path / "a.png"
    picture.save(path)
    encoder = nolabel.load(file)
    steps = v2.Compose([v2.Resize(32), v2.CenterCrop(32), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True),
                        v2.Normalize([0.4, 0.5, 0.6], [0.2, 0.3, 0.25])])
    torch.testing.assert_close(encoder.preprocess(picture), steps(picture), atol=0.03, rtol=0)  # a level of 255
    features = nolabel.encode(file, [path, str(path), picture, np.asarray(picture)], batch_size=3)
    assert features.shape == (4, encoder.header.dim)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, features[:1].repeat(4, 0), rtol=1e-5, atol=1e-6)
    with torch.inference_mode():
        np.testing.assert_allclose(features[0], encoder.model(encoder.preprocess(path)[None])[0].numpy(), rtol=1e-5, atol=1e-6)
    assert nolabel.encode(file, []).shape == (0, encoder.header.dim)
    assert len(nolabel.encode(file, path)) == 1


def test_a_turned_picture_is_upright(file, picture):
    exif = Image.Exif()
    exif[0x0112] = 6
    place = io.BytesIO()
    picture.save(place, "PNG", exif=exif)
    turned = Image.open(place)
    upright = picture.transpose(Image.Transpose.ROTATE_270)
    encoder = nolabel.load(file)
    assert torch.equal(encoder.preprocess(turned), encoder.preprocess(upright))


@pytest.mark.parametrize("image", [np.zeros((4, 4)), np.zeros((4, 4, 4), np.uint8), 7, "missing.png"])
def test_no_image_is_one_line(file, image):
    with pytest.raises(ValueError, match=r"give 8 bits|is no path|cannot be used") as error:
        nolabel.load(file).encode([image])
    assert "\n" not in str(error.value)


def test_one_array_is_not_taken_for_many_images(file, picture):
    for array in (np.asarray(picture), np.asarray(picture)[..., 0]):
        with pytest.raises(ValueError, match="is one image; give a list of images"):
            nolabel.encode(file, array)
    assert len(nolabel.encode(file, np.asarray(picture)[None])) == 1


def test_knn_is_scikit_learns():
    rng = np.random.default_rng(0)
    reference, queries = rng.normal(size=(50, 8)), rng.normal(size=(7, 8))
    distance, index = NearestNeighbors(n_neighbors=5, metric="cosine").fit(reference).kneighbors(queries)
    labels = rng.integers(0, 3, 50)
    near = nolabel.knn(reference, queries, k=5, labels=labels)
    assert (near.index == index).all()
    np.testing.assert_allclose(near.similarity, 1 - distance, atol=1e-6)
    weights = np.exp((1 - distance) / 0.07)
    votes = np.stack([(weights * (labels[index] == c)).sum(1) for c in range(3)], 1)
    assert (near.predicted == votes.argmax(1)).all()
    for wrong in (dict(k=0), dict(labels=labels[:3]), dict(labels=labels / 2)):
        with pytest.raises(ValueError, match=r"k=0|labels"):
            nolabel.knn(reference, queries, **wrong)


def test_a_file_that_is_none_is_one_line(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"is not an encoder\.safetensors of nolabel"):
        nolabel.load(tmp_path / "x.safetensors")


@pytest.mark.long
def test_the_ten_lines_of_the_page_run(tmp_path, picture):
    picture.save(tmp_path / "one.png")
    Image.new("RGB", (9, 9), "white").save(tmp_path / "two.png")
    [program] = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "python.md").read_text(), re.M | re.S)
    check = "\nassert features.shape[0] == 2 and near.index.tolist() == [[0, 1], [1, 0]] and len(scored.evaluations) == 1"
    program = f"import sys; sys.path.append({str(ROOT)!r})\n{program}{check}"
    ended = subprocess.run([sys.executable, "-P", "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.long
@pytest.mark.parametrize("name", ["photos", "features"])
def test_the_notebooks_run_and_are_what_the_script_writes(name, tmp_path, monkeypatch):
    pytest.importorskip("nbclient", reason="needs the docs group: uv sync --group docs")
    pytest.importorskip("ipykernel", reason="needs the docs group: uv sync --group docs")
    folder = ROOT / "docs" / "notebooks"
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "installed"))
    (tmp_path / "installed").mkdir()
    (tmp_path / "installed" / "nolabel").symlink_to(ROOT / "nolabel")  # as installed: nolabel alone is found
    import build

    made = build.executed(build.NOTEBOOKS[name], tmp_path)
    kept = json.loads((folder / f"{name}.ipynb").read_text())
    assert ["".join(cell["source"]) for cell in kept["cells"]] == build.NOTEBOOKS[name]
    assert len(kept["cells"]) == len(made.cells)
    assert (folder / f"{name}.ipynb").stat().st_size < 400_000
