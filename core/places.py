"""Paths among the settings: an output folder that is a run's own, weights of a kind that the tools read."""
import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.home import expand

CHECKOUT = Path(__file__).resolve().parent.parent
CHECKPOINTS = (".pth", ".pt", ".bin", ".ckpt", ".tar", ".safetensors")  # of other programs, which `weights` may name
PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".tar", ".h5", ".npz")
EXPORTED = (".onnx", ".pt2", ".engine", ".torchscript.pt")


def check(flat: Mapping[str, Any], paths: Mapping[str, str]) -> None:
    """Raises ValueError for a path that cannot be meant.

    flat: dotted setting → value; paths: setting → "folder" (to write to) or "weights" (encoder files, several by comma)
    """
    for name, value in flat.items():
        if isinstance(value, str) and value.startswith("~"):
            try:
                expand(value)
            except ValueError as error:
                raise ValueError(f"{name}={error}") from error
    named = {name: (flat[name], path) for name, path in paths.items() if isinstance(flat.get(name), str)}
    for name, (value, path) in named.items():
        if path == "folder" and not value.strip():
            raise ValueError(f"{name}={value}: is empty; name a folder, such as {name}=runs/mine")
    if isinstance(out := flat.get("out"), str) and out != "auto":
        check_out(out)
    for name, (value, path) in named.items():
        for part in value.split(",") if path == "weights" else ():
            check_weights(name, part.strip())


def check_out(out: str) -> None:
    """Refuse folders that are not a run's: files of a run would lie among others, and could replace them."""
    folder = expand(out).resolve()
    reserved = {CHECKOUT: "this checkout", Path("/"): "the root folder"}
    with contextlib.suppress(RuntimeError):  # there is none
        reserved[Path.home().resolve()] = "your home folder"
    for place in sorted(reserved, key=lambda place: place != folder):  # itself first
        if place.is_relative_to(folder):
            holds = "is" if place == folder else "holds"
            raise ValueError(f"out={out}: {holds} {reserved[place]}; give a folder of the run's own, such as out=runs/mine")
    if folder == Path.cwd() and any(folder.iterdir()) and not (folder / "config.yaml").exists():
        raise ValueError(f"out={out}: is the working folder, which holds other files; give a folder such as out=runs/mine")


def check_weights(name: str, path: str) -> None:
    """Refuse a file that is there and not an encoder.safetensors: what it is, and what to give instead."""
    if path.endswith(".safetensors") or path.startswith(("hf-hub:", "hf_hub:", "local-dir:")):
        return
    suffixed, file = path.endswith((*PICKLES, *EXPORTED)), expand(path)
    if not suffixed and not ("/" in path and file.is_dir()):
        return
    named, ours = f"{name}={path}", file.parent / "encoder.safetensors"
    if not suffixed:
        inside = [file / n for n in ("encoder.safetensors", "classifier.safetensors") if (file / n).is_file()]
        raise ValueError(f"{named}: is a folder; give {inside[0] if inside else 'an encoder.safetensors, or a timm name'}")
    if not file.is_file():
        raise ValueError(f"{named}: no such file; give an encoder.safetensors, or a timm name with pretrained=true")
    if file.name == "last.pt":
        way = f"give {ours}" if ours.is_file() else f"the command that began it, given again, ends with {ours}: give that"
        raise ValueError(f"{named}: is a run's saved state, not an encoder; {way}")
    if path.endswith(EXPORTED):
        raise ValueError(f"{named}: is an exported model; give the encoder.safetensors that it was exported from")
    way = {"encoder": "encoder=NAME of its timm architecture and weights=THE FILE",
           "student": "student=NAME of its timm architecture and weights=THE FILE",
           "teacher": "teacher=NAME of its timm architecture and teacher_weights=THE FILE"}
    raise ValueError(
        f"{named}: is another program's file; give {way.get(name, 'an encoder.safetensors or a timm name')}"
        f"{', or an encoder.safetensors' if name in way else ''}"
    )


def check_checkpoint(name: str, path: str) -> None:
    """Refuse what cannot be a weight file of another program."""
    named, file = f"{name}={path}", expand(path)
    if not path.endswith(CHECKPOINTS):
        raise ValueError(f"{named}: is no weight file by its name; {', '.join(CHECKPOINTS)} are read")
    if not file.is_file():
        raise ValueError(f"{named}: {'is a folder' if file.is_dir() else 'no such file'}; give a weight file")
    if path.endswith(EXPORTED) or (file.name == "last.pt" and (file.parent / "config.yaml").is_file()):
        check_weights(name, path)
