"""Labelled folders of real pictures that packages ship, where nothing can be downloaded.

    uv run python -m experiments.picture_sets --set sprites --out sets/sprites

| set | pictures | classes | package (Debian, or Python) | licence of the pictures |
|---|---|---|---|---|
| sprites | units of a game, 72 px, a few frames of each | race | wesnoth-1.16-data | GPL-2+ and CC-BY-SA-4.0 |
| emoji | Noto Color Emoji, 136×128 px | Unicode's group | fonts-noto-color-emoji, unicode-data | OFL-1.1 |
| photos | tiles of photographs, 96 px | the photograph | scikit-image, scikit-learn, plasma-workspace-wallpapers | various |
| icons | Oxygen icons, 64 to 128 px | purpose | oxygen-icon-theme | LGPL-3+ |
| furniture | renderings of furniture | catalog's category | sweethome3d-furniture | CC0, CC-BY, Free Art |

Each is split into train/, val/ and test/ (60, 15 and 25 %) by groups: no unit of a game and no block of a photograph is in
two of them. The split is a hash of the group's name, so that it is the same everywhere.
"""
import argparse
import hashlib
import io
import json
import re
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

LEAST_GROUPS = 10  # of a class; smaller classes are left out
FRAMES = 8  # of a unit, evenly spaced
SHARES = (("train", 0.60), ("val", 0.75), ("test", 1.0))  # cumulative


@dataclass(frozen=True)
class Picture:
    label: str
    group: str  # pictures of one group are in one split
    name: str
    image: Image.Image


def sprites() -> Iterator[Picture]:
    """Wesnoth's units. A group is a unit: the frames of its animations resemble each other."""
    root = installed("/usr/share/games/wesnoth/1.16/data/core/images/units", "wesnoth-1.16-data")
    units = defaultdict(list)
    for path in sorted(root.glob("*/**/*.png")):
        race = path.relative_to(root).parts[0]
        units[race, re.split(r"[-+]", path.stem)[0]].append(path)
    for (race, unit), paths in units.items():
        for k in np.unique(np.linspace(0, len(paths) - 1, FRAMES).round().astype(int)):
            yield Picture(race, f"{race}/{unit}", f"{unit}-{paths[k].stem}", Image.open(paths[k]))


def emoji() -> Iterator[Picture]:
    """The bitmaps of single code points, without tones of skin."""
    from fontTools.ttLib import TTFont

    font = TTFont(installed("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf", "fonts-noto-color-emoji"))
    listing = installed("/usr/share/unicode/emoji/emoji-test.txt", "unicode-data").read_text("utf-8")
    glyphs, bitmaps = font.getBestCmap(), font["CBDT"].strikeData[0]
    group = ""
    for line in listing.splitlines():
        if line.startswith("# group:"):
            group = line.removeprefix("# group:").strip()
        found = re.match(r"([0-9A-F]+)(?: FE0F)? +; fully-qualified", line)
        if found and (glyph := glyphs.get(int(found[1], 16))) in bitmaps:
            yield Picture(group, found[1], found[1], Image.open(io.BytesIO(bitmaps[glyph].imageData)))


def photos() -> Iterator[Picture]:
    """Tiles of 96 px, without overlap, from an 8×8 grid of each photograph. A group is a cell of the grid and its pictures."""
    import skimage.data
    import sklearn.datasets

    root = Path(skimage.data.__file__).parent
    paths = [p for p in sorted(root.iterdir()) if p.stem in PHOTOGRAPHS]
    paths += sorted((Path(sklearn.datasets.__file__).parent / "images").glob("*.jpg"))
    walls = installed("/usr/share/wallpapers", "plasma-workspace-wallpapers")
    for wall in WALLPAPERS:
        paths += [max((walls / wall / "contents" / "images").glob("*"), key=lambda p: p.stat().st_size)]
    for path in paths:
        image = Image.open(path).convert("RGB")
        image = image.resize([round(side * 1152 / min(image.size)) for side in image.size], Image.Resampling.BICUBIC)
        label = path.stem if path.parts[-3] != "contents" else path.parts[-4]
        for row in range(8):
            for column in range(8):
                left, top = (image.width - 1152) // 2 + 144 * column + 24, 144 * row + 24
                tile = image.crop((left, top, left + 96, top + 96))
                yield Picture(label, f"{label}-{row}-{column}", f"{label}-{row}-{column}", tile)


PHOTOGRAPHS = ("astronaut", "brick", "chelsea", "coffee", "grass", "gravel", "hubble_deep_field", "ihc", "motorcycle_left",
               "retina", "rocket", "moon", "camera")
WALLPAPERS = ("Autumn", "BytheWater", "Canopee", "ColorfulCups", "EveningGlow", "FallenLeaf", "MilkyWay", "OneStandsOut",
              "Path")


def icons() -> Iterator[Picture]:
    root = installed("/usr/share/icons/oxygen/base", "oxygen-icon-theme")
    found = {}
    for side in (64, 128):  # the larger one wins
        for path in sorted((root / f"{side}x{side}").glob("*/*.png")):
            if not path.is_symlink():
                found[path.parent.name, path.stem] = path
    for (purpose, name), path in found.items():
        yield Picture(purpose, name, name, Image.open(path))


def furniture() -> Iterator[Picture]:
    root = installed("/usr/share/sweethome3d/furniture", "sweethome3d-furniture")
    for path in sorted(root.glob("*.sh3f")):
        with zipfile.ZipFile(path) as archive:
            lines = archive.read("PluginFurnitureCatalog.properties").decode("latin-1").splitlines()
            entries = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
            for key in sorted(k for k in entries if k.startswith("icon#")):
                number, icon = key.removeprefix("icon#"), entries[key].strip().lstrip("/")
                picture = Image.open(io.BytesIO(archive.read(icon)))
                label = entries[f"category#{number}"].strip()
                yield Picture(label, f"{path.stem}-{number}", f"{path.stem}-{number}", picture)


SETS = {"sprites": sprites, "emoji": emoji, "photos": photos, "icons": icons, "furniture": furniture}


def installed(path: str, package: str) -> Path:
    """Raises SystemExit where the package is missing."""
    if not Path(path).exists():
        raise SystemExit(f"{path} is missing: apt-get install {package}")
    return Path(path)


def split_of(group: str) -> str:
    place = int.from_bytes(hashlib.sha256(group.encode()).digest()[:8], "big") / 2**64
    return next(name for name, share in SHARES if place < share)


def build(name: str, out: Path) -> dict:
    """Write the set's folders, and what they hold to set.json.  Raises SystemExit where `out` holds something already."""
    if out.exists() and any(out.iterdir()):
        raise SystemExit(f"--out {out}: is there already; delete it or name another folder")
    pictures, seen = [], set()
    for picture in SETS[name]():
        rgba = picture.image.convert("RGBA")
        flat = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
        digest = hashlib.sha256(flat.tobytes()).digest()
        if digest not in seen:  # a copy, perhaps under another label
            seen.add(digest)
            pictures.append((picture, flat))
    groups = Counter(label for label, _ in {(p.label, p.group) for p, _ in pictures})
    counts: Counter = Counter()
    for picture, flat in pictures:
        if groups[picture.label] >= LEAST_GROUPS:
            split = split_of(picture.group)
            label = re.sub(r"\W+", "_", picture.label.lower()).strip("_")
            file = out / split / label / f"{re.sub(r'[^A-Za-z0-9_-]+', '_', picture.name)}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            flat.save(file)
            counts[split, label] += 1
    classes = sorted({label for _, label in counts})
    about = {"set": name, "classes": classes,
             **{split: sum(n for (s, _), n in counts.items() if s == split) for split, _ in SHARES}}
    (out / "set.json").write_text(json.dumps(about, indent=1) + "\n")
    return about


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--set", choices=SETS, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    print(json.dumps(build(arguments.set, arguments.out)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
