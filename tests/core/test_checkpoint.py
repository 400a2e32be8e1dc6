"""A file is whole or not there, and no other file is taken for ours."""
import os
import re
import resource
import socket
import stat
import subprocess

import pytest
import torch
from torch import nn

from core import checkpoint
from core.errors import DiskFull


def a_checkpoint(path, step=3):
    method = nn.Linear(4, 4)
    optimizer = torch.optim.AdamW(method.parameters())
    method(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    checkpoint.save(
        path,
        step=step,
        method=method.state_dict(),
        optimizer=optimizer.state_dict(),
        config={"optim.betas": [0.9, 0.999], "steps": None, "method": "simclr"},
        extra={"history": [(1, {"knn": 98.5})]},
    )
    return method, optimizer


def test_everything_comes_back(tmp_path):
    method, optimizer = a_checkpoint(tmp_path / "last.pt")
    state = checkpoint.load(tmp_path / "last.pt")
    assert state["step"] == 3
    assert state["config"] == {"optim.betas": [0.9, 0.999], "steps": None, "method": "simclr"}
    assert state["extra"] == {"history": [(1, {"knn": 98.5})]}
    assert torch.equal(state["method"]["weight"], method.weight)
    moments = state["optimizer"]["state"][0]["exp_avg"]
    assert torch.equal(moments, optimizer.state[method.weight]["exp_avg"])


def test_a_write_replaces_all_at_once_and_leaves_no_trace(tmp_path):
    path = tmp_path / "report.md"
    checkpoint.write(path, "old")
    with open(path) as reader:
        checkpoint.write(path, b"new and longer")
        assert reader.read() == "old", "who reads the old file reads it to its end"
    assert path.read_text() == "new and longer"
    assert os.listdir(tmp_path) == ["report.md"]


def test_a_file_has_the_rights_that_the_user_gives_to_files(tmp_path):
    before = os.umask(0o027)
    try:
        checkpoint.write(tmp_path / "x", "")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o640


def test_a_full_disk_costs_the_write_and_nothing_else(tmp_path):
    """A real limit of the system: no file may grow over 1,000 bytes, as a full disk or a quota stops it mid-file."""
    a_checkpoint(tmp_path / "last.pt")
    before = (tmp_path / "last.pt").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(DiskFull, match=re.escape(f"no room to write {tmp_path / 'last.pt'}")):
            a_checkpoint(tmp_path / "last.pt", step=4)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "last.pt").read_bytes() == before
    assert os.listdir(tmp_path) == ["last.pt"]
    assert checkpoint.load(tmp_path / "last.pt")["step"] == 3


def test_any_end_of_a_write_removes_the_temporary_file(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.write(tmp_path / "last.pt", b"x")
    assert os.listdir(tmp_path) == []


def test_what_a_killed_write_leaves_is_swept(tmp_path):
    """And nothing else: not what a living process is writing, here or on another machine."""
    here, ended = socket.gethostname(), subprocess.Popen(["true"])
    ended.wait()
    (tmp_path / f".last.pt.{here}.{ended.pid}.tmp").write_bytes(b"half")
    long_ago = tmp_path / ".last.pt.elsewhere.1.tmp"
    long_ago.write_bytes(b"half")
    os.utime(long_ago, (1e9, 1e9))
    kept = {"mine.tmp", ".mine.tmp", f".last.pt.{here}.{os.getpid()}.tmp", f".last.pt.elsewhere.{ended.pid}.tmp"}
    for name in kept:
        (tmp_path / name).write_bytes(b"whole")
    checkpoint.sweep(tmp_path)
    assert set(os.listdir(tmp_path)) == kept


def foreign(path, kind: str) -> None:
    a_checkpoint(path)
    whole = path.read_bytes()
    match kind:
        case "truncated":
            path.write_bytes(whole[: len(whole) // 2])
        case "empty":
            path.write_bytes(b"")
        case "text":
            path.write_text("not a checkpoint\n" * 100)
        case "flipped":  # one byte of a tensor: the archive's checksum tells
            at = whole.index(torch.load(path)["method"]["weight"].numpy().tobytes())
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        case "weights":
            torch.save(nn.Linear(2, 2).state_dict(), path)
        case "module":  # a pickle of code: never run
            torch.save(nn.Linear(2, 2), path)
        case "older":
            torch.save(torch.load(path) | {"format": 0}, path)
        case "incomplete":
            torch.save({k: v for k, v in torch.load(path).items() if k != "optimizer"}, path)
        case "folder":
            path.unlink()
            path.mkdir()


KINDS = ("truncated", "empty", "text", "flipped", "weights", "module", "older", "incomplete", "folder")


@pytest.mark.parametrize("kind", KINDS)
def test_another_file_is_refused_in_words(tmp_path, kind):
    path = tmp_path / "last.pt"
    foreign(path, kind)
    with pytest.raises(ValueError, match=r"move it away to start afresh") as error:
        checkpoint.load(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_disk_full_is_not_said_of_other_errors(tmp_path):
    with pytest.raises(FileNotFoundError):
        checkpoint.write(tmp_path / "absent" / "x", "")
    assert not issubclass(DiskFull, (ValueError, OSError)), "it is no user's mistake and no bug"
