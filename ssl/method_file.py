"""method.safetensors: all of a method that is not its encoder: heads, teacher, decoder, mask token, prototypes, queues.

Beside encoder.safetensors in a run's folder, of the last step that the run made. The header states the method, its settings and
the encoder's spec (ssl/continued.py). No pickle is written or read. A teacher's copy of the encoder has timm's names, whatever
was trained in it (LoRA).
"""
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from core import cli
from core.errors import SettingError
from core.image_size import Size, size_text
from core.method import Method
from core.settings import PretrainSettings
from core.shard import gathered
from ssl.continued import ENCODER, FILE, KEY, TARGET, MethodHeader, folder_of, read_header
from vision import lora
from vision.encoders import Spec
from vision.resized import POSITIONS, resized_state

OWN = "encoder."  # what the names of the encoder itself begin with
SHOWN = 8  # names at most in a note


@dataclass(frozen=True)
class Taken:
    """What a method took of a file, by name."""

    taken: tuple[str, ...]
    left: Mapping[str, str]  # memories of the method that stay as they begin → why
    unused: tuple[str, ...]  # the file's
    changes: tuple[str, ...]  # in words

    @property
    def json(self) -> dict[str, Any]:
        return {"taken": list(self.taken), "left": dict(self.left), "unused": list(self.unused), "changes": list(self.changes)}

    @property
    def notes(self) -> list[str]:
        parts: dict[str, int] = {}
        for name in self.taken:
            parts[name.split(".")[0]] = parts.get(name.split(".")[0], 0) + 1
        listed = ", ".join(f"{name} ({count})" for name, count in parts.items()) or "none"
        left = "; ".join(f"{name}: {why}" for name, why in self.left.items())
        return [f"from: {len(self.taken)} tensors of the method taken: {listed}; not taken: {left or 'none'}; unused: "
                f"{_some(self.unused)}", *self.changes]


def contents(method: Method, settings: PretrainSettings, step: int) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The file's tensors and header: a function of weights, settings and step alone.

    Collective where the method is sharded; then the main process alone has the tensors.
    """
    copies = encoder_copies(method)
    state = {name: value for name, value in method.state_dict().items() if not name.startswith((OWN, *copies))}
    for prefix, module in copies.items():
        state |= {prefix + name: value for name, value in lora.merged(module).state_dict().items()}
    encoder = method.encoder
    fixed = () if lora.has_changes(encoder) else tuple(n for n, p in encoder.named_parameters() if not p.requires_grad)
    header = MethodHeader(settings.method.name, cli.plain(settings.method), encoder.spec.json, step, fixed)
    return gathered(state), {KEY: header.json}


def take(method: Method, settings: PretrainSettings) -> Taken:
    """Fill a method, whose encoder has its weights already, with what the run folder's file holds. In place.

    Memories (buffers: queues, centers) of other sizes stay as they begin, a module's together. Raises SettingError where a head
    has another shape or is missing: never a part alone, never random in silence.
    """
    folder = folder_of(settings)
    header, given = read_header(folder / FILE), _tensors(folder / FILE, settings)
    before, encoder, changes = Spec.of(dict(header.encoder)).image_size, method.encoder, []
    for prefix, module in encoder_copies(method).items():
        part = {name.removeprefix(prefix): given.pop(name) for name in list(given) if name.startswith(prefix)}
        given |= {prefix + name: value for name, value in _for_copy(part, module, encoder, before).items()}
    if before != encoder.spec.image_size:
        changes.append(f"from: images of {size_text(encoder.spec.image_size)} px, there {size_text(before)}: positions in the "
                       "encoder and in its copies are interpolated")
    own = {name: value for name, value in method.state_dict().items() if not name.startswith(OWN)}
    parameters = {name for name, _ in method.named_parameters()}
    misfit = {name: _why(given.get(name), value) for name, value in own.items()
              if name not in given or given[name].shape != value.shape}
    misfit = {name: why for name, why in misfit.items() if not _of_lora(name)}
    if wrong := next((name for name in misfit if name in parameters), None):
        raise SettingError("from", f"{settings.from_run}: {wrong} {misfit[wrong]}{_differences(header, settings)}; give those "
                           f"the same values, or begin with its encoder alone: encoder={folder / ENCODER}")
    spoilt = {_owner(name) for name in misfit} - {""}
    left = {name: misfit.get(name, "belongs to another that does not fit") for name in own
            if name in misfit or (_owner(name) in spoilt and name not in parameters)}
    taken = {name: given[name] for name in own if name in given and name not in left}
    method.load_state_dict(taken, strict=False)
    for name, parameter in encoder.named_parameters():
        if name in header.fixed:
            parameter.requires_grad_(False)
    return Taken(tuple(taken), left, tuple(name for name in given if name not in own), tuple(changes))


def encoder_copies(method: Method) -> dict[str, nn.Module]:
    """Prefix of names → module, of every encoder in the method but its own: a teacher's."""
    return {
        f"{name}.": module for name, module in method.named_modules()
        if hasattr(module, "spec") and hasattr(module, "dim") and module is not method.encoder
    }


def _for_copy(state: dict[str, Tensor], module: nn.Module, encoder: nn.Module, before: Size) -> dict[str, Tensor]:
    """A copy's state in the file → under the names and in the sizes of this run's copy."""
    state = resized_state(state, lora.merged(module), before)
    positions = dict(encoder.named_parameters()).get(POSITIONS)
    fixed = positions is not None and not positions.requires_grad and not lora.has_changes(encoder)
    if fixed and before != encoder.spec.image_size:
        state[POSITIONS] = positions.detach()  # fixed ones are computed for a size
    names = dict(module.named_parameters())
    changed = {name: f"{name.removesuffix('weight')}parametrizations.weight.original" for name in state}  # LoRA's name for it
    return {changed[name] if changed[name] in names else name: value for name, value in state.items()}


def _tensors(path: Path, settings: PretrainSettings) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except (SafetensorError, OSError) as error:
        raise SettingError("from", f"{settings.from_run}: {path} cannot be read: {error}") from error


def _why(given: Tensor | None, own: Tensor) -> str:
    if given is None:
        return "is not in the file"
    return f"is {_shape(given)} there and {_shape(own)} here"


def _differences(header: MethodHeader, settings: PretrainSettings) -> str:
    now = cli.plain(settings.method)
    found = [f"method.{name}={cli.recipe.text(value)} there, {cli.recipe.text(now.get(name))} here"
             for name, value in header.settings.items() if name != TARGET and now.get(name) != value]
    return f" ({'; '.join(found)})" if found else ""


def _of_lora(name: str) -> bool:
    return ".parametrizations." in name and not name.endswith(".original")


def _owner(name: str) -> str:
    return name.rpartition(".")[0]


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "one number"


def _some(names: tuple[str, ...]) -> str:
    return f"{len(names)} ({', '.join(names[:SHOWN])}{', …' if len(names) > SHOWN else ''})" if names else "none"
