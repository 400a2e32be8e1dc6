"""Images of 13 bands from a folder to the service: pretraining, evaluation, export, requests."""
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from skimage import data as pictures

from core import cli
from deploy import export, gallery
from deploy.model import Model, RequestError
from linear_eval import evaluate
from ssl import pretrain
from vision import artifact

BANDS = 13


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Three classes of crops of photographs, their colors mixed to 13 bands of 12 bits."""
    root, rng = tmp_path_factory.mktemp("bands"), np.random.default_rng(0)
    mix = rng.dirichlet(np.ones(3), BANDS)
    for name in ("astronaut", "coffee", "chelsea"):
        picture = getattr(pictures, name)() / 255
        (root / name).mkdir()
        for i in range(20):
            y, x = rng.integers(0, picture.shape[0] - 40), rng.integers(0, picture.shape[1] - 44)
            bands = np.einsum("hwc,bc->bhw", picture[y : y + 40, x : x + 44], mix)
            bands *= np.linspace(1000, 4000, BANDS)[:, None, None]
            tifffile.imwrite(root / name / f"{i:02d}.tif", bands.astype(np.uint16), photometric="minisblack",
                             planarconfig="separate", compression="zlib")
    return root


def settings(tool, root, *words):
    return cli.compose(tool, ["data=folder", f"data.root={root}", *words])


@pytest.mark.long
def test_thirteen_bands_from_pretraining_to_the_service(root, tmp_path, capfd):
    run = pretrain.pretrain(settings(
        pretrain.TOOL, root, "method=simclr", "image_size=16", "encoder=tiny", "epochs=1", "batch_size=16", "workers=0",
        f"out={tmp_path / 'run'}", "trackers=none",
    ))
    assert run.finished
    assert "images of 13 bands are read as numbers" in capfd.readouterr().err
    file = f"encoder={run.encoder}"
    evaluate.evaluate(settings(evaluate.TOOL, root, file, "parts=[knn]", f"out={tmp_path / 'eval'}", "workers=0"))
    assert (tmp_path / "eval" / "report.html").is_file()

    with pytest.raises(ValueError, match="preprocess=true: bands and range"):
        export.export(settings(export.TOOL, root, file, "preprocess=true", f"out={tmp_path / 'no'}"))
    with pytest.raises(ValueError, match=r"gallery=5: .* deploy\.serve --gallery"):
        export.export(settings(export.TOOL, root, file, "gallery=5", f"out={tmp_path / 'no'}"))
    result = export.export(settings(export.TOOL, root, file, "int8=none", f"out={tmp_path / 'export'}"))
    assert "13-band images" in result.page.markdown
    model = Model(tmp_path / "export" / "model.onnx")
    encoder, header = artifact.load(run.encoder)
    assert model.preprocessing == header.preprocessing

    path = sorted(root.rglob("*.tif"))[7]
    stored = torch.from_numpy(tifffile.imread(path).astype(np.float32))
    low, high = (torch.tensor(v)[:, None, None] for v in (header.pixels.low, header.pixels.high))
    mean, std = (torch.tensor(v)[:, None, None] for v in (header.mean, header.std))
    square = ((stored - low) / (high - low)).clamp(0, 1)[None]
    square = torch.nn.functional.interpolate(square, (16, 17), mode="bilinear", antialias=True)[..., 0:16]
    x = model.preprocess(path.read_bytes(), 40)
    torch.testing.assert_close(torch.from_numpy(x), (square[0] - mean) / std, atol=1e-4, rtol=0)
    with torch.no_grad():
        exact = encoder(torch.from_numpy(x[None]))
    torch.testing.assert_close(torch.from_numpy(model(x[None]).features), exact, atol=1e-4, rtol=1e-4)

    found, left_out = gallery.read_gallery(root, model, 40, tmp_path / "cache")
    assert (len(found), left_out) == (60, {})
    number, similarity = found.nearest(model(x[None]).features[0], 1)[0]
    assert found.files[number] == path
    assert similarity == pytest.approx(1, abs=1e-5)
    Image.new("RGB", (20, 20)).save(tmp_path / "rgb.png")
    with pytest.raises(RequestError, match="3 bands, where the others have 13"):
        model.preprocess((tmp_path / "rgb.png").read_bytes(), 40)
