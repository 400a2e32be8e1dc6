"""Rectangles, squashed and letterboxed images: evaluation, exported files and the service see the same pixels."""
import io

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import nn

from deploy import gallery_files, resize_graph, runtime
from deploy.export_module import ExportModule
from deploy.export_report import input_text
from deploy.model import Model
from linear_eval.features import images_of
from vision import artifact, datasets, encoders
from vision.folder import scan
from vision.geometry import CROP, FITS, LETTERBOX, SQUASH, Geometry
from vision.pixels import normalize_images
from vision.preprocess import fitted

SHAPE, MEAN, STD = (24, 40), (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
SOURCES = [(1, 400), (200, 3), (65, 64), (7, 5), (61, 401), SHAPE, (48, 80), (30, 50)]  # height, width


def noise(height: int, width: int, channels: int = 3) -> Image.Image:
    pixels = np.random.default_rng([width, height, channels]).integers(0, 256, (height, width, channels), np.uint8)
    return Image.fromarray(pixels[..., 0] if channels == 1 else pixels)


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


class Pixels(nn.Module):
    """B,3,h,w → B,3*h*w: an encoder whose features are its input."""

    def __init__(self, fit: str) -> None:
        super().__init__()
        self.spec = encoders.Spec("test_resnet", 3, SHAPE, fit=fit, fill=MEAN if fit == LETTERBOX else ())
        self.dim = 3 * SHAPE[0] * SHAPE[1]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("shape", [SHAPE, (32, 32)])
@pytest.mark.parametrize("source", SOURCES)
def test_the_graph_resizes_as_pillow(fit, shape, source):
    image = noise(*source)
    how = Geometry(*shape, fit, MEAN if fit == LETTERBOX else ())
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None]
    found = resize_graph.fitted(pixels, how)[0].numpy()
    assert np.abs(found - fitted(image, how).astype(float)).max() <= resize_graph.LEVELS
    if source == shape:
        np.testing.assert_array_equal(found, pixels[0].numpy())


@pytest.mark.parametrize("fit", FITS)
def test_evaluation_files_and_service_see_the_same_pixels(fit, tmp_path):
    """The service: to the bit, but for one rounding of the normalization. A graph that resizes: two levels of 255."""
    pixels = Pixels(fit)
    header = artifact.EncoderHeader(pixels.spec, MEAN, STD, pixels.dim, {})
    for name, inside in (("plain", False), ("inside", True)):
        runtime.write_onnx(ExportModule(pixels, header, inside).eval(), tmp_path / f"{name}.onnx")
    plain, inside = Model(tmp_path / "plain.onnx"), onnxruntime.InferenceSession(tmp_path / "inside.onnx")
    assert plain.preprocessing == header.preprocessing
    assert plain.session.get_inputs()[0].shape[1:] == [3, *SHAPE]
    assert "24×40 px" in input_text(plain.metadata)
    script = runtime.write_torchscript(ExportModule(pixels, header, False).eval(), tmp_path / "m.pt")
    (tmp_path / "data").mkdir()
    for i, source in enumerate(SOURCES):
        (tmp_path / "data" / f"{i}.png").write_bytes(png(noise(*source)))
    images = images_of(scan(tmp_path / "data")[0], torch.arange(len(SOURCES)), pixels.spec.geometry, 3)
    expected = normalize_images(images, torch.tensor(MEAN), torch.tensor(STD)).contiguous().numpy()
    np.testing.assert_array_equal(script(expected), expected.reshape(len(SOURCES), -1))
    for i, source in enumerate(SOURCES):
        body = (tmp_path / "data" / f"{i}.png").read_bytes()
        served = plain(plain.preprocess(body, 50)[None]).features.reshape(3, *SHAPE)
        np.testing.assert_allclose(served, expected[i], rtol=0, atol=2.0**-21)
        whole = np.ascontiguousarray(np.asarray(noise(*source)).transpose(2, 0, 1)[None])
        found = inside.run(None, {"images": whole})[0].reshape(3, *SHAPE)
        levels = np.abs(found - expected[i]) * np.array(STD)[:, None, None] * 255
        assert levels.max() < resize_graph.LEVELS + 0.01, source
    outputs = runtime.run_without_torch([str(tmp_path / "plain.onnx")], expected)
    np.testing.assert_array_equal(outputs[str(tmp_path / "plain.onnx")], expected.reshape(len(SOURCES), -1))


@pytest.mark.parametrize("fit", [CROP, SQUASH, LETTERBOX])
def test_a_gallery_of_export_has_the_features_of_evaluation(tmp_path, fit):
    for i, source in enumerate(SOURCES * 2):
        (tmp_path / "data" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / "ab"[i % 2] / f"{i}.png").write_bytes(png(noise(*source)))
    data, pixels = datasets.load("folder", root=str(tmp_path / "data")), Pixels(fit)
    how = artifact.EncoderHeader(pixels.spec, MEAN, STD, pixels.dim, {}).preprocessing
    gallery_files.write_gallery(data, tmp_path / "gallery", 5, pixels.spec.geometry)
    found = sorted((tmp_path / "gallery").rglob("*.png"))
    assert len(found) == 5
    for path in found:
        expected = images_of(data.train, torch.tensor([int(path.stem)]), pixels.spec.geometry, 3)[0].numpy()
        with open(path, "rb") as file:
            np.testing.assert_array_equal(how.read(file), expected)
