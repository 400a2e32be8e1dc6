"""Evaluation, exported files and the service see the same pixels of the same picture, and files state how they are made."""
import io
import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import safetensors.torch
import timm
import torch
from PIL import Image
from torch import nn

from deploy import gallery_files, resize_graph, runtime
from deploy.export_module import ExportModule
from deploy.gallery import read_gallery
from deploy.model import Model
from linear_eval.features import images_of
from vision import artifact, datasets, encoders
from vision.folder import scan
from vision.pixels import normalize_images
from vision.preprocess import FIXED, Preprocessing

SIZE, MEAN, STD = 32, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def noise(width: int, height: int, channels: int = 3) -> Image.Image:
    pixels = np.random.default_rng([width, height, channels]).integers(0, 256, (height, width, channels), np.uint8)
    return Image.fromarray(pixels[..., 0] if channels == 1 else pixels)


def turned(orientation: int) -> bytes:
    """A picture that EXIF turns: a camera held sideways."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(noise(90, 30), "JPEG", exif=exif, quality=95)


def saved(image: Image.Image, kind: str = "PNG", **how) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return buffer.getvalue()


PICTURES = {
    "wide": saved(noise(96, 32)), "tall": saved(noise(31, 95)), "a row": saved(noise(50, 1)), "a column": saved(noise(1, 50)),
    "a pixel": saved(noise(1, 1)), "small": saved(noise(20, 11)), "of the size": saved(noise(SIZE, SIZE)),
    "large": saved(noise(300, 201)), "turned left": turned(6), "mirrored and turned": turned(5), "upside down": turned(3),
    "grey": saved(noise(70, 40, 1)), "transparent": saved(noise(40, 70, 4)), "palette": saved(noise(50, 40).convert("P")),
    "a large JPEG": saved(noise(640, 480), "JPEG", quality=90),
}


class Pixels(nn.Module):
    """B,C,S,S → B,C*S*S: an encoder whose features are its input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.spec, self.dim = encoders.Spec("test_resnet", channels, SIZE), channels * SIZE**2

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)


@pytest.fixture(scope="module", params=[3, 1], ids=["colour", "grey"])
def files(request, tmp_path_factory) -> tuple[artifact.EncoderHeader, Path]:
    """ONNX files of an encoder that hands out its input: plain.onnx and, with preprocessing inside, inside.onnx."""
    out, pixels = tmp_path_factory.mktemp("files"), Pixels(request.param)
    header = artifact.EncoderHeader(pixels.spec, MEAN[: request.param], STD[: request.param], pixels.dim, {})
    for name, preprocess in (("plain", False), ("inside", True)):
        runtime.write_onnx(ExportModule(pixels, header, preprocess).eval(), out / f"{name}.onnx")
    return header, out


def evaluated(header: artifact.EncoderHeader, folder: Path, body: bytes) -> np.ndarray:
    """The encoder's input in evaluation, C,S,S, by the data set of a folder with this picture in it."""
    folder.mkdir()
    (folder / "x.png").write_bytes(body)
    images = images_of(scan(folder)[0], torch.tensor([0]), SIZE, header.spec.channels)
    return normalize_images(images, torch.tensor(header.mean), torch.tensor(header.std))[0].numpy()


@pytest.mark.parametrize("kind", PICTURES)
def test_the_service_gives_the_model_what_evaluation_does(files, tmp_path, kind):
    """The same Pillow call: to the bit, but for one rounding of the normalization, which torch may fuse or not."""
    header, out = files
    expected = evaluated(header, tmp_path / "data", PICTURES[kind])
    ulp = 2.0**-22  # of numbers from 2 to 4
    for name in ("plain", "inside"):
        model = Model(out / f"{name}.onnx")
        found = model(model.preprocess(PICTURES[kind], 50)[None]).features.reshape(expected.shape)
        np.testing.assert_allclose(found, expected, rtol=0, atol=2 * ulp, err_msg=name)


@pytest.mark.parametrize("kind", [kind for kind in PICTURES if kind != "a large JPEG"])  # evaluation decodes it smaller
def test_a_file_with_preprocessing_inside_comes_within_two_grey_levels(files, tmp_path, kind):
    """Two passes, each of which may round the other way than Pillow (deploy/resize_graph.py)."""
    header, out = files
    expected = evaluated(header, tmp_path / "data", PICTURES[kind])
    channels = header.spec.channels
    upright = scan(tmp_path / "data")[0].read(0, mode="L" if channels == 1 else "RGB")
    images = np.asarray(upright).reshape(*upright.size[::-1], channels).transpose(2, 0, 1)[None]
    session = onnxruntime.InferenceSession(out / "inside.onnx")
    found = session.run(None, {"images": np.ascontiguousarray(images)})[0].reshape(expected.shape)
    levels = np.abs(found - expected) * np.array(header.std)[:, None, None] * 255
    luma = 1 if channels == 1 and kind not in ("grey", "of the size") else 0  # Pillow's grey of each pixel is rounded too
    assert levels.max() < resize_graph.LEVELS + luma + 0.01
    if kind == "of the size" and channels == 3:
        assert levels.max() < 0.01


@pytest.mark.parametrize("size", [8, 33])
@pytest.mark.parametrize(("height", "width"), [(1, 4000), (2000, 3), (65, 64), (7, 5), (601, 401)])
def test_the_graphs_weights_are_pillows(height, width, size):
    from vision.preprocess import center_square

    image = noise(width, height)
    expected = np.asarray(center_square(image, size)).astype(int)
    found = resize_graph.center_square(torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None], size)
    assert np.abs(found[0].permute(1, 2, 0).numpy() - expected).max() <= resize_graph.LEVELS


def test_a_gallery_of_export_has_the_features_of_evaluation(tmp_path):
    """Written at the encoder's size, its files are not resized once more."""
    for name, picture in (("a", "wide"), ("b", "tall"), ("a", "large"), ("b", "turned left")):
        (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
        for i in range(6):
            (tmp_path / "data" / name / f"{picture} {i}.png").write_bytes(PICTURES[picture])
    data = datasets.load("folder", root=str(tmp_path / "data"))
    gallery_files.write_gallery(data, tmp_path / "gallery", 5, SIZE)
    how = Preprocessing(SIZE, 3, MEAN, STD)
    found = sorted((tmp_path / "gallery").rglob("*.png"))
    assert len(found) == 5
    for path in found:
        expected = images_of(data.train, torch.tensor([int(path.stem)]), SIZE, 3)[0].numpy()
        with open(path, "rb") as file:
            np.testing.assert_array_equal(how.read(file), expected)
    assert not list(tmp_path.glob(".gallery*"))


def test_a_gallery_that_is_not_read_as_it_was_written_replaces_nothing(tmp_path, monkeypatch):
    from core.errors import RunError

    data = datasets.load("digits", seed=0)
    gallery_files.write_gallery(data, tmp_path / "gallery", 3)
    before = {path: path.read_bytes() for path in (tmp_path / "gallery").rglob("*.png")}
    save = Image.Image.save
    monkeypatch.setattr(Image.Image, "save", lambda image, path: save(image.point(lambda p: 255 - p), path))
    with pytest.raises(RunError, match="was not read as it was written"):
        gallery_files.write_gallery(data, tmp_path / "gallery", 5)
    assert {path: path.read_bytes() for path in (tmp_path / "gallery").rglob("*.png")} == before
    assert [path.name for path in tmp_path.iterdir()] == ["gallery"]


# ---------------------------------------------------------------------------------------------------------- what files state


def encoder_file(path: Path, channels: int = 3) -> artifact.EncoderHeader:
    torch.manual_seed(0)
    encoder = encoders.create("test_resnet", channels, SIZE).eval()
    header = artifact.EncoderHeader(encoder.spec, MEAN[:channels], STD[:channels], encoder.dim, {})
    path.write_bytes(artifact.dumps(encoder, header, {}))
    return artifact.read_header(path)


def rewritten(path: Path, change) -> None:
    """The file with another header."""
    with safetensors.safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["nolabel"])
    change(header)
    safetensors.torch.save_file(safetensors.torch.load_file(path), path, {"nolabel": json.dumps(header)})


def test_headers_state_the_preprocessing_and_older_files_mean_the_same(tmp_path, files):
    path = tmp_path / "e.safetensors"
    header = encoder_file(path)
    with safetensors.safe_open(path, "pt") as file:
        stated = json.loads(file.metadata()["nolabel"])["preprocessing"]
    assert stated == {
        "resize": "shortest side", "crop": "center", "size": SIZE, "interpolation": "bilinear", "antialias": True,
        "channels": 3, "range": [0, 1], "mean": list(MEAN), "std": list(STD),
    }
    assert Preprocessing.of(stated) == header.preprocessing == Preprocessing(SIZE, 3, MEAN, STD)
    rewritten(path, lambda content: content.pop("preprocessing"))
    assert artifact.read_header(path) == header
    session = onnxruntime.InferenceSession(files[1] / "plain.onnx")
    assert json.loads(session.get_modelmeta().custom_metadata_map["nolabel"])["preprocessing"] == files[0].preprocessing.json


@pytest.mark.parametrize(("name", "value"), [("resize", "squash"), ("interpolation", "bicubic"), ("range", [0, 255])])
def test_another_preprocessing_is_refused_instead_of_ignored(tmp_path, name, value):
    path = tmp_path / "e.safetensors"
    encoder_file(path)
    assert FIXED[name] != value
    rewritten(path, lambda content: content["preprocessing"].update({name: value}))
    with pytest.raises(ValueError, match=rf"preprocessing\.{name}=") as caught:
        artifact.load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["wide", "turned left", "transparent", "grey"])
@pytest.mark.parametrize("channels", [3, 1])
def test_the_lines_that_reports_show_make_the_input_too(tmp_path, kind, channels):
    """Within a grey level: torchvision resizes before it crops, so Pillow's 22-bit weights have another offset; a grey
    encoder's luma is rounded once more. Transparency is not laid over white there.
    """
    path = tmp_path / "e.safetensors"
    header = encoder_file(path, channels)
    names = {"timm": timm, "torch": torch, "safetensors": safetensors}
    exec(artifact.snippet(header, str(path)), names)
    image = Image.open(io.BytesIO(PICTURES[kind]))
    body = PICTURES[kind]
    if kind == "transparent":
        image, body = image.convert("RGB"), saved(image.convert("RGB"))
    found, expected = names["prepare"](image)[0].numpy(), evaluated(header, tmp_path / "data", body)
    assert found.shape == expected.shape
    assert (np.abs(found - expected) * np.array(header.std)[:, None, None] * 255).max() < (1 if channels == 3 else 3) + 0.01
    with torch.no_grad():
        features = artifact.load(path)[0](torch.from_numpy(found)[None])
        torch.testing.assert_close(names["model"](torch.from_numpy(found)[None]), features)


# ---------------------------------------------------------------------------------------------------------------- the gallery


def test_a_gallery_survives_odd_names_and_a_folder_that_takes_no_features(tmp_path, files, monkeypatch, capsys):
    _, out = files
    root = tmp_path / "gallery"
    root.mkdir()
    latin = Path(str(root) + "/caf\udce9.png")  # the byte E9: no UTF-8
    latin.write_bytes(PICTURES["wide"])
    (root / "b.png").write_bytes(PICTURES["tall"])

    def full(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(np, "savez", full)
    found, skipped = read_gallery(root, Model(out / "plain.onnx"), 50, tmp_path / "kept")
    assert (len(found), skipped) == (2, {})
    assert {found.name(i) for i in range(2)} == {"b.png", "caf\\xe9.png"}
    json.dumps([found.name(i) for i in range(2)]).encode()
    assert "note: features of the gallery are not kept" in capsys.readouterr().err
    assert not list((tmp_path / "kept").iterdir())
