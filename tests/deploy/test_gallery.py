"""Galleries of any folder: names of any bytes, files that cannot be read, litter, and when features are taken anew."""
import io
import os
import unicodedata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from deploy import service
from deploy.gallery import read_gallery
from deploy.model import Outputs, read_upload
from vision.preprocess import Preprocessing


class Colors:
    """Stands for a model: an image's features are the color of its first pixel."""

    preprocessing = Preprocessing(4, 3, (0.0,) * 3, (1.0,) * 3)

    classes = None

    def __init__(self, folder: Path):
        self.path, self.metadata, self.images = folder / "model.onnx", {"encoder": "colors"}, 0
        self.path.write_bytes(b"a model")

    def preprocess(self, body: bytes, megapixels: float) -> np.ndarray:
        return read_upload(body, megapixels, self.preprocessing)[:, 0, 0].astype(np.float32)

    def __call__(self, images: np.ndarray) -> Outputs:
        self.images += len(images)
        return Outputs(None, images)


def png(*color: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), color).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def root(tmp_path) -> Path:
    """Two classes and names that are no UTF-8, of which one file is broken."""
    root = tmp_path / "gallery"
    for name, content in ((b"caf\xe9/one.png", png(255, 0, 0)), (b"line\nbreak/tw\xe9\n.png", png(0, 255, 0)),
                          (unicodedata.normalize("NFD", "thé/x.png").encode(), png(0, 0, 255)), (b"bad\xff.png", b"broken"),
                          (b"@eaDir/x.png", png(1, 1, 1)), (b"caf\xe9/._one.png", b"x"), (b"notes.txt", b"x")):
        path = root / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (root / "gone.png").symlink_to(root / "nowhere.png")
    return root


def test_any_name_can_be_read_printed_and_returned(tmp_path, root):
    found, skipped = read_gallery(root, Colors(tmp_path), 1, tmp_path / "kept")
    assert {(found.label(i), found.name(i)) for i in range(len(found))} == {
        ("caf\\xe9", "one.png"), ("line\\nbreak", "tw\\xe9\\n.png"), ("thé", "x.png")}
    assert skipped[f"{root}/bad\\xff.png"] == "the image cannot be used: not an image, or of an unknown format"
    assert skipped[f"{root}/gone.png"] == "No such file or directory"
    assert "1 .txt, 1 ._*" in skipped[str(root)]
    assert "1 @eaDir/" in skipped[str(root)]
    assert len(skipped) == 3
    "".join([*skipped, *skipped.values()]).encode()  # can be printed

    settings = SimpleNamespace(batch=4, waiting=9, megabytes=1, megapixels=1, top=3, count=3)
    with TestClient(service.build(Colors(tmp_path), found, settings)) as client:
        rows = client.post("/neighbours", content=png(0, 200, 0)).json()["neighbours"]
    assert rows[0]["class"] == "line\\nbreak"
    assert rows[0]["file"] == "tw\\xe9\\n.png"


def test_features_are_kept_until_a_file_is_another(tmp_path, root):
    """Of equal size and time of change too, as `cp -p` leaves it; and a broken file of kept features is made anew."""
    model, kept = Colors(tmp_path), tmp_path / "kept"
    first, skipped = read_gallery(root, model, 1, kept)
    again, skipped_again = read_gallery(root, model, 1, kept)
    assert (model.images, again.files, skipped_again) == (3, first.files, skipped)

    path = next(path for path in first.files if path.name == "one.png")
    before = path.stat()
    path.write_bytes(png(254, 0, 0))
    assert path.stat().st_size == before.st_size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    read_gallery(root, model, 1, kept)
    assert model.images == 6

    for file in kept.glob("*.npz"):
        file.write_bytes(file.read_bytes()[:100])
    read_gallery(root, model, 1, kept)
    assert model.images == 9


def test_a_gallery_without_images_says_what_is_there(tmp_path):
    (tmp_path / "gallery").mkdir()
    (tmp_path / "gallery" / "x.mov").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"^gallery=.* holds no image \(1 \.mov\)$"):
        read_gallery(tmp_path / "gallery", Colors(tmp_path), 1, tmp_path / "kept")
