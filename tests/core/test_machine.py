"""What the machine lacks is worked around: git, an affinity mask, a file system that can sync folders."""
import ast
import errno
import os
import stat
from pathlib import Path

import pytest
from test_imports import PACKAGES

from core import checkpoint, machine
from core.errors import RunError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def git(tmp_path, monkeypatch):
    """Shell commands → a git that runs them, the only one on the PATH; None: no git at all."""

    def put(script: str | None) -> None:
        if script is not None:
            (tmp_path / "git").write_text(f"#!/bin/sh\n{script}\n")
            (tmp_path / "git").chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))

    return put


@pytest.mark.parametrize("script", [
    None,
    "echo 'fatal: not a git repository' >&2; exit 128",
    "echo 'fatal: detected dubious ownership in repository' >&2; exit 128",
    "echo half a word; exit 1",
], ids=["no git", "no repository", "dubious ownership", "failing"])
def test_a_commit_that_git_cannot_tell_is_unknown(git, script):
    git(script)
    assert machine.code() == "unknown"


def test_a_git_that_does_not_answer_is_given_up(git, monkeypatch):
    monkeypatch.setattr(machine, "GIT_SECONDS", 0.1)
    git("exec /bin/sleep 60")
    assert machine.code() == "unknown"


def test_a_git_that_may_not_be_started_is_none(git, tmp_path):
    git("exit 0")
    (tmp_path / "git").write_text("no program")
    assert machine.code() == "unknown"


@pytest.mark.parametrize(("changed", "expected"), [("", "abc123"), ("M file", "abc123+")])
def test_a_commit_and_whether_files_have_changed_since(git, changed, expected):
    git(f'case "$3" in rev-parse) echo abc123;; status) echo "{changed}";; esac')
    assert machine.code() == expected


def test_cores_are_those_of_the_affinity_mask_or_else_of_the_machine(monkeypatch):
    monkeypatch.setattr(machine, "cpu_quota", lambda: None)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3, 5}, raising=False)
    assert machine.cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")  # macOS
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert machine.cores() == 7
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert machine.cores() == 1


@pytest.mark.parametrize(("quota", "expected"), [(None, 8), (2.0, 2), (2.5, 3), (0.1, 1), (64.0, 8)])
def test_a_containers_quota_limits_the_cores(monkeypatch, quota, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(machine, "cpu_quota", lambda: quota)
    assert machine.cores() == expected


@pytest.mark.parametrize(("files", "expected"), [
    ({}, None),
    ({"cpu.max": "max 100000\n"}, None),
    ({"cpu.max": "250000 100000\n"}, 2.5),
    ({"cpu.max": "odd\n"}, None),
    ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
    ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.5),
])
def test_a_quota_as_cgroups_write_it(tmp_path, files, expected):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert machine.cpu_quota(tmp_path) == expected


def test_one_function_alone_asks_the_system_for_its_cores():
    """`os.sched_getaffinity` is missing on macOS: whoever calls it elsewhere ends there in an AttributeError."""
    found = set()
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)]
        if any(node.attr in ("sched_getaffinity", "cpu_count") for node in nodes):
            found.add(path.relative_to(ROOT).as_posix())
    assert found == {"core/machine.py"}


@pytest.mark.parametrize(("code", "raises"), [
    (errno.EINVAL, None), (errno.ENOTSUP, None), (errno.EIO, RunError), (errno.ENOSPC, RunError), (errno.EBADF, OSError),
])
def test_a_folder_that_cannot_be_synced_is_written_to_and_a_broken_disk_is_not(tmp_path, monkeypatch, code, raises):
    real = os.fsync

    def fsync(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(code, os.strerror(code))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    if raises is None:
        checkpoint.write(tmp_path / "file", "text")
        assert (tmp_path / "file").read_text() == "text"
    else:
        with pytest.raises(raises):
            checkpoint.write(tmp_path / "file", "text")
    assert not list(tmp_path.glob(".*.tmp"))
