"""Folders of images and masks: every way of writing a mask, splits, and what is wrong named by file."""
import numpy as np
import pytest
from PIL import Image

from vision.segmentation import load_segmentation
from vision.streamed import Files

FOLDER = {"name": "segmentation_folder", "root": None, "layout": "folders", "classes": None, "ignore": 255, "max_corrupt": 0.2,
          "validation": 0.1}
SIZES = [(6, 4), (5, 5), (4, 7)]  # width, height


def image(path, index: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", SIZES[index % 3], (index, 2 * index, 0)).save(path)


def mask_of(index: int, classes: int = 3) -> np.ndarray:
    width, height = SIZES[index % 3]
    labels = np.random.default_rng(index).integers(0, classes, (height, width)).astype(np.uint8)
    labels[0, 0], labels[0, 1] = 255, classes - 1
    return labels


def folder(root, count: int = 20, images: str = "images", masks: str = "masks"):
    """Images and gray index masks."""
    for index in range(count):
        image(root / images / f"{index}.png", index)
        (root / masks).mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask_of(index)).save(root / masks / f"{index}.png")
    return root


def load(root, **change):
    return load_segmentation(FOLDER | {"root": root and str(root)} | change)


def check_aligned(part) -> None:
    """Is each mask that of its image, whatever split it came to?"""
    assert isinstance(part.images, Files)
    for i in range(len(part)):
        index = int(part.images.path(i).stem)
        assert np.array_equal(part.masks[i], mask_of(index))
        assert part.masks[i].shape == part.images.read(i).size[::-1]


def test_a_folder_without_splits_gives_test_and_validation_by_the_classes_that_images_show(tmp_path):
    data = load(folder(tmp_path, 40))
    assert 2 <= len(data.validation) <= 5
    assert 6 <= len(data.test) <= 10
    assert data.train.classes == ("class 0", "class 1", "class 2")
    assert data.dataset.classes is None
    assert data.dataset.train.labels is None
    for part in (data.train, data.validation, data.test):
        check_aligned(part)
    names = [set(part.images.relative_paths()) for part in (data.train, data.validation, data.test)]
    assert len(set.union(*names)) == sum(map(len, names)) == 40
    again = load_segmentation(FOLDER | {"root": str(tmp_path)}, seed=5)
    assert again.test.images.relative_paths() == data.test.images.relative_paths()


@pytest.mark.parametrize("inside", [True, False])
def test_splits_that_have_folders_are_taken_and_a_val_without_test_is_the_test(tmp_path, inside):
    for role, count in (("train", 20), ("val", 5)):
        places = (f"{role}/images", f"{role}/masks") if inside else (f"images/{role}", f"masks/{role}")
        folder(tmp_path, count, *places)
    data = load(tmp_path)
    assert (len(data.train) + len(data.validation), len(data.test)) == (20, 5)
    assert 1 <= len(data.validation) <= 4
    assert all("val" in path for path in data.test.images.relative_paths())
    for part in (data.train, data.validation, data.test):
        check_aligned(part)
    assert any("its validation split is the test here" in note for note in data.dataset.notes)


def test_palette_gray_of_few_bits_and_rgb_masks_are_the_same_labels(tmp_path):
    folder(tmp_path, 12)
    (tmp_path / "classes.csv").write_text("name,red,green,blue\nsky,0,0,255\nroad,128,128,128\ncar,255,0,0\nvoid,1,2,3\n")
    expected = [load(tmp_path).train.masks[i] for i in range(3)]
    colors = np.array([[0, 0, 255], [128, 128, 128], [255, 0, 0]] + [[1, 2, 3]] * 253, np.uint8)
    for index in range(12):
        palette = Image.fromarray(mask_of(index))  # gray becomes palette
        palette.putpalette(colors.flatten().tolist())
        palette.save(tmp_path / "masks" / f"{index}.png")
    assert all(np.array_equal(load(tmp_path).train.masks[i], expected[i]) for i in range(3))
    for index in range(12):
        Image.fromarray(colors[mask_of(index)]).save(tmp_path / "masks" / f"{index}.png")
    data = load(tmp_path, classes="classes.csv")
    assert all(np.array_equal(data.train.masks[i], expected[i]) for i in range(3))
    assert (data.train.classes, data.train.colors[0]) == (("sky", "road", "car"), (0, 0, 255))
    (tmp_path / "classes.yaml").write_text("sky: [0, 0, 255]\nroad: [128, 128, 128]\ncar: [255, 0, 0]\nvoid: [1, 2, 3]\n")
    assert np.array_equal(load(tmp_path, classes="classes.yaml").train.masks[2], expected[2])


def test_an_index_of_two_or_four_bits_stays_what_it_is(tmp_path):
    folder(tmp_path, 12)
    for bits in (2, 4):
        for index in range(12):
            labels = np.minimum(mask_of(index), 2)
            write_low_bits(tmp_path / "masks" / f"{index}.png", labels, bits)
        data = load(tmp_path, ignore=None)
        for i in range(len(data.train)):
            index = int(data.train.images.path(i).stem)
            assert np.array_equal(data.train.masks[i], np.minimum(mask_of(index), 2))


def write_low_bits(path, labels: np.ndarray, bits: int) -> None:
    """A gray PNG of few bits, by the format's own rules, for Pillow writes none."""
    import struct
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width = labels.shape
    rows = b""
    for row in labels:
        text = "".join(f"{value:0{bits}b}" for value in row)
        text += "0" * (-len(text) % 8)
        rows += b"\0" + bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))
    head = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def test_masks_of_0_and_255_need_a_table_that_makes_255_a_class(tmp_path):
    folder(tmp_path, 12)
    for index in range(12):
        Image.fromarray(np.where(mask_of(index) == 255, 255, 0).astype(np.uint8)).save(tmp_path / "masks" / f"{index}.png")
    with pytest.raises(ValueError, match=r"have 1 class beside ignored pixels.*in masks of 0 and 255.*data.classes=FILE"):
        load(tmp_path)
    (tmp_path / "c.csv").write_text("name,value\nground,0\nlesion,255\n")
    data = load(tmp_path, classes="c.csv")
    assert set(np.unique(np.concatenate([data.train.masks[i].ravel() for i in range(5)]))) == {0, 1}


def test_ade20k_ignores_0_and_counts_from_1(tmp_path):
    folder(tmp_path, 6, "images/training", "annotations/training")
    folder(tmp_path, 3, "images/validation", "annotations/validation")
    data = load(tmp_path, layout="ade20k")
    assert (len(data.train) + len(data.validation), len(data.test), len(data.train.classes)) == (6, 3, 150)
    index = int(data.test.images.path(1).stem)
    assert np.array_equal(data.test.masks[1], np.where(mask_of(index) == 255, 255, mask_of(index) - 1))


def broken_pair(root) -> None:
    (root / "masks" / "3.png").unlink()


def stray_mask(root) -> None:
    Image.fromarray(mask_of(0)).save(root / "masks" / "99.png")


def unequal(root) -> None:
    Image.fromarray(mask_of(1)).save(root / "masks" / "3.png")


def beyond_classes(root) -> None:
    (root / "c.yaml").write_text("[a, b]")


def unknown_color(root) -> None:
    (root / "c.yaml").write_text("{a: [0, 0, 0], b: [1, 1, 1]}")
    for index in range(20):
        Image.new("RGB", SIZES[index % 3], (0, 0, 9 * (index == 4))).save(root / "masks" / f"{index}.png")


def rgb_without_table(root) -> None:
    Image.new("RGB", SIZES[2]).save(root / "masks" / "5.png")


def truncated(root) -> None:
    (root / "masks" / "7.png").write_bytes((root / "masks" / "7.png").read_bytes()[:50])


def jpeg_masks(root) -> None:
    for path in (root / "masks").iterdir():
        path.rename(path.with_suffix(".jpg"))


def no_folders(root) -> None:
    (root / "masks").rename(root / "truth")


@pytest.mark.parametrize(("spoil", "change", "message"), [
    (broken_pair, {}, r"1 image without a file of that name in masks \(first: images/3.png\); add the mask"),
    (stray_mask, {}, r"1 mask without a file of that name in images \(first: masks/99.png\); add the image"),
    (unequal, {}, r"1 mask of 20 cannot be used; first: .*masks/3.png has 5 by 5 pixels, and its image 6 by 4"),
    (beyond_classes, {"classes": "c.yaml"}, r"cannot be used; first: .*masks/0.png: label 2 in \d+ pixels, which is no class"),
    (unknown_color, {"classes": "c.yaml"}, r"1 mask of 20 .*masks/4.png: the color 0,0,9 in 25 pixels"),
    (rgb_without_table, {}, r"masks/5.png: a mask of colors; data.classes=FILE.csv with the columns name, red, green, blue"),
    (truncated, {}, r"1 mask of 20 cannot be used; first: .*masks/7.png"),
    (jpeg_masks, {}, r"20 masks in masks are JPEG files, which change values; save them as PNG"),
    (no_folders, {}, r"has no images/ and masks/, nor train/images/ and train/masks/"),
    (lambda root: None, {"classes": "none.csv"}, r"data.classes=.*none.csv: there is no such file"),
    (lambda root: None, {"layout": "coco"}, r"data.layout=coco: must be one of folders, voc2012"),
    (lambda root: None, {"layout": "voc2012"}, r"torchvision finds no split train there .*that holds VOCdevkit"),
    (lambda root: None, {"root": None}, r"needs data.root, the folder that holds images/ and masks/"),
])
def test_what_is_wrong_is_named_in_one_line(tmp_path, spoil, change, message):
    spoil(folder(tmp_path))
    with pytest.raises(ValueError, match=message) as error:
        load(**{"root": tmp_path} | change)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("text", "message"), [
    ("name,value\na,1\nb,1\n", "gives two classes the same value"),
    ("name,value\na,1\n", "has 1 classes; there must be 2 to 254"),
    ("name,value\na,1\nb,x\n", "line 3: a name, value are needed"),
    ("class,r,g,b\na,1,2,3\nb,1,2,300\n", "numbers from 0 to 255"),
    ("what\na\nb\n", "its first line must name the columns"),
    ("name,value\na,1\na,2\n", "has 'a' twice"),
])
def test_a_table_that_is_wrong_is_refused(tmp_path, text, message):
    (folder(tmp_path) / "c.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        load(tmp_path, classes="c.csv")
