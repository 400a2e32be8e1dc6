"""Paths that cannot be meant: an output among a user's own files, weights of a kind that the tools do not read."""
import os
from pathlib import Path

import pytest
from commands import ROOT

from core import cli, places
from linear_eval.evaluate import TOOL as EVALUATE
from ssl.pretrain import TOOL

WEIGHTS = ("encoder", "teacher", "student", "compare", "against", "encoders")
PATHS = {"out": "folder", "cache": "folder", **dict.fromkeys(WEIGHTS, "weights")}


def refused(flat: dict) -> str:
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the text is what the tests are about)
        places.check(flat, PATHS)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The working folder, with a file in it; the home folder is another."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Path("photo.jpg").touch()
    return Path.cwd()


@pytest.mark.parametrize(("out", "why"), [
    ("", "is empty"), (" ", "is empty"), (".", "working folder"), ("./", "working folder"), ("../here", "working folder"),
    ("/", "is the root folder"), ("~", "is your home folder"), ("..", "holds your home folder"),
    (str(ROOT), "is this checkout"), (str(ROOT.parent), "holds this checkout"), ("~nobody-of-this-name/x", "no home folder"),
])
def test_an_output_among_other_files_is_refused(here, out, why):
    message = refused({"out": out})
    assert message.startswith(f"out={out}")
    assert why in message
    assert sorted(here.iterdir()) == [here / "photo.jpg"]


@pytest.mark.parametrize("out", ["auto", "runs/x", "new", "~/runs/x", str(ROOT / "runs" / "x"), "../other"])
def test_a_folder_of_its_own_is_not(here, out):
    places.check({"out": out}, PATHS)


def test_a_run_goes_on_in_its_folder_and_a_new_one_begins_in_an_empty_one(here):
    Path("config.yaml").touch()
    places.check({"out": "."}, PATHS)
    os.chdir(here.parent / "home")
    with pytest.raises(ValueError, match="home folder"):
        places.check({"out": "."}, PATHS)
    (here.parent / "empty").mkdir()
    os.chdir(here.parent / "empty")
    places.check({"out": "."}, PATHS)


@pytest.mark.parametrize("tool", [TOOL, EVALUATE], ids=["pretrain", "evaluate"])
def test_as_a_user_types_it(tool, capsys):
    for setting in ("--out=", "--out=/"):
        assert cli.main(tool, pytest.fail, [setting]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: out=")
    if tool is EVALUATE:
        assert cli.main(tool, pytest.fail, ["--cache="]) == 2
        assert "cache=: is empty" in capsys.readouterr().err


FILES = {
    "last.pt": "a run's saved state",
    "model.pth": "another program's file",
    "model.ckpt": "another program's file",
    "pytorch_model.bin": "another program's file",
    "model.onnx": "an exported model",
    "model.pt2": "an exported model",
    "model.torchscript.pt": "an exported model",
}


@pytest.mark.parametrize("setting", ["encoder", "teacher", "student", "compare", "against"])
@pytest.mark.parametrize("name", FILES)
def test_weights_of_another_kind_are_named_with_what_to_give_instead(here, setting, name):
    Path(name).touch()
    message = refused({setting: f"resnet18,{here / name}"})
    assert message.startswith(f"{setting}={here / name}: ")
    assert FILES[name] in message
    assert "encoder.safetensors" in message


def test_the_encoder_beside_a_runs_state_is_named(here):
    Path("last.pt").touch()
    assert "the command that began it" in refused({"encoder": "last.pt"})
    Path("encoder.safetensors").touch()
    assert refused({"encoder": str(here / "last.pt")}).endswith(f"give {here / 'encoder.safetensors'}")


def test_a_runs_folder_is_told_from_its_encoder(here):
    Path("encoder.safetensors").touch()
    assert refused({"encoder": str(here)}) == f"encoder={here}: is a folder; give {here / 'encoder.safetensors'}"


@pytest.mark.parametrize("name", ["gone.pt", "a/gone.onnx"])
def test_a_file_that_is_not_there(here, name):
    assert "no such file" in refused({"encoder": name})


@pytest.mark.parametrize("name", [
    "small", "resnet18", "vit_base_patch16_224.augreg_in21k", "hf-hub:owner/model.bin", "local-dir:/models/x",
    "x/y.safetensors", "tf_efficientnet_b0.ns_jft_in1k,resnet50", "timm/no-such-thing", None,
])
def test_names_and_our_own_files_pass(here, name):
    places.check({"encoder": name, "out": "auto"}, PATHS)
