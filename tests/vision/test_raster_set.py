"""Folders of images that are no 8-bit gray or RGB ones: which bands, which range, which figures, and what stays as it was."""
import io
import json
import os
from dataclasses import replace

import cv2
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from pydicom import dcmread
from pydicom.data import get_testdata_file
from torchvision.transforms.functional import resized_crop

from core import cli
from core.identity import identity
from core.processes import World
from ssl.pretrain import TOOL
from vision import artifact, datasets, encoders
from vision.augment import Augmentation, render
from vision.build import build_encoder
from vision.color_settings import refuse_color, without_color
from vision.data import build_data
from vision.loaders import BatchSampler, loader
from vision.pixel_format import SETTINGS, PixelRequest
from vision.pixels import normalize_images
from vision.preprocess import preprocessing_in
from vision.raster_split import RasterFiles
from vision.reading import Reading
from vision.splits import Images
from vision.streamed import Files

BANDS = 13
ONE = World(0, 1, 0, 1, torch.device("cpu"))


def request(**options) -> PixelRequest:
    return PixelRequest.of(options)


def load(root, labels="auto", **options):
    return datasets.load("folder", str(root), labels=labels, reading=Reading(pixels=request(**options)))


def write(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    how = {"photometric": "minisblack"} | ({"planarconfig": "separate"} if array.ndim == 3 else {})
    tifffile.imwrite(path, array, **how | options)
    return path


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two classes of 12 images of 13 bands, 12 bits, of several sizes; each band of another brightness."""
    root, rng = tmp_path_factory.mktemp("bands"), np.random.default_rng(0)
    for i in range(24):
        shape = (BANDS, 20 + i % 3, 26)
        array = rng.normal(np.linspace(300, 3000, BANDS)[:, None, None], 100, shape).clip(0, 4095).astype(np.uint16)
        write(root / ("a" if i % 2 else "b") / f"{i:02d}.tif", array, compression="zlib")
    return root


def stored(split: Files) -> list[np.ndarray]:
    return [tifffile.imread(split.path(i)).astype(np.float64) for i in range(len(split))]


def flat(arrays: list[np.ndarray]) -> np.ndarray:
    """C,H,W each → C,N"""
    return np.concatenate([a.reshape(len(a), -1) for a in arrays], axis=1)


def test_bands_are_found_and_measured_on_training_images_alone(root):
    data = load(root)
    assert (data.channels, data.classes, len(data.train), len(data.test)) == (BANDS, ("a", "b"), 17, 5)
    values = flat(stored(data.train))
    low, high = np.percentile(values, (0.5, 99.5), axis=1)
    np.testing.assert_allclose(data.pixels.low, low)
    np.testing.assert_allclose(data.pixels.high, high)
    x = ((values - low[:, None]) / (high - low)[:, None]).clip(0, 1)
    np.testing.assert_allclose(data.mean, x.mean(1), atol=1e-6)
    np.testing.assert_allclose(data.std, x.std(1), atol=1e-6)
    everything = flat([*stored(data.train), *stored(data.validation), *stored(data.test)])
    assert not np.allclose(np.percentile(everything, 99.5, axis=1), high)
    assert "13 bands" in data.notes[0]
    assert "data.range=[low,high] declares" in data.notes[0]


def test_images_are_float_in_the_unit_range(root):
    data = load(root, bands=[4, 1], range=[0, 4095])
    images = data.train.resized(torch.tensor([3, 5]), 20)
    assert (images.shape, images.dtype) == ((2, 2, 20, 20), torch.float32)
    square = load(root, bands=[4, 1], range=[0, 4095]).train
    first = next(i for i in range(len(square)) if tifffile.imread(square.path(i)).shape[1] == 20)
    exact = tifffile.imread(square.path(first))[[3, 0], :, 3:23] / 4095
    np.testing.assert_allclose(square.resized(torch.tensor([first]), 20)[0], exact, atol=1e-6)


def test_a_range_a_band(root):
    data = load(root, bands=[1, 2], range=[[0, 1000], [0, 2000]])
    assert (data.pixels.low, data.pixels.high) == ((0.0, 0.0), (1000.0, 2000.0))
    with pytest.raises(ValueError, match=r"data.range has 2 pairs for 13 bands"):
        load(root, range=[[0, 1], [0, 2]])


def test_nodata_and_nan_are_in_no_figure(tmp_path):
    rng = np.random.default_rng(1)
    for i in range(12):
        array = rng.random((2, 16, 16), dtype=np.float32) * 10
        array[:, :4], array[0, 5] = -9999, np.nan
        array[1, 6] = np.inf
        write(tmp_path / f"{i:02d}.tif", array)
    data = load(tmp_path, bands="all", range=[0, 10], nodata=-9999)
    first, second = flat(stored(data.train)) / 10
    first, second = (values[np.isfinite(values) & (values >= 0)] for values in (first, second))
    np.testing.assert_allclose(data.mean, [first.mean(), second.mean()], atol=1e-6)
    np.testing.assert_allclose(data.std, [first.std(), second.std()], atol=1e-6)
    image = data.train.resized(torch.tensor([0]), 16)[0]
    np.testing.assert_allclose(image[:, :4], np.broadcast_to(np.array(data.mean)[:, None, None], (2, 4, 16)), atol=1e-6)
    assert torch.isfinite(image).all()
    measured = load(tmp_path, bands="all", range="percentile", nodata=-9999)
    assert measured.pixels.low[0] == pytest.approx(np.percentile(first * 10, 0.5), abs=1e-6)


def test_geotiffs_own_nodata_is_left_out(tmp_path):
    for i in range(10):
        array = np.full((2, 8, 8), 100 + i, np.uint16)
        array[:, 0] = 65535
        write(tmp_path / f"{i}.tif", array, extratags=[(42113, "s", 0, "65535", True)])
    assert max(load(tmp_path, range="percentile").pixels.high) < 200


def test_a_wrong_number_of_bands_is_named_by_file(root, tmp_path):
    for i in range(9):
        write(tmp_path / f"{i}.tif", np.full((5 if i else 4, 8, 8), i, np.uint16))
    data = load(tmp_path)
    why = "4 bands, where the others have 5; data.bands chooses bands that all have"
    assert list(data.skipped.items()) == [(str(tmp_path / "0.tif"), why)]
    with pytest.raises(ValueError, match=r"data.bands=\[7\]: there are 5, as in .*1.tif"):
        load(tmp_path, bands=[7])
    assert not load(tmp_path, bands=[4, 2]).skipped
    with pytest.raises(ValueError, match=r"0.tif \(4 bands, where the others have 5"):
        datasets.load("folder", str(tmp_path), max_corrupt=0)


def test_a_constant_band_is_said_and_stays_zero(tmp_path):
    rng = np.random.default_rng(2)
    for i in range(8):
        array = rng.integers(0, 99, (3, 8, 8)).astype(np.uint16)
        array[1] = 7
        write(tmp_path / f"{i}.tif", array)
    data = load(tmp_path, range="percentile")
    assert data.std[1] == 1
    assert any("channel 2 of the input: the same value" in note for note in data.notes)
    x = normalize_images(data.train.resized(torch.tensor([0]), 8), torch.tensor(data.mean), torch.tensor(data.std))
    assert (x[:, 1] == 0).all()


def test_npy_npz_and_deep_png(tmp_path):
    rng = np.random.default_rng(3)
    for i in range(8):
        array = rng.integers(0, 4096, (40, 44, 3), dtype=np.uint16)
        np.save(tmp_path / f"a{i}.npy", array.transpose(2, 0, 1))
        np.savez_compressed(tmp_path / f"b{i}.npz", x=array)
    data = load(tmp_path, range=[0, 4095])
    assert (data.channels, len(data.train) + len(data.validation), data.skipped) == (3, 16, {})
    assert load(tmp_path).channels == 3  # nothing else is there, so they are the images
    png = tmp_path / "png"
    png.mkdir()
    for i in range(8):
        cv2.imwrite(str(png / f"{i}.png"), rng.integers(0, 4096, (40, 44), dtype=np.uint16))
    levels = load(png, range=[0, 4095]).train.resized(torch.tensor([0]), 40)
    assert len(levels.unique()) > 1000
    eight = load(png)
    assert eight.pixels is None
    assert "more than 8 bits a channel" in eight.notes[0]
    assert len(eight.train.resized(torch.tensor([0]), 40).unique()) <= 17


def test_rgba_is_data_where_it_is_declared(tmp_path):
    rng = np.random.default_rng(4)
    for i in range(8):
        Image.fromarray(rng.integers(0, 256, (9, 9, 4), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    assert load(tmp_path, bands=[1, 2, 3, 4]).channels == 4
    assert load(tmp_path, range=[0, 255]).channels == 3
    assert load(tmp_path).pixels is None


def test_dicom_by_its_window_or_by_a_range(tmp_path):
    for i in range(8):
        data = dcmread(get_testdata_file("MR_small.dcm", download=False))
        data.WindowCenter = 600 + i
        data.save_as(tmp_path / f"{i}.dcm")
    found = load(tmp_path)
    assert found.pixels.reading.window
    assert found.channels == 1
    assert found.train.resized(torch.tensor([0]), 64).max() <= 1
    units = load(tmp_path, range=[0, 2000])
    stored = dcmread(units.train.path(0)).pixel_array
    np.testing.assert_allclose(units.train.resized(torch.tensor([0]), 64)[0, 0], (stored / 2000).clip(0, 1), atol=1e-6)
    ct = tmp_path / "ct"
    ct.mkdir()
    for i in range(6):
        dcmread(get_testdata_file("CT_small.dcm", download=False)).save_as(ct / f"{i}.dcm")
    assert not load(ct).pixels.reading.window  # it has none
    assert "percentile" in load(ct).notes[0]


def test_gray_and_rgb_folders_stay_as_they_are(tmp_path):
    rng = np.random.default_rng(5)
    for i in range(10):
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    np.save(tmp_path / "mask.npy", np.zeros((20, 24)))
    data = load(tmp_path)
    assert type(data.train) is Files
    assert data.pixels is None
    assert (data.mean, data.std) == datasets.STATISTICS["imagenet"]
    assert data.train.resized(torch.tensor([0]), 8).dtype == torch.uint8
    assert data.notes == ["1 .npy left out beside other images; data.range or data.bands takes all of them, as numbers"]
    for page in range(3):
        tifffile.imwrite(tmp_path / "pages.tif", np.full((20, 24), page, np.uint8), append=page > 0)
    assert "several pages" in str(load(tmp_path).notes)


def test_other_data_sets_refuse_bands():
    with pytest.raises(ValueError, match=r"data.bands, data.range, .*data=digits has 8-bit"):
        datasets.load("digits", reading=Reading(pixels=request(bands=[1])))
    assert isinstance(datasets.load("digits", reading=Reading(pixels=request())).train, Images)


# ---------------------------------------------------------------------------------------------------------- views, header


def test_views_are_torchvisions_and_the_same_from_any_worker(root):
    data = load(root, bands=[1, 5, 13, 2], range=[0, 4095])
    views = Augmentation(8, data.mean, data.std, jitter=0, grey=0, blur=0, solarize=0)
    deal = BatchSampler(len(data.train), 8, 0, ONE)
    (batch,) = loader(data.train, views, deal, 4, 0).batches(0, 1)
    mean, std = (torch.tensor(v)[:, None, None] for v in (data.mean, data.std))
    sizes = [tifffile.imread(data.train.path(i)).shape[1:] for i in batch.indices.tolist()]
    params = views.sample_params(0, 0, batch.indices, *torch.tensor(sizes).T)
    for number, (view, p) in enumerate(zip(batch.views, params, strict=True)):
        assert view.shape == (8, 4, 8, 8)
        for row, index in enumerate(batch.indices.tolist()):
            x = torch.from_numpy(tifffile.imread(data.train.path(index))[[0, 4, 12, 1]] / 4095).float()
            exact = resized_crop(x, *p.box[row].tolist(), [8, 8], antialias=True)
            exact = (exact.flip(-1) if p.flip[row] else exact) - mean
            torch.testing.assert_close(view[row], exact / std, atol=2e-5, rtol=1e-5, msg=f"view {number}, image {row}")
    (other,) = loader(data.train, views, deal, 4, 1).batches(0, 1)
    for one, two in zip(batch.views, other.views, strict=True):
        assert torch.equal(one, two)


def test_whole_float_images_are_rendered_as_bytes_are():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (6, 3, 20, 20), dtype=torch.uint8, generator=generator)
    views = Augmentation(16, (0.5,) * 3, (0.25,) * 3)
    params = views.sample_params(0, 0, torch.arange(6), 20, 20)[0]
    eight, real = (render(x, params, 16, views.mean, views.std) for x in (images, images.float() / 255))
    torch.testing.assert_close(eight, real, atol=2e-4, rtol=0)


def test_rendering_leaves_float_crops_as_they_are():
    """Flips are done in place where a CPU does them: not on the caller's crops."""
    crops = torch.rand(6, 13, 8, 8, generator=torch.Generator().manual_seed(0))
    before, augmentation = crops.clone(), Augmentation(8, [0.5] * 13, [0.2] * 13, flip=0.5, jitter=0, grey=0, blur=0)
    params = augmentation.sample_params(0, 0, torch.arange(6), 8, 8)
    assert 0 < params[0].flip.sum() < 6
    augmentation.render([crops, crops], params)
    assert torch.equal(crops, before)


def test_color_is_refused_or_left_out():
    strong = {"views": 2, "crop": [0.1, 1.0], "jitter": 0.8, "hue": 0.1, "grey": [0.2, 0.2], "solarize": [0.0, 0.2]}
    with pytest.raises(ValueError, match=r"augment.hue=0.1: color augmentation needs gray or RGB images.* 13 bands"):
        refuse_color(strong, 13, {"augment.hue"})
    (note,) = refuse_color(strong, 13, {"augment.crop"})
    assert "color jitter and grayscale and solarize are left out" in note
    assert refuse_color(strong, 3, {"augment.hue"}) == []
    assert refuse_color(strong | {"hue": 0}, 2, {"augment.hue"})
    left = without_color(strong | {"local": {"views": 2, "jitter": 0.5}}, 13)
    assert (left["jitter"], left["grey"], left["solarize"], left["crop"]) == (0, 0, 0, [0.1, 1.0])
    assert left["local"] == {"views": 2, "jitter": 0}
    assert without_color(strong, 1) == strong


def settings(root, *words):
    shared = f"data.root={root}", "data=folder", "method=simclr", "image_size=16", "encoder=tiny", "epochs=1", "batch_size=8"
    return cli.compose(TOOL, [*shared, *words])


def test_an_encoders_header_decides_how_other_images_are_read(root, tmp_path):
    chosen = settings(root, "data.bands=[13,1]")
    data = build_data(chosen)
    encoder, views = build_encoder(chosen, data)
    file = tmp_path / "encoder.safetensors"
    file.write_bytes(artifact.dumps(encoder, views, {}))
    _, header = artifact.load(file)
    assert header.pixels == data.pixels == preprocessing_in(file).pixels
    assert json.loads(json.dumps(header.preprocessing.json))["pixels"]["bands"] == [13, 1]
    other = tmp_path / "other"
    for i in range(10):
        write(other / f"{i}.tif", np.full((BANDS, 16, 16), 100 * i, np.uint16))
    seen = build_data(settings(other, f"encoder={file}"))
    assert seen.pixels == data.pixels
    assert seen.mean == header.mean
    with pytest.raises(ValueError, match=r"data.bands=\[1,2\]: encoder=.* was trained with \[13,1\]"):
        build_data(settings(other, f"encoder={file}", "data.bands=[1,2]"))
    path = seen.train.path(2)
    read = header.preprocessing.read(io.BytesIO(path.read_bytes()))
    assert np.array_equal(read, seen.train.resized(torch.tensor([2]), 16)[0])
    exact = normalize_images(seen.train.resized(torch.tensor([2]), 16), torch.tensor(header.mean), torch.tensor(header.std))
    np.testing.assert_allclose(header.preprocessing.normalized(read), exact[0], atol=1e-6)
    with pytest.raises(ValueError, match=r"encoder=.* takes images of 2 channels, and these have 3"):
        build_encoder(settings(other, f"encoder={file}"), replace(seen, channels=3))


def test_an_encoder_of_8_bit_images_states_nothing_new():
    encoder, views = encoders.create("tiny", 3, 16), Augmentation(16, (0.5,) * 3, (0.25,) * 3)
    assert b"pixels" not in artifact.dumps(encoder, views, {})


def test_settings_and_range_are_part_of_what_a_run_is(root):
    plain, chosen = settings(root), settings(root, "data.bands=[3,2,1]")
    assert not [name for name in identity(plain) if name in {f"data.{setting}" for setting in SETTINGS}]
    assert identity(chosen)["data.bands"] == [3, 2, 1]
    one, two = load(root, range=[0, 4095]), load(root, range=[0, 5000])
    assert one.train.fingerprint() == load(root, range=[0, 4095]).train.fingerprint() != two.train.fingerprint()


def test_a_file_that_breaks_later_is_replaced_by_its_neighbor(root, tmp_path):
    for i in range(8):
        write(tmp_path / f"{i}.tif", np.full((5, 8, 8), 10 * i, np.uint16))
    split = load(tmp_path, range=[0, 100]).train
    assert isinstance(split, RasterFiles)
    os.truncate(split.path(1), 60)
    assert torch.equal(split.resized(torch.tensor([1]), 8), split.resized(torch.tensor([2]), 8))
    assert list(split.skipped) == [split.where(1)]
