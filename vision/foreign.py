"""Another program's weights in a timm encoder: which of a file's tensors is which of the encoder's, exactly or not at all.

Official checkpoints (MoCo, DINO, DINOv2, MAE, SwAV, Barlow Twins, torchvision, …) keep an encoder under a prefix, beside heads.
By name: the prefix under which most names and shapes are the encoder's is taken off; timm's own converters
(`checkpoint_filter_fn`) rename what other programs call differently, and interpolate positions and patches to the encoder's
size.
By order, where names differ: the tensors one after the other, each of the same shape, the same kind (weight, bias,
running_mean, …) and in the same grouping into layers.
"""
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from core.errors import SettingError
from vision.checkpoint_file import Checkpoint
from vision.stems import stem_weights

# What wrappers and methods put before the encoder's names. Where two copies fit alike, the earlier one is taken.
PREFIXES = (
    "teacher", "target_encoder", "ema", "backbone", "encoder_q", "base_encoder", "online_network", "online_encoder", "encoder",
    "trunk", "module", "_orig_mod", "model", "network", "net", "base_model", "_feature_blocks", "visual", "image_encoder",
    "student", "encoder_k", "momentum_encoder", "momentum_backbone", "target_network",
)
TOKENS = {"cls_token", "pos_embed", "reg_token", "register_tokens", "dist_token", "patch_embed"}  # never a head's
COUNTER = "num_batches_tracked"  # of BatchNorm: files of before PyTorch 0.4.1 lack it, and evaluation does not read it


@dataclass(frozen=True)
class LoadedWeights:
    """What was taken from a weight file: goes into the encoder's header, and to the user as a note."""

    file: str  # its name
    nest: str  # where in the file: "state_dict"
    prefix: str  # before the encoder's names: "module.encoder_q."
    matched_by: str  # "name" | "order" | "timm", of its own published weights
    loaded: int  # tensors of the encoder
    unused: tuple[str, ...]  # tensors of the file: heads, queues, other copies of the encoder
    missing: tuple[str, ...] = ()  # tensors of the encoder: BatchNorm's counters alone, else the file is refused
    changes: tuple[str, ...] = ()  # what was adapted, in words

    @property
    def json(self) -> dict[str, Any]:
        return {
            "file": self.file, "nest": self.nest, "prefix": self.prefix, "matched_by": self.matched_by, "loaded": self.loaded,
            "missing": list(self.missing), "unused": list(self.unused), "changes": list(self.changes),
        }

    @property
    def notes(self) -> list[str]:
        """A line on what was loaded, and one for each change."""
        place = f" ({', '.join(part for part in (self.nest, self.prefix) if part)})" if self.nest or self.prefix else ""
        ways = {"order": "by order and shape, as their names are not timm's", "timm": "by timm"}
        how = ways.get(self.matched_by, "by name")
        first = f"weights: {self.loaded} tensors of {self.file}{place} loaded {how}; missing: {_some(self.missing)}; "
        return [f"{first}unused: {_some(self.unused)}", *self.changes]


@dataclass(frozen=True)
class Fit:
    """The tensors for an encoder, by its names, and what they are.  The stem may have another number of input channels."""

    tensors: dict[str, Tensor]
    loaded: LoadedWeights
    channels: int | None  # that the file's stem takes; None where the encoder's stem is no plain convolution


@dataclass(frozen=True)
class _ByName:
    """One prefix tried."""

    prefix: str
    found: dict[str, Tensor]  # encoder's name → the file's tensor, of the right shape
    misshapen: dict[str, tuple[int, ...]]  # encoder's name → the file's shape
    missing: list[str]  # the encoder's
    extra: list[str]  # the file's, under this prefix, after timm's converter
    dropped: list[str]  # the file's that timm's converter left out, such as mask_token
    changes: tuple[str, ...]

    @property
    def score(self) -> tuple[int, int]:
        last = self.prefix.rstrip(".").rpartition(".")[2]
        return len(self.found), -(PREFIXES.index(last) if last in PREFIXES else len(PREFIXES))


def fit(checkpoint: Checkpoint, encoder: nn.Module, name: str, setting: str = "weights") -> Fit:
    """The file's tensors for this encoder.

    name: the encoder's, as the user gave it; setting: the one that names the file. Raises SettingError, one line, where a
    tensor of the encoder is not in the file or of another shape, or the file's encoder has more than this one: never a part
    alone, never random in silence.
    """
    tried = [_by_name(checkpoint.tensors, prefix, encoder) for prefix in _prefixes(checkpoint.tensors)]
    best = max(tried, key=lambda one: one.score)
    surplus = [name for name in best.extra if _is_encoders(name, encoder)]
    if not best.missing and not best.misshapen and not surplus:
        return _fitted(checkpoint, encoder, best)
    if len(best.found) <= len(_needed(encoder)) / 2:
        result = _by_order(checkpoint, encoder)
        if isinstance(result, Fit):
            return result
        why = f"its names are not timm's for it, and {result}"
    else:
        why = _misfit(best, surplus)
    way = f"name the timm architecture that it belongs to as {'teacher' if setting == 'teacher_weights' else 'encoder'}="
    raise SettingError(setting, f"{checkpoint.path}: does not fit {name}: {why}; {way}")


def _fitted(checkpoint: Checkpoint, encoder: nn.Module, best: _ByName) -> Fit:
    outside = [name for name in checkpoint.tensors if not name.startswith(best.prefix)]
    unused = (*(best.prefix + name for name in (*best.extra, *best.dropped)), *outside)
    missing = tuple(name for name in encoder.state_dict() if name not in best.found)
    loaded = LoadedWeights(
        checkpoint.path.name, checkpoint.nest, best.prefix, "name", len(best.found), unused, missing, best.changes
    )
    return Fit(best.found, loaded, _channels(encoder, best.found))


def _misfit(best: _ByName, surplus: list[str]) -> str:
    """Why names that are timm's do not fit."""
    reasons = []
    if best.misshapen:
        name, shape = next(iter(best.misshapen.items()))
        reasons.append(f"{len(best.misshapen)} tensors have other shapes, {name} {_shape(shape)} in the file")
    if best.missing:
        reasons.append(f"it lacks {_some(best.missing)}")
    if surplus:
        reasons.append(f"it has {_some(surplus)}, which the encoder has not")
    return ", and ".join(reasons)


def _needed(encoder: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in encoder.state_dict().items() if not name.endswith(COUNTER)}


def _prefixes(names: Iterable[str]) -> list[str]:
    """"" and all prefixes of known wrappers that names have: module., module.encoder_q., …"""
    found = {""}
    for name in names:
        prefix = ""
        for part in name.split(".")[:-1]:
            if part not in PREFIXES:
                break
            prefix += f"{part}."
            found.add(prefix)
    return sorted(found)


def _by_name(tensors: dict[str, Tensor], prefix: str, encoder: nn.Module) -> _ByName:
    own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    renamed = converted(_unchunked(own), encoder)
    state, flexible = encoder.state_dict(), stem_weights(encoder)
    found, misshapen = {}, {}
    for name in state.keys() & renamed.keys():
        if _alike(renamed[name].shape, state[name].shape, name in flexible):
            found[name] = renamed[name]
        else:
            misshapen[name] = tuple(renamed[name].shape)
    ordered = {name: found[name] for name in state if name in found}
    missing = [name for name in _needed(encoder) if name not in found and name not in misshapen]
    extra = [name for name in renamed if name not in state]
    kept = {id(value) for value in renamed.values()}
    dropped = [name for name, value in own.items() if name not in renamed and id(value) not in kept]
    changes = tuple(
        f"{name}: interpolated from {_shape(own[name].shape)} to {_shape(value.shape)} (timm's resampling)"
        for name, value in ordered.items() if name in own and _interpolated(own[name].shape, value.shape)
    )
    return _ByName(prefix, ordered, misshapen, missing, extra, dropped, changes)


def _interpolated(old: Iterable[int], new: Iterable[int]) -> bool:
    """Did timm's converter resample a tensor?  Kernels O,I,h,w; positions 1,tokens,D, of which the class's may be left out."""
    old, new = tuple(old), tuple(new)
    if len(old) != len(new) or old == new:
        return False
    return old[2:] != new[2:] if len(old) == 4 else old[-2] - new[-2] not in (0, 1)


def _unchunked(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """blocks.1.7.norm1.weight, as DINOv2 trains with FSDP, is blocks.7.norm1.weight."""
    pattern = re.compile(r"^blocks\.\d+\.(\d+)\.")
    blocks = [name for name in tensors if name.startswith("blocks.")]
    if not blocks or not all(map(pattern.match, blocks)):
        return tensors
    renamed = {pattern.sub(r"blocks.\1.", name): value for name, value in tensors.items()}
    return renamed if len(renamed) == len(tensors) else tensors


def converted(tensors: dict[str, Tensor], encoder: nn.Module) -> dict[str, Tensor]:
    """Tensors under timm's names and in the encoder's sizes, by the converter of timm's module where it has one."""
    convert = getattr(sys.modules[type(encoder).__module__], "checkpoint_filter_fn", None)
    if convert is None or not tensors:
        return tensors
    try:
        return {name: value for name, value in convert(dict(tensors), encoder).items() if isinstance(value, Tensor)}
    except Exception:  # written for files of one kind each: of others they fail in many ways
        return tensors


def _is_encoders(name: str, encoder: nn.Module) -> bool:
    """Is a tensor that the encoder has no place for one of an encoder, and not of a head?"""
    if name in dict(encoder.named_buffers()) or name.endswith((COUNTER, "relative_position_index", "attn_mask")):
        return False  # computed from the shape
    classifier = encoder.default_cfg.get("classifier") or ()
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    if any(name.startswith(f"{head}.") for head in heads):
        return False
    first = name.split(".")[0]
    return first in TOKENS or first in {other.split(".")[0] for other in encoder.state_dict()}


def _alike(one: Iterable[int], other: Iterable[int], any_channels: bool) -> bool:
    """The same shape; of a stem, the second figure aside."""
    one, other = tuple(one), tuple(other)
    return one == other or (any_channels and len(one) == len(other) > 2 and one[:1] + one[2:] == other[:1] + other[2:])


def _by_order(checkpoint: Checkpoint, encoder: nn.Module) -> Fit | str:
    """The tensors one after the other; or why not."""
    if not checkpoint.ordered:
        return "a .safetensors file keeps no order by which they could be told"
    needed, flexible = _needed(encoder), stem_weights(encoder)
    given = {name: value for name, value in checkpoint.tensors.items() if not name.endswith(COUNTER)}
    if len(given) < len(needed):
        return f"it has {len(given)} tensors where the encoder has {len(needed)}"
    found, layers = {}, {}
    for place, ((name, value), (other, tensor)) in enumerate(zip(needed.items(), given.items(), strict=False), 1):
        layer, _, kind = name.rpartition(".")
        other_layer, _, other_kind = other.rpartition(".")
        if not _alike(tensor.shape, value.shape, name in flexible) or kind != other_kind:
            return (f"its tensors are others in order too: number {place} is {other} {_shape(tensor.shape)}, "
                    f"the encoder's {name} {_shape(value.shape)}")
        if layers.setdefault(layer, other_layer) != other_layer:
            return f"its tensors are grouped into other layers: {other} stands where {layer} has its {kind}"
        found[name] = tensor
    if len(set(layers.values())) != len(layers):
        return "its tensors are grouped into other layers"
    rest = list(given)[len(needed) :]
    if any(given[name].ndim > 2 for name in rest):
        return f"it has {_some(rest)} beyond the encoder's {len(needed)} tensors"
    counted = {name.rpartition(".")[0] for name in checkpoint.tensors if name.endswith(COUNTER)}
    counters = [name for name in encoder.state_dict() if name.endswith(COUNTER)]
    for name in counters:
        if (other := layers.get(name.rpartition(".")[0])) in counted:
            found[name] = checkpoint.tensors[f"{other}.{COUNTER}"]
    missing = tuple(name for name in counters if name not in found)
    loaded = LoadedWeights(checkpoint.path.name, checkpoint.nest, "", "order", len(found), tuple(rest), missing)
    return Fit(found, loaded, _channels(encoder, found))


def _channels(encoder: nn.Module, tensors: dict[str, Tensor]) -> int | None:
    """Input channels of the stem in a file: those of the first convolution that sees the image."""
    for name in stem_weights(encoder):
        conv = encoder.get_submodule(name.rpartition(".")[0])
        assert isinstance(conv, nn.Conv2d)
        return tensors[name].shape[1] * conv.groups
    return None


def with_changes(found: Fit, *changes: str) -> LoadedWeights:
    """Its record with further changes, in words."""
    return replace(found.loaded, changes=(*found.loaded.changes, *changes))


def _shape(shape: Iterable[int]) -> str:
    return "×".join(map(str, shape)) or "one number"


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return f"{len(names)} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})" if names else "none"
