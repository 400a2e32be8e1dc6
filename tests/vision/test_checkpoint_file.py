"""What a weight file is: its content decides, and none of it is run."""
import pickle

import pytest
import torch
from torch import nn

from vision import artifact, encoders
from vision.augment import Augmentation
from vision.checkpoint_file import read_checkpoint


class Trap:
    """Runs code where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def write(path, content) -> None:
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)


MODEL = nn.Linear(2, 2)
STEPPED = torch.optim.Adam(MODEL.parameters())
CASES = {
    "an optimizer": (STEPPED.state_dict(), "is the state of an optimizer, not weights"),
    "an optimizer beside nothing": ({"optimizer": STEPPED.state_dict(), "epoch": 3}, "holds no tensors by name"),
    "a whole model": (MODEL, r"needs code to be read \(torch\.nn\.modules\.linear\.Linear\).*save model\.state_dict\(\)"),
    "a number": (3, r"holds no tensors by name \(a int\)"),
    "a tensor": (torch.zeros(3), r"holds no tensors by name \(a Tensor\)"),
    "nothing": ({}, "holds no tensors by name"),
    "no numbers": ({"state_dict": {"a.weight": torch.tensor([1.0, float("nan")])}}, "a.weight is not finite everywhere"),
    "a page": (b"\n<!DOCTYPE html><html><head><title>404</title>", "is a web page, not weights: the download went wrong"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "is a Git LFS pointer"),
    "an error": (b'{"error": "not found"}', "is JSON text, not weights"),
    "an empty file": (b"", "is empty; download it again"),
    "noise": (b"\x00\x01\x02\x03" * 100, "is no weight file that torch can read"),
    "keras": (b"\x89HDF\r\n\x1a\n" + bytes(100), "is an HDF5 file"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_no_weight_file_is_refused_with_what_it_is(case, tmp_path):
    content, message = CASES[case]
    path = tmp_path / "w.pth"
    write(path, content)
    with pytest.raises(ValueError, match=message) as caught:
        read_checkpoint(path)
    assert str(caught.value).startswith(f"weights={path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("new", [True, False])
def test_nothing_that_a_file_brings_is_run(new, tmp_path):
    path = tmp_path / "trap.pth"
    torch.save({"state_dict": {"a": torch.zeros(1)}, "x": Trap(tmp_path / "ran")}, path, _use_new_zipfile_serialization=new)
    with pytest.raises(ValueError, match=r"running code|needs code to be read"):
        read_checkpoint(path)
    plain = tmp_path / "plain.bin"
    plain.write_bytes(pickle.dumps(Trap(tmp_path / "ran"), protocol=2))
    with pytest.raises(ValueError, match=r"is no weight file|needs code"):
        read_checkpoint(plain)
    assert not (tmp_path / "ran").exists()


def test_a_truncated_download(tmp_path):
    path = tmp_path / "w.pth"
    torch.save({"a.weight": torch.zeros(10_000)}, path)
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(ValueError, match="is no weight file that torch can read"):
        read_checkpoint(path)


def test_torchscript_is_code(tmp_path):
    torch.jit.script(MODEL).save(str(tmp_path / "model.pt"))
    with pytest.raises(ValueError, match="is a TorchScript program, which is code"):
        read_checkpoint(tmp_path / "model.pt")


def test_our_own_file_is_an_encoder(tmp_path):
    path = tmp_path / "encoder.safetensors"
    encoder = encoders.create("test_resnet", 3, 32)
    path.write_bytes(artifact.dumps(encoder, Augmentation(32, (0.5,) * 3, (0.5,) * 3), {}))
    with pytest.raises(ValueError, match=f"is an encoder.safetensors of nolabel; give it as encoder={path}"):
        read_checkpoint(path)


def test_the_averaged_copy_is_taken(tmp_path):
    one, two = {"a": torch.ones(1)}, {"a": torch.zeros(1)}
    for content, nest in (
        ({"student": one, "teacher": two}, "teacher"), ({"state_dict": one, "state_dict_ema": two}, "state_dict_ema"),
        ({"model": {"model_ema": two, "model": one}}, "model.model_ema"), (two, ""),
    ):
        torch.save(content, tmp_path / "w.pth")
        found = read_checkpoint(tmp_path / "w.pth")
        assert (found.nest, found.tensors["a"].item(), found.ordered) == (nest, 0, True)
