"""Published weights that are on this machine already: in Hugging Face's cache, or among torch.hub's checkpoints.

Nothing is downloaded and no network is asked.
"""
import os
import re
from dataclasses import dataclass
from pathlib import Path

SUFFIXES = (".safetensors", ".bin", ".pth", ".pt")
LARGEST_ON_CPU, LARGEST_ON_GPU = 60, 400  # MB of weights that are chosen unasked


@dataclass(frozen=True)
class Reachable:
    """A timm architecture whose weights need no download."""

    encoder: str  # timm's name
    file: str  # of torch.hub; "" where timm finds them itself in Hugging Face's cache
    megabytes: float

    @property
    def settings(self) -> dict[str, object]:
        """Dotted settings that begin training with these weights."""
        if self.file:
            return {"encoder": self.encoder, "weights": self.file, "normalization": "weights"}
        return {"encoder": self.encoder, "pretrained": True}


def best(gpu: bool) -> Reachable | None:
    """The weights to begin with: self-supervised ones before others; on a CPU the smallest, on a GPU the largest that fit.

    gpu: train on one? Files over LARGEST_ON_CPU or LARGEST_ON_GPU megabytes are left for the user to name.
    """
    most = LARGEST_ON_GPU if gpu else LARGEST_ON_CPU
    found = [one for one in [*_hugging_face(), *_torch_hub()] if one.megabytes <= most]
    return max(found, key=lambda one: (_self_supervised(one.encoder), one.megabytes * (1 if gpu else -1)), default=None)


def _self_supervised(name: str) -> bool:
    return any(word in name for word in ("dino", "mae", "ijepa", "aim", "moco", "swav"))


def _hugging_face() -> list[Reachable]:
    from huggingface_hub import constants

    found = []
    for folder in sorted(Path(constants.HF_HUB_CACHE).glob("models--timm--*")):
        name = folder.name.removeprefix("models--timm--")
        files = [file for file in folder.glob("snapshots/*/*") if file.suffix in SUFFIXES and file.is_file()]
        if files and _is_timm(name.partition(".")[0]):
            found.append(Reachable(name, "", max(file.stat().st_size for file in files) / 1e6))
    return found


def _torch_hub() -> list[Reachable]:
    found = []
    for file in sorted((torch_home() / "hub" / "checkpoints").glob("*")):
        name = timm_name(file.stem) if file.suffix in SUFFIXES and file.is_file() else None
        if name:
            found.append(Reachable(name, str(file), file.stat().st_size / 1e6))
    return found


def torch_home() -> Path:
    """Where torch.hub keeps its files: TORCH_HOME, else torch/ in XDG_CACHE_HOME, else ~/.cache/torch."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("TORCH_HOME") or Path(cache, "torch")).expanduser()


def timm_name(stem: str) -> str | None:
    """The timm architecture that a file of torch.hub is named after: "resnet18-f37072fd" → "resnet18".

    TensorFlow's networks have tf_ before their names in timm: "efficientnet-lite0-57934424" → "tf_efficientnet_lite0".
    """
    bare = re.sub(r"[-_][0-9a-f]{8}$", "", stem.lower()).replace("-", "_")
    return next((name for name in (f"tf_{bare}", bare) if _is_timm(name)), None)


def _is_timm(name: str) -> bool:
    import timm

    return timm.is_model(name)
