"""What a run on a folder chooses where its settings say nothing."""
from pathlib import Path

import pytest
from PIL import Image

from core import cli
from ssl import plan
from ssl.pretrain import TOOL
from vision import reachable
from vision.reachable import Reachable, best, timm_name
from vision.survey import Survey, survey


def settings(*arguments: str):
    return cli.compose(TOOL, cli.parse(["--data", "folder", *arguments])[0])


def pictures(folder: Path, sides: list[int], classes: tuple[str, ...] = ("a", "b")) -> Path:
    for i, side in enumerate(sides):
        for name in classes:
            path = folder / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (side + 9, side), (i % 256, 0, 0)).save(path)
    return folder


@pytest.fixture(autouse=True)
def no_weights(tmp_path, monkeypatch):
    """Caches of this test's own, which are empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def test_survey_counts_images_and_classes_and_takes_the_median_of_the_shorter_sides(tmp_path):
    assert survey(pictures(tmp_path, [40, 50, 300])) == Survey(images=6, classes=2, side=50)


def test_survey_of_files_that_pillow_cannot_open_has_no_side(tmp_path):
    (tmp_path / "x.png").write_bytes(b"no image")
    assert survey(tmp_path) == Survey(1, 0, None)


def test_small_pictures_and_few_of_them_get_a_small_encoder_and_small_batches(tmp_path):
    made = plan.planned(TOOL, settings("--data.root", str(pictures(tmp_path, [70] * 100)), "--device", "cpu"))
    assert (made.image_size, made.encoder, made.batch_size, made.optim.name) == (64, "tiny", 32, "adamw")
    assert made.epochs == plan.EPOCHS[1]


def test_what_is_given_stays(tmp_path, capsys):
    given = ("--image_size", "96", "--encoder", "small", "--steps", "7", "--optim.lr", "0.5", "--augment", "weak")
    before = settings("--data.root", str(pictures(tmp_path, [70] * 100)), *given)
    made = plan.planned(TOOL, before)
    assert (made.image_size, made.encoder, made.steps, made.optim.lr) == (96, "small", 7, 0.5)
    assert made.augment == before.augment
    assert made.epochs == before.epochs
    said = capsys.readouterr().err
    assert said.count("plan: ") == 2
    assert "optim.lr" not in said
    assert "begins from random weights, since you set encoder" in said


def test_another_method_keeps_its_own_constants(tmp_path):
    before = settings("--data.root", str(pictures(tmp_path, [70] * 100)), "--method", "byol")
    made = plan.planned(TOOL, before)
    assert (made.optim, made.augment, made.method) == (before.optim, before.augment, before.method)
    assert made.encoder == "tiny"


def test_weights_that_are_given_are_gone_on_from(tmp_path):
    given = ("--device", "cpu", "--encoder", "resnet18", "--pretrained")
    made = plan.planned(TOOL, settings("--data.root", str(pictures(tmp_path, [70] * 100)), *given))
    assert (made.adapt.on, made.encoder, made.image_size, made.epochs) == (True, "resnet18", 128, plan.IMAGES_SEEN[True] / 200)
    made = plan.planned(TOOL, settings("--data.root", str(tmp_path), *given, "--stem", "small"))
    assert made.image_size == 64, "the largest that the pictures have: these weights are of small images"
    assert made.optim == settings().optim, "the method's; adapt has its own in its place (ssl/adapt.py)"


def test_without_plan_nothing_changes_and_nothing_is_read():
    before = settings("--data.root", "/nowhere", "--plan", "false")
    assert plan.planned(TOOL, before) is before


@pytest.mark.parametrize(("images", "devices", "batch"), [(10, 1, 32), (1600, 1, 64), (1600, 3, 63), (50_000, 1, 256)])
def test_batches_are_a_sixteenth_of_the_images_and_a_multiple_of_the_processes(images, devices, batch):
    assert plan._batch(images, devices) == batch


def test_many_large_pictures_on_a_gpu_get_a_large_encoder_and_the_method_s_own_optimizer():
    made = plan.make(Survey(1_000_000, 0, 500), plan.Place("gpu", 8, None), settings(), set()).changes
    assert (made["image_size"], made["encoder"]) == (224, "resnet50")
    assert not {"optim.lr", "batch_size", "augment.crop", "epochs", "adapt.on"} & made.keys()


def test_weights_in_torch_hub_s_folder_are_begun_with(tmp_path):
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "resnet18-f37072fd.pth").write_bytes(b"0" * 1000)
    (folder / "unknown-f37072fd.pth").write_bytes(b"0")
    file = str(folder / "resnet18-f37072fd.pth")
    assert best(gpu=False) == Reachable("resnet18", file, 0.001)
    changes = plan.make(Survey(800, 2, 128), plan.Place("cpu", 1, best(False)), settings(), set()).changes
    assert (changes["encoder"], changes["weights"], changes["normalization"]) == ("resnet18", file, "weights")
    assert changes["adapt.on"]
    assert "optim.lr" not in changes


def test_weights_in_hugging_face_s_cache_are_found_and_self_supervised_ones_first(tmp_path):
    for name in ("resnet18.a1_in1k", "vit_small_patch14_dinov2.lvd142m", "no_such_model.x"):
        folder = tmp_path / "hub" / f"models--timm--{name}" / "snapshots" / "0"
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"0")
    assert best(gpu=False).settings == {"encoder": "vit_small_patch14_dinov2.lvd142m", "pretrained": True}


def test_large_weights_are_left_for_the_user_to_name(monkeypatch):
    found = [Reachable("resnet18", "", 45.0), Reachable("resnet34", "", 55.0), Reachable("resnet50", "", 98.0)]
    monkeypatch.setattr(reachable, "_hugging_face", lambda: found)
    assert best(gpu=False).encoder == "resnet18", "the smallest on a CPU"
    assert best(gpu=True).encoder == "resnet50", "the largest on a GPU"


@pytest.mark.parametrize(
    ("stem", "name"),
    [("resnet18-f37072fd", "resnet18"), ("efficientnet-lite0-57934424", "tf_efficientnet_lite0"), ("yolo-00000000", None)],
)
def test_names_of_files_are_timm_s(stem, name):
    assert timm_name(stem) == name
