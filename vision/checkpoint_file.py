"""Another program's weight file → its tensors by name, in the file's order. Runs no code that the file brings.

torch's files are read with weights_only=True; besides tensors they may hold what official training scripts put there:
argparse.Namespace and numpy's numbers. What a file is tells its content, not its suffix.
"""
import argparse
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from core.errors import SettingError

NESTS = (  # where programs keep the encoder's weights in a file; the averaged ones (EMA, teacher) before the others
    "teacher", "target_encoder", "state_dict_ema", "model_ema", "ema_state_dict", "ema", "state_dict", "model_state_dict",
    "model_state", "model", "classy_state_dict", "base_model", "trunk", "backbone", "encoder", "network", "net", "student",
    "params", "weights", "module",
)
DEPTH = 5  # VISSL: classy_state_dict, base_model, model, trunk


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a weight file."""

    path: Path
    tensors: dict[str, Tensor]  # on the CPU
    nest: str  # where in the file: "teacher", "state_dict", "model.trunk"; "" for a file of tensors alone
    ordered: bool  # are they in the order in which the program made them? safetensors sorts them


def read_checkpoint(path: str | Path, setting: str = "weights") -> Checkpoint:
    """The tensors of a .pth, .pt, .bin, .ckpt, .tar or .safetensors file.

    setting: the one that names the file. Raises SettingError, one line, for a file that holds no weights, that only code
    could read, or that is one of ours.
    """
    path = Path(path)
    start = _start(path, setting)
    if reason := _not_weights(start):
        raise SettingError(setting, f"{path}: {reason}")
    if zipfile.is_zipfile(path) or not _is_safetensors(start):
        content, ordered = _torch_content(path, setting), True
    else:
        content, ordered = _safetensors_content(path, setting), False
    tensors, nest = _unnested(content)
    if not tensors:
        raise SettingError(setting, f"{path}: {_without_weights(content)}")
    if bad := [name for name, value in tensors.items() if value.is_floating_point() and not value.isfinite().all()]:
        raise SettingError(setting, f"{path}: {bad[0]} is not finite everywhere; take a file of before that run diverged")
    return Checkpoint(path, tensors, nest, ordered)


def _start(path: Path, setting: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(512)
    except OSError as error:
        raise SettingError(setting, f"{path}: cannot be read: {error.strerror}") from error


def _not_weights(start: bytes) -> str | None:
    """What a file is by its first bytes, where that is no weight file."""
    text = start.lstrip().lower()
    if not start:
        return "is empty; download it again"
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "is a web page, not weights: the download went wrong; open its address in a browser and save the file itself"
    if text.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not weights; fetch the file itself with git lfs pull"
    if text.startswith(b"{"):
        return "is JSON text, not weights"
    if start.startswith(b"\x89HDF"):
        return "is an HDF5 file (Keras); PyTorch weights are read: .pth or .safetensors"
    return None


def _is_safetensors(start: bytes) -> bool:
    """Eight bytes of a length, then JSON."""
    return start[8:9] == b"{"


def _is_torchscript(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _torch_content(path: Path, setting: str) -> Any:
    if zipfile.is_zipfile(path) and _is_torchscript(path):
        way = "load it with torch.jit.load and save its state_dict()"
        raise SettingError(setting, f"{path}: is a TorchScript program, which is code; {way}")
    try:
        with torch.serialization.safe_globals(_plain_values()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise SettingError(setting, f"{path}: {_refused_code(path)}") from error
    except Exception as error:  # torch's readers fail in many ways
        why = f"is no weight file that torch can read ({_line(error)}); download it again"
        raise SettingError(setting, f"{path}: {why}") from error


def _plain_values() -> list:
    """Classes that training scripts store beside their weights; building one runs no code of the file's."""
    scalar = np._core.multiarray.scalar if hasattr(np, "_core") else np.core.multiarray.scalar
    kinds = {type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "?")}
    return [argparse.Namespace, np.dtype, *kinds, scalar, (scalar, "numpy.core.multiarray.scalar")]


def _refused_code(path: Path) -> str:
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except Exception:  # the old format, or no pickle that torch wrote
        names = []
    if not names:
        return "is no weight file that torch can read without running code; save the model's state_dict() alone"
    return (f"needs code to be read ({', '.join(sorted(names)[:3])}), which could do anything; where you trust it, load it "
            "with its own program and save model.state_dict()")


def _safetensors_content(path: Path, setting: str) -> dict[str, Tensor]:
    try:
        with safe_open(path, "pt") as file:
            if "nolabel" in (file.metadata() or {}):
                raise SettingError(setting, f"{path}: is an encoder.safetensors of nolabel; give it as encoder={path}")
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise SettingError(setting, f"{path}: is no safetensors file ({_line(error)}); download it again") from error


def _unnested(content: Any) -> tuple[dict[str, Tensor], str]:
    """The innermost mapping of tensors, and the names that lead to it, by dots."""
    nest: list[str] = []
    for _ in range(DEPTH):
        if not isinstance(content, Mapping) or _is_optimizer(content):
            return {}, ""
        inner = next((name for name in NESTS if isinstance(content.get(name), Mapping) and _holds_tensors(content[name])), None)
        if inner is None:
            break
        content = content[inner]
        nest.append(inner)
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor) and not value.is_sparse}
    return tensors, ".".join(nest)


def _holds_tensors(content: Mapping, depth: int = DEPTH) -> bool:
    if _is_optimizer(content):
        return False
    values = content.values()
    return any(isinstance(v, Tensor) or (depth > 0 and isinstance(v, Mapping) and _holds_tensors(v, depth - 1)) for v in values)


def _is_optimizer(content: Mapping) -> bool:
    return {"state", "param_groups"} <= {*content}


def _without_weights(content: Any) -> str:
    if isinstance(content, Mapping) and _is_optimizer(content):
        return "is the state of an optimizer, not weights; give the file of the model"
    what = f"a {type(content).__name__}"
    if isinstance(content, Mapping):
        what = f"a dictionary of {', '.join(map(str, [*content][:5])) or 'nothing'}"
    return f"holds no tensors by name ({what}); give a file of the model's state_dict()"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
