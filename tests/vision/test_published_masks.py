"""VOC 2012, Oxford-IIIT Pet and Cityscapes as torchvision reads them, from small local copies."""
import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import Cityscapes, OxfordIIITPet, VOCSegmentation

from vision.segmentation import SegmentationData, load_segmentation


def picture(path, values: np.ndarray | None = None, mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if values is None:
        Image.new("RGB", (8, 6), (1, 2, 3)).save(path)
    elif mode == "P":
        image = Image.fromarray(values)  # gray becomes palette
        image.putpalette(list(range(256)) * 3)
        image.save(path)
    else:
        Image.fromarray(values).save(path)


def labels(seed: int, values: list[int]) -> np.ndarray:
    return np.random.default_rng(seed).choice(np.array(values, np.uint8), (6, 8))


def load(root, layout: str) -> SegmentationData:
    return load_segmentation({"name": "segmentation_folder", "root": str(root), "layout": layout})


def masks_by_name(part) -> dict[str, np.ndarray]:
    return {part.images.path(i).stem: part.masks[i] for i in range(len(part))}


def test_voc_2012(tmp_path):
    base = tmp_path / "VOCdevkit" / "VOC2012"
    for split, count in (("train", 12), ("val", 4)):
        names = [f"{split}_{i}" for i in range(count)]
        (base / "ImageSets/Segmentation").mkdir(parents=True, exist_ok=True)
        (base / f"ImageSets/Segmentation/{split}.txt").write_text("\n".join(names) + "\n")
        for i, name in enumerate(names):
            picture(base / f"JPEGImages/{name}.jpg")
            picture(base / f"SegmentationClass/{name}.png", labels(i, [0, 5, 20, 255]), "P")
    data = load(tmp_path, "voc2012")
    assert (len(data.train) + len(data.validation), len(data.test), len(data.train.classes)) == (12, 4, 21)
    assert data.train.colors[1] == (128, 0, 0)
    official = VOCSegmentation(str(tmp_path), image_set="val")
    found = masks_by_name(data.test)
    for path, (_, mask) in zip(official.images, official, strict=True):
        assert np.array_equal(found[path.rsplit("/", 1)[1][:-4]], np.asarray(mask))


def test_oxford_pets(tmp_path):
    base = tmp_path / "oxford-iiit-pet"
    for split, count in (("trainval", 12), ("test", 4)):
        names = [f"Great_{split}_{i}" for i in range(count)]
        (base / "annotations").mkdir(parents=True, exist_ok=True)
        (base / f"annotations/{split}.txt").write_text("".join(f"{name} 1 1 1\n" for name in names))
        for i, name in enumerate(names):
            picture(base / f"images/{name}.jpg")
            picture(base / f"annotations/trimaps/{name}.png", labels(i, [1, 2, 3]))
    data = load(tmp_path, "pets")
    assert (len(data.train) + len(data.validation), len(data.test)) == (12, 4)
    assert data.train.classes == ("background", "pet")
    official, found = OxfordIIITPet(str(tmp_path), "test", "segmentation"), masks_by_name(data.test)
    for i, (_, trimap) in enumerate(official):
        expected = np.array([9, 1, 0, 255], np.uint8)[np.asarray(trimap)]
        assert np.array_equal(found[f"Great_test_{i}"], expected)


def test_cityscapes(tmp_path):
    known = [one for one in Cityscapes.classes if one.train_id not in (-1, 255)]
    every = [one.id for one in Cityscapes.classes if one.id >= 0]
    for split, count in (("train", 12), ("val", 4)):
        for i in range(count):
            name = f"{split}ville_{i:06}_000019"
            picture(tmp_path / f"leftImg8bit/{split}/{split}ville/{name}_leftImg8bit.png")
            picture(tmp_path / f"gtFine/{split}/{split}ville/{name}_gtFine_labelIds.png", labels(i, every))
    data = load(tmp_path, "cityscapes")
    assert (len(data.train) + len(data.validation), len(data.test)) == (12, 4)
    assert data.train.classes == tuple(one.name for one in known)
    assert data.train.classes[:2] == ("road", "sidewalk")
    assert data.train.colors[0] == (128, 64, 128)
    train_id = {one.id: one.train_id for one in Cityscapes.classes if one.id >= 0}
    for i in range(4):
        found = masks_by_name(data.test)[f"valville_{i:06}_000019_leftImg8bit"]
        assert np.array_equal(found, np.vectorize(train_id.get)(labels(i, every)).astype(np.uint8))


def test_a_missing_mask_is_named(tmp_path):
    base = tmp_path / "oxford-iiit-pet"
    (base / "annotations/trimaps").mkdir(parents=True)
    for split in ("trainval", "test"):
        (base / f"annotations/{split}.txt").write_text("Cat_1 1 1 1\n")
    picture(base / "images/Cat_1.jpg")
    with pytest.raises(ValueError, match=r"cannot be used; first: .*trimaps/Cat_1.png: No such file"):
        load(tmp_path, "pets")
