"""Caches find a place: without a home folder, with one that cannot be written, under a user that the system does not know."""
import os
import pwd
import tempfile
from pathlib import Path

import pytest

from core import home

NAMES = ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "HF_HOME", "TORCH_HOME", "MPLCONFIGDIR", "TRITON_CACHE_DIR")
NAMES += ("LOGNAME", "USER", "LNAME", "USERNAME")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An environment of its own: none of NAMES is set, temporary files are in tmp_path/tmp."""
    environment = {name: value for name, value in os.environ.items() if name not in NAMES}
    monkeypatch.setattr(os, "environ", environment)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    home._temporary.cache_clear()
    yield tmp_path
    home._temporary.cache_clear()


@pytest.fixture
def read_only(monkeypatch):
    """Makes a folder and all in it read-only, for root too."""
    folders: list[Path] = []
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: real(path, mode) and not (
        mode & os.W_OK and any(Path(path).is_relative_to(folder) for folder in folders)))
    return folders.append


def no_user(monkeypatch):
    def fail(uid):
        raise KeyError(f"uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", fail)


def test_a_home_folder_that_can_be_written_is_left_alone(place):
    os.environ |= {"HOME": str(place), "LOGNAME": "me"}
    before = dict(os.environ)
    assert home.prepare() is None
    assert os.environ == before


@pytest.mark.parametrize("value", [None, "", "/nowhere/at/all"])
def test_without_a_home_folder_caches_go_to_a_temporary_one(place, monkeypatch, value):
    no_user(monkeypatch)
    if value is not None:
        os.environ["HOME"] = value
    note = home.prepare()
    folder = place / "tmp" / f"nolabel-{os.getuid()}"
    assert note == f"note: there is no home folder; caches go to {folder}"
    assert os.environ["HOME"] == os.environ["XDG_CACHE_HOME"] == str(folder)
    assert os.environ["MPLCONFIGDIR"].startswith(str(folder))
    assert folder.stat().st_mode & 0o777 == 0o700
    assert os.environ["LOGNAME"] == f"user{os.getuid()}", "torch names its temporary folder by it"
    assert home.prepare() is None, "processes that this one starts find it and need no note"


def test_a_read_only_home_keeps_its_name_and_the_caches_that_are_there(place, read_only):
    """Published weights that were fetched before serve from a cache that cannot grow."""
    os.environ |= {"HOME": str(place / "me"), "LOGNAME": "me"}
    (place / "me" / ".cache" / "huggingface").mkdir(parents=True)
    read_only(place / "me")
    note = home.prepare()
    assert f"{place / 'me' / '.cache'} cannot be written" in note
    assert os.environ["HOME"] == str(place / "me")
    assert os.environ["HF_HOME"] == str(place / "me" / ".cache" / "huggingface")
    assert "TORCH_HOME" not in os.environ
    assert os.environ["XDG_CACHE_HOME"] == str(place / "tmp" / f"nolabel-{os.getuid()}")


def test_a_cache_folder_of_the_users_own_is_kept(place, monkeypatch):
    no_user(monkeypatch)
    os.environ |= {"XDG_CACHE_HOME": str(place / "mine"), "MPLCONFIGDIR": "elsewhere"}
    home.prepare()
    assert os.environ["XDG_CACHE_HOME"] == str(place / "mine")
    assert os.environ["MPLCONFIGDIR"] == "elsewhere"


def test_a_temporary_folder_that_another_could_have_filled_is_not_used(place):
    folder = place / "tmp" / f"nolabel-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    assert home._temporary() != folder
    assert home._temporary().parent == place / "tmp"
