"""What a tool finds in a folder is used only for the images and weights that it was made from. Every tool, on small folders."""
import json
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from commands import run, shortened, start
from PIL import Image

from deploy.export import check_classes
from nas.store import TrialStore
from vision import artifact, datasets, encoders
from vision.augment import Augmentation
from vision.data import fingerprints

SMALL = ["--encoder=test_resnet", "--image_size=16", "--batch_size=16", "--evals=1", "--log_every=1", "--steps=2"]
PRETRAIN = [*SMALL, "--method.hidden=16", "--method.dim=8", "--report=false", "--workers=0"]
TUNE = [*SMALL, "--gradcam=0", "--workers=0"]
DISTIL = [*SMALL, "--method=kd", "--workers=0"]


def folder_of(root: Path, classes: str = "cat,dog", count: int = 20, seed: int = 0) -> Path:
    for k, name in enumerate(classes.split(",")):
        for i in range(count):
            pixels = np.random.default_rng([seed, k, i]).integers(0, 256, (16, 16, 3), dtype=np.uint8)
            (root / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / name / f"{i:03}.png")
    return root


def encoder_file(path: Path, seed: int, head: bool = False) -> Path:
    torch.manual_seed(seed)
    encoder = encoders.create("test_resnet", 3, 16)
    more = (torch.nn.Linear(encoder.dim, 2), ("cat", "dog")) if head else ()
    path.write_bytes(artifact.dumps(encoder.eval(), Augmentation(16, (0.5,) * 3, (0.25,) * 3), {}, *more))
    return path


def tool(module: str, *words, place: Path, code: int = 0):
    ended = run(f"--data={'folder'}", *words, logs=place / "logs", module=module, WORKING_FOLDER=str(place))
    assert ended.code == code, ended.err
    return ended


def everything(folder: Path) -> dict:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock"}


COMMANDS = {
    "ssl.pretrain": PRETRAIN,
    "linear_eval.finetune": TUNE,
    "linear_eval.evaluate": ["--encoder=test_resnet", "--image_size=16", "--parts=[knn]", "--picture=false", "--cache=none"],
}


@pytest.mark.parametrize("module", shortened(COMMANDS))
def test_another_folder_of_images_is_another_run(module, tmp_path):
    """Without `out` it has a folder of its own; into the first one's it is refused, with what differs."""
    first, second = folder_of(tmp_path / "a"), folder_of(tmp_path / "b", "left,right", seed=1)
    tool(module, *COMMANDS[module], f"--data.root={first}", place=tmp_path)
    tool(module, *COMMANDS[module], f"--data.root={second}", place=tmp_path)
    runs = [path for path in (tmp_path / "runs").iterdir() if (path / "config.yaml").exists()]
    assert len(runs) == 2
    for out in runs:
        begun_with = (out / "config.yaml").read_text()
        before, other = everything(out), second if f"root: {first}\n" in begun_with else first
        ended = tool(module, *COMMANDS[module], f"--data.root={other}", f"--out={out}", place=tmp_path, code=2)
        assert "images.classes: 2 (" in ended.line
        assert "images.train: " in ended.line
        assert everything(out) == before


@pytest.mark.long
@pytest.mark.parametrize("module", shortened(["ssl.pretrain", "linear_eval.finetune"]))
def test_images_that_were_added_or_changed_or_moved(module, tmp_path):
    """More images or other ones are refused; the same images elsewhere resume the run."""
    root = folder_of(tmp_path / "images")
    words = [*COMMANDS[module], "--steps=200", f"--out={tmp_path / 'run'}", "--save_minutes=0.0001"]
    begun = start("--data=folder", *words, f"--data.root={root}", logs=tmp_path / "logs", module=module)
    begun.until(tmp_path / "run" / "metrics.jsonl", 3)
    begun.send(signal.SIGTERM)
    assert begun.wait().code == 75
    moved = root.rename(tmp_path / "elsewhere")
    before = everything(tmp_path / "run")
    picture = moved / "cat" / "003.png"
    kept, status = picture.read_bytes(), picture.stat()
    picture.write_bytes(kept[:-20] + bytes(20))  # of the same name, size and time of change
    os.utime(picture, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert "images.train: " in tool(module, *words, f"--data.root={moved}", place=tmp_path, code=2).err
    picture.write_bytes(kept)
    shutil.copy(picture, picture.with_name("one_more.png"))
    assert "images.train" in tool(module, *words, f"--data.root={moved}", place=tmp_path, code=2).line
    picture.with_name("one_more.png").unlink()
    assert everything(tmp_path / "run") == before
    tool(module, *words, f"--data.root={moved}", place=tmp_path)
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 201))


@pytest.mark.slow
def test_another_encoder_under_the_same_path_is_another_run(tmp_path):
    """For every tool that begins with a file: refused into the old folder, and named by the setting."""
    root = folder_of(tmp_path / "images")
    file, out = tmp_path / "encoder.safetensors", tmp_path / "out"
    begins = {
        "ssl.pretrain": [*PRETRAIN, f"--encoder={file}"],
        "linear_eval.finetune": [*TUNE, f"--encoder={file}"],
        "linear_eval.evaluate": [*COMMANDS["linear_eval.evaluate"], f"--encoder={file}"],
        "distill.train": [*DISTIL, f"--teacher={file}", "--student=test_resnet", f"--cache={tmp_path / 'cache'}"],
    }
    for module, words in begins.items():
        encoder_file(file, 0, head=True)
        shutil.rmtree(out, ignore_errors=True)
        tool(module, *words, f"--data.root={root}", f"--out={out}", place=tmp_path)
        encoder_file(file, 1, head=True)
        before = everything(out)
        ended = tool(module, *words, f"--data.root={root}", f"--out={out}", place=tmp_path, code=2)
        assert ("teacher: content " if module == "distill.train" else "encoder: content ") in ended.line
        assert everything(out) == before


@pytest.mark.slow
def test_a_teachers_kept_outputs_are_those_of_these_images(tmp_path):
    """Other images of the same names, sizes and times have outputs of their own; the same images elsewhere find theirs."""
    file = encoder_file(tmp_path / "teacher.safetensors", 0, head=True)
    words = [*DISTIL, f"--teacher={file}", "--student=test_resnet", f"--cache={tmp_path / 'cache'}"]
    first = folder_of(tmp_path / "a")
    other = folder_of(tmp_path / "b", seed=1)
    for old, new in zip(sorted(first.rglob("*.png")), sorted(other.rglob("*.png")), strict=True):
        size = max(old.stat().st_size, new.stat().st_size)
        for path in (old, new):
            path.write_bytes(path.read_bytes().ljust(size, b"\0"))
            os.utime(path, (1e9, 1e9))
    tool("distill.train", *words, f"--data.root={first}", "--out=one", place=tmp_path)
    assert len(list((tmp_path / "cache").iterdir())) == 1
    first.rename(tmp_path / "c")
    tool("distill.train", *words, f"--data.root={tmp_path / 'c'}", "--out=two", place=tmp_path)
    assert len(list((tmp_path / "cache").iterdir())) == 1
    other.rename(first)
    tool("distill.train", *words, f"--data.root={first}", "--out=three", place=tmp_path)
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_an_export_compares_the_names_of_classes():
    def compared(data, header, several=(False, False)):
        given = (SimpleNamespace(classes=c, multilabel=m) for c, m in zip((data, header), several, strict=True))
        check_classes("folder", *given)

    compared(("cat", "dog"), ("cat", "dog"))
    compared(("cat", "dog"), None)  # an encoder knows none
    for found in (("left", "right"), ("dog", "cat"), ("cat", "dog", "owl")):
        with pytest.raises(ValueError, match=r"data=folder has \d classes .* must be the same, in the same order"):
            compared(found, ("cat", "dog"))
    with pytest.raises(ValueError, match="data=folder has no labels"):
        compared(None, ("cat", "dog"))
    with pytest.raises(ValueError, match=r"has one label an image, .*data\.multilabel=true"):
        compared(("cat", "dog"), ("cat", "dog"), (False, True))


def test_a_study_belongs_to_its_images(tmp_path):
    first = datasets.load("folder", str(folder_of(tmp_path / "a")))
    more = datasets.load("folder", str(folder_of(tmp_path / "b", count=21)))
    book = TrialStore("s", str(tmp_path / "journal"), {"knn": "maximize"}, {"seed": 0})
    for _ in range(2):
        book.check_images(first.fingerprints)
    with pytest.raises(ValueError, match=r"study=s was begun with other images \(.*images.train: .*give another study"):
        book.check_images(more.fingerprints)


def test_fingerprints_of_every_kind_of_data_set_tell_labels_and_pixels_apart(tmp_path):
    found = fingerprints(datasets.load("digits"))
    assert found == datasets.load("digits").fingerprints
    assert found["images.train"].startswith("1,294 images, ")
    assert found["images.classes"].startswith("10 (0, 1, 2, …; ")
    assert "images.labels" not in datasets.load("digits", labels="none").fingerprints
    root = folder_of(tmp_path / "a")
    before = datasets.load("folder", str(root)).fingerprints
    (root / "dog").rename(root / "fox")
    after = datasets.load("folder", str(root)).fingerprints
    assert before["images.classes"] != after["images.classes"]
    large = np.zeros((600, 600, 3), np.uint8)
    large[300] = np.random.default_rng(0).integers(0, 256, (600, 3))
    for value, path in ((0, "one"), (1, "other")):
        large[295, 5] = value  # bytes in the middle of a file that is not read whole
        (tmp_path / path).mkdir()
        for name in ("x", "y"):
            Image.fromarray(large).save(tmp_path / path / f"{name}.bmp")
    one, other = (datasets.load("folder", str(tmp_path / path)).fingerprints for path in ("one", "other"))
    assert one != other
