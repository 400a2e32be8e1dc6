"""The home folder: paths that begin with it, and a place for caches where there is none that can be written."""
import getpass
import os
import stat
import tempfile
from functools import cache
from pathlib import Path

READABLE = {"HF_HOME": "huggingface", "TORCH_HOME": "torch"}  # caches whose files serve even where none can be added


def prepare() -> str | None:
    """Point this process and its children to caches that can be written.  Returns a line to tell the user, or None.

    Call it before torch, numba, matplotlib or huggingface_hub are loaded: they look for their folders then. What stands in
    environment variables of the user's own is kept.
    """
    _name_user()
    if not os.environ.get("HOME"):
        os.environ.pop("HOME", None)  # an empty one would mean the root folder
    home = _home()
    place = Path(os.environ.get("XDG_CACHE_HOME") or (home / ".cache" if home else _temporary()))
    if home and _writable(place):
        if not _writable(Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")):
            os.environ.setdefault("MPLCONFIGDIR", str(place / "matplotlib"))
        return None
    for variable, name in READABLE.items():
        if (place / name).is_dir():
            os.environ.setdefault(variable, str(place / name))
    given, place = place, place if _writable(place) else _temporary()
    os.environ["XDG_CACHE_HOME"] = str(place)
    os.environ.setdefault("MPLCONFIGDIR", str(place / "matplotlib"))
    os.environ.setdefault("TRITON_CACHE_DIR", str(place / "triton"))
    if home is None:
        os.environ["HOME"] = str(place)
        return f"note: there is no home folder; caches go to {place}"
    return f"note: {given} cannot be written; caches go to {place} (XDG_CACHE_HOME=FOLDER chooses another)"


def expand(path: str) -> Path:
    """A path of the settings, its ~ and $VARIABLES replaced.  Raises ValueError where there is no such user's home folder."""
    try:
        return Path(os.path.expandvars(path)).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{path}: the system knows no home folder of that user; write the folder's whole path") from error


def cache_folder(name: str) -> Path:
    """A folder of that name in the user's cache; nothing makes it.  Raises RuntimeError where there is no home folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nolabel" / name


def _home() -> Path | None:
    """The user's home folder, None where neither HOME nor the system's list of users names one that is there."""
    try:
        home = Path.home()
    except RuntimeError:
        return None
    return home if home.is_absolute() and home.is_dir() else None


def _name_user() -> None:
    """Libraries ask for the user's name to name a temporary folder, and fail where the system's list of users lacks it."""
    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):
        os.environ["LOGNAME"] = f"user{os.getuid()}"


def _writable(folder: Path) -> bool:
    """May this process make files in the folder, or make it?"""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


@cache
def _temporary() -> Path:
    """A folder of this user alone; the same one each time where it is ours."""
    folder = Path(tempfile.gettempdir()) / f"nolabel-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
        if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022:
            return folder
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="nolabel-"))
