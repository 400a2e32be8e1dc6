"""encoder.safetensors: an encoder's weights and how to rebuild it, in one file. The only thing the tools exchange.

The tensors carry timm's names. The header holds one JSON text under "nolabel": the encoder's spec, its input's
normalisation, its features, and where it came from. Loading is strict and runs no pickle.
"""
import json
from dataclasses import dataclass, replace
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import nn

from vision import encoders
from vision.augment import Recipe

FORMAT = 1


@dataclass(frozen=True)
class Card:
    """What an encoder file says of itself."""

    spec: encoders.Spec
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dim: int
    origin: dict


def dumps(encoder: nn.Module, recipe: Recipe, origin: dict) -> bytes:
    """The file's bytes: a function of weights and arguments alone, so equal runs leave equal files."""
    header = {
        "format": FORMAT,
        "encoder": encoder.spec.json,
        "mean": [round(float(m), 6) for m in recipe.mean],
        "std": [round(float(s), 6) for s in recipe.std],
        "dim": encoder.dim,
        "origin": origin,
    }
    tensors = {name: t.detach().cpu().contiguous() for name, t in encoder.state_dict().items()}
    return safetensors.torch.save(tensors, {"nolabel": json.dumps(header, sort_keys=True)})


def read_card(path: str | Path) -> Card:
    """The header alone.  Raises ValueError when the file is not one of ours."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise ValueError(f"encoder={path}: no such file")
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {})["nolabel"])
        if header["format"] != FORMAT:
            raise ValueError(f"format {header['format']}, this version reads {FORMAT}")
        spec = header["encoder"] | {"arguments": _tuples(header["encoder"]["arguments"])}
        return Card(
            encoders.Spec(**spec), tuple(header["mean"]), tuple(header["std"]), header["dim"], header["origin"]
        )
    except (SafetensorError, KeyError, TypeError, AttributeError, ValueError, OSError) as error:
        raise ValueError(f"encoder={path} is not an encoder.safetensors of nolabel: {_line(error)}") from error


def load(path: str | Path, several_sizes: bool = False) -> tuple[nn.Module, Card]:
    """The encoder in evaluation mode, and its card.  Strict: every weight must be there and fit.

    several_sizes: a transformer is to take other sizes than its own too (`encoders.create`).
    """
    card = read_card(path)
    if several_sizes and "img_size" in card.spec.arguments:
        card = replace(card, spec=replace(card.spec, arguments=card.spec.arguments | {"dynamic_img_size": True}))
    encoder = encoders.build(card.spec)
    try:
        encoder.load_state_dict(safetensors.torch.load_file(Path(path).expanduser()))
    except (RuntimeError, SafetensorError, OSError) as error:
        raise ValueError(f"encoder={path}: its weights do not fit {card.spec.name}: {_line(error)}") from error
    return encoder.eval(), card


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _tuples(arguments: dict) -> dict:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in arguments.items()}


def snippet(card: Card, path: str) -> str:
    """At most three lines of plain timm that load the file: what report.md and the README show."""
    extra = "".join(f", {k}={v!r}" for k, v in card.spec.arguments.items())
    lines = [
        f"model = timm.create_model({card.spec.name!r}, num_classes=0, in_chans={card.spec.channels}{extra}).eval()",
        "; ".join(f"model.set_submodule({name!r}, {new})" for name, new in _surgery(card.spec)),
        f"model.load_state_dict(safetensors.torch.load_file({path!r}))",
    ]
    return "\n".join(line for line in lines if line)


def _surgery(spec: encoders.Spec) -> list[tuple[str, str]]:
    """What `encoders.small_stem` changed in timm's model: (module's name, what stands there now, as Python)."""
    plain = encoders.build(replace(spec, stem="full"))
    before = dict(plain.named_modules())
    changed = []
    for name, module in encoders.build(spec).named_modules():
        if repr(module) == repr(before[name]):
            continue
        if isinstance(module, nn.Identity):
            changed.append((name, "torch.nn.Identity()"))
        elif type(module) is nn.Conv2d:
            stride = "" if module.stride == (1, 1) else f", stride={module.stride[0]}"
            bias = "" if module.bias is not None else ", bias=False"
            new = f"torch.nn.Conv2d({module.in_channels}, {module.out_channels}, 3{stride}, padding=1{bias})"
            changed.append((name, new))
    return changed
