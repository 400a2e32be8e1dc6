"""The files below a folder: which are images by their suffix, which are ignored, and how their names print. No torch here.

Names are bytes of the file system. They may hold anything but "/" and NUL: other encodings, newlines, terminal escapes.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator

from vision.decode import HEIC_SUFFIXES, SUFFIXES, reason

# Folders that network storage, desktops and notebooks leave behind. Their images are thumbnails, deleted files or copies.
LITTER = frozenset(name.lower() for name in (
    b"@eaDir", b"@Recycle", b"@Recently-Snapshot", b"#recycle", b"#snapshot", b"@tmp", b"__MACOSX", b".AppleDouble",
    b".Trashes", b".fseventsd", b".Spotlight-V100", b"$RECYCLE.BIN", b"System Volume Information", b"lost+found",
    b".ipynb_checkpoints", b".thumbnails",
))
WITHOUT_SUFFIX = "without suffix"
LISTED = 8  # kinds of ignored files in a message
_UNPRINTABLE = ("Cc", "Zl", "Zp", "Cs")  # Unicode: controls, line and paragraph separators, lone surrogates


def walk(
    root: bytes, within: bytes, ignored: Counter, closed: dict[str, str], suffixes: frozenset[bytes] = SUFFIXES
) -> Iterator[tuple[bytes, bytes]]:
    """(path relative to root, first-level folder below `within` or b"") of every file that ends so; each real folder once.

    The order is that of the names' bytes, whatever the file system's. Hidden names are passed over.
    ignored: counts the other files by suffix, and the folders in LITTER as "name/". closed: folder → why it was not read.
    """
    seen: set[tuple[int, int]] = set()  # a symlink to a folder already read, or to an ancestor, adds nothing
    stack = [(within, b"")]
    while stack:
        folder, group = stack.pop()
        try:
            status = os.stat(os.path.join(root, folder))
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            names = entries(os.path.join(root, folder), ignored)
        except OSError as error:
            closed[printable(os.path.join(root, folder))] = reason(error)
            continue
        folders = []
        for name, kind in names:
            if kind == "folder":
                folders.append((os.path.join(folder, name), group or name))
            elif kind == "file" and suffix(name) in suffixes:
                yield os.path.join(folder, name), group
            else:
                ignored[kind_of(name)] += 1
        stack.extend(reversed(folders))


def entries(folder: bytes, ignored: Counter | None = None) -> list[tuple[bytes, str]]:
    """(name, "folder", "file" or "other") of what is neither hidden nor litter, in the order of the names' bytes."""
    ignored = Counter() if ignored is None else ignored

    def kind(entry: os.DirEntry) -> str:
        try:
            if entry.is_dir():
                return "folder"
            # A symlink to nothing counts as a file, so as to be listed as unreadable; a pipe would block its reader.
            return "file" if entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path)) else "other"
        except OSError:  # a symlink to itself
            return "file"

    kept = []
    with os.scandir(folder) as listing:
        for entry in listing:
            if entry.name.lower() in LITTER and kind(entry) == "folder":
                ignored[f"{printable(entry.name)}/"] += 1
            elif entry.name.startswith(b"._"):
                ignored["._*"] += 1  # AppleDouble: what macOS keeps of a file x on other file systems, named ._x
            elif not entry.name.startswith(b"."):
                kept.append((entry.name, kind(entry)))
    return sorted(kept)


def suffix(name: bytes) -> bytes:
    return os.path.splitext(name)[1].lower()


def kind_of(name: bytes) -> str:
    """What an ignored file is counted as: its suffix in lower case, so that a data set has few kinds."""
    if packed := re.search(rb"\.tar\.[a-z0-9]{2,4}$", name.lower()):
        return packed[0].decode()
    end = suffix(name)
    if re.fullmatch(rb"\.[0-9]+", end):
        return ".<number>"  # slices of a scan, IM.0001, IM.0002 …
    return printable(end) if re.fullmatch(rb"\.[^\s.]{1,12}", end) else WITHOUT_SUFFIX


def litter_of(path: str) -> str:
    """What a path of an archive counts as if it is hidden or lies in a folder of LITTER: "._*", "in @eaDir/" …; else ""."""
    *folders, name = path.split("/")
    if litter := next((folder for folder in folders if os.fsencode(folder).lower() in LITTER), None):
        return f"in {litter}/"
    return "" if not name.startswith(".") else "._*" if name.startswith("._") else "hidden"


def ignored_note(ignored: dict[str, int]) -> str:
    """One line: how many files of which kind were ignored, and the way out. "" where there are none."""
    files = Counter({kind: count for kind, count in ignored.items() if not kind.endswith("/") or kind.startswith("in ")})
    folders = Counter({kind: count for kind, count in ignored.items() if kind not in files})
    if not files and not folders:
        return ""
    parts = []
    if files:
        total = files.total()
        parts.append(f"{total:,} other {'file' if total == 1 else 'files'} ignored ({listed(files)})")
    if folders:
        total = folders.total()
        parts.append(f"{total:,} {'folder' if total == 1 else 'folders'} ignored ({listed(folders)})")
    text = ", ".join(parts)
    if not files:
        return text
    suffixes = {one.decode() for one in SUFFIXES}
    text += f"; images are recognized by these suffixes: {' '.join(sorted(suffixes))}"
    if any(one in files for one in HEIC_SUFFIXES if one not in suffixes):
        text += "; HEIC needs the package pillow-heif (uv pip install pillow-heif)"
    if files[".avif"] and ".avif" not in suffixes:
        text += "; AVIF needs Pillow 11.3 or later"
    return text


def listed(counts: Counter) -> str:
    """ "200 .heic, 60 .mov, 15 without suffix", the most frequent first."""
    few = ", ".join(f"{count:,} {kind}" for kind, count in counts.most_common(LISTED))
    return f"{few}, …" if len(counts) > LISTED else few


def counted(number: int, noun: str, plural: str = "") -> str:
    """ "1 line", "1,200 lines"."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


# ------------------------------------------------------------------------------------------------------------------ names


def printable(path: bytes) -> str:
    """A path on one line, different for different paths: control characters and bytes that are not UTF-8 as escapes.

    Every other character of Unicode stays as it is.
    """
    text = path.decode("utf-8", "surrogateescape").replace("\\", r"\\")
    return "".join(_escaped(character) for character in text)


def one_line(text: str) -> str:
    """Text that can be printed on one line: as `printable`, but backslashes stay, so that it may be applied twice."""
    return "".join(_escaped(character) for character in text)


def _escaped(character: str) -> str:
    if unicodedata.category(character) not in _UNPRINTABLE:
        return character
    if "\udc80" <= character <= "\udcff":  # surrogateescape's way to hold a byte
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def class_name(name: bytes | str) -> str:
    """A class's name from a folder's or a table's: Unicode's NFC, so that equal names are equal strings.

    macOS writes "café" as e and a combining accent (NFD), most others as é (NFC).
    """
    text = name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else name
    return one_line(unicodedata.normalize("NFC", text))
