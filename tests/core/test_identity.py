"""What makes two commands one run: settings, and files and images by their content."""
import importlib
import json
import os
import shlex
import shutil
from pathlib import Path

import pytest
from commands import ROOT
from golden_identities import TABLE

from core import cli, training
from core.identity import difference, digest_of, fingerprint, identity
from linear_eval import finetune
from ssl.pretrain import TOOL

IMAGES = {"images.train": "40 images, 00", "images.classes": "2 (cat, dog; 00)"}


def said(*argv: str, tool=TOOL):
    return cli.compose(tool, cli.parse(list(argv), tool.settings)[0])


def test_identity_holds_what_changes_the_result_and_nothing_else():
    same = ["--devices=2", "--workers=3", "--out=x", "--device=cpu", "--data.root=y", "--evals=3", "--log_every=1"]
    assert identity(said(*same)) == identity(said())
    assert fingerprint(identity(said(*same))) == fingerprint(identity(said()))
    for other in (["--seed=1"], ["--optim.lr=0.1"], ["--method.temperature=0.3"], ["--batch_size=64"]):
        assert fingerprint(identity(said(*other))) != fingerprint(identity(said()))
    json.dumps(identity(said()))


def test_difference_names_old_and_new():
    old, new = identity(said("--optim.lr=0.4", "--method=simclr")), identity(said("--optim.lr=0.3", "--method=simclr"))
    assert difference(old, new) == ["optim.lr: 0.4 → 0.3"]
    assert difference({"a": 1}, {"b": 2}) == ["a: 1 → absent", "b: absent → 2"]


@pytest.fixture
def weights(tmp_path) -> Path:
    path = tmp_path / "a" / "encoder.safetensors"
    path.parent.mkdir()
    path.write_bytes(b"some weights")
    return path


def test_a_weight_file_is_known_by_its_content(weights, tmp_path, monkeypatch):
    """Under a relative path, an absolute one, another name: one configuration. Other weights under the same path: another."""
    monkeypatch.chdir(tmp_path)
    before = identity(said("--encoder", str(weights)))
    shutil.copy(weights, tmp_path / "copy.safetensors")
    (tmp_path / "b, c:1").mkdir()
    shutil.copy(weights, tmp_path / "b, c:1" / "x.safetensors")
    for path in ("a/encoder.safetensors", "./a/../a/encoder.safetensors", "copy.safetensors", "b, c:1/x.safetensors"):
        assert identity(said("--encoder", path)) == before
    status = os.stat(weights)
    weights.write_bytes(b"other weigh.")  # of the same size, and with the same time of change
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert len(difference(before, identity(said("--encoder", str(weights))))) == 1


def test_a_name_without_a_file_stays_as_it_is():
    assert identity(said("--encoder=resnet50"))["encoder"] == "resnet50"
    assert identity(said("--encoder=/nowhere/encoder.safetensors"))["encoder"] == "/nowhere/encoder.safetensors"


def test_what_an_older_version_wrote_is_compared_as_far_as_it_goes(weights):
    """It kept paths, and nothing of the images."""
    new = identity(said("--encoder", str(weights)))
    old = new | {"encoder": str(weights)}
    assert difference(old, new | IMAGES) == []
    weights.write_bytes(b"others")
    changed = identity(said("--encoder", str(weights))) | IMAGES
    assert difference(old, changed) == [], "a path is what lies there now"
    assert [d.split(":")[0] for d in difference(new | IMAGES, changed)] == ["encoder"]


def test_other_images_are_told_by_what_differs():
    other = IMAGES | {"images.train": "80 images, 11"}
    assert difference({"seed": 1, **IMAGES}, {"seed": 1, **other}) == ["images.train: 40 images, 00 → 80 images, 11"]


def test_a_digest_is_made_anew_when_the_file_changes(weights):
    first = digest_of(weights)
    assert first == digest_of(weights)
    weights.write_bytes(b"some weighty")
    assert digest_of(weights) != first


def test_a_folder_is_named_by_settings_files_and_images(weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = said("--encoder", str(weights), "--data=folder", "--data.root=x", tool=finetune.TOOL)
    first = training.folder(words, "finetune", IMAGES)
    assert first.parent == Path("runs")
    again = said("--encoder=a/encoder.safetensors", "--data=folder", "--data.root=moved", tool=finetune.TOOL)
    assert training.folder(again, "finetune", IMAGES) == first
    assert training.folder(words, "finetune", IMAGES | {"images.train": "41 images, 01"}) != first
    weights.write_bytes(b"others")
    assert training.folder(words, "finetune", IMAGES) != first


def test_a_run_of_an_older_version_keeps_its_folder(weights, tmp_path, monkeypatch):
    """Its name knows no content. It is found on the same data.root, by this version's second start too, and nowhere else."""
    monkeypatch.chdir(tmp_path)
    words = said("--encoder=a/encoder.safetensors", "--data=folder", "--data.root=x", tool=finetune.TOOL)
    was = identity(words) | {"encoder": "a/encoder.safetensors"}
    older = Path("runs") / f"finetune-{fingerprint(was)}"
    older.mkdir(parents=True)
    (older / "config.yaml").write_text(cli.yaml_text(words))
    assert training.folder(words, "finetune", IMAGES) == older
    elsewhere = said("--encoder=a/encoder.safetensors", "--data=folder", "--data.root=y", tool=finetune.TOOL)
    assert training.folder(elsewhere, "finetune", IMAGES) != older
    (older / "identity.json").write_text(json.dumps(identity(words) | IMAGES))
    assert training.folder(words, "finetune", IMAGES) == older
    assert training.folder(words, "finetune", {"images.train": "other"}) != older


@pytest.mark.parametrize(("module", "words", "expected"), TABLE)
def test_the_identities_of_older_runs_stay(monkeypatch, module, words, expected):
    monkeypatch.chdir(ROOT)
    tool = importlib.import_module(module).TOOL
    given, _ = cli.with_recipe(tool, cli.parse(shlex.split(words), tool.settings)[0])
    assert fingerprint(identity(cli.compose(tool, given))) == expected
