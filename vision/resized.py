"""An encoder's weights at another image size: positions are interpolated, all else is kept."""
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from core.errors import SettingError
from core.image_size import Size, size_text
from vision import artifact, encoders, foreign, tokens

POSITIONS = "pos_embed"


def load_at(path: str | Path, size: Size | None, several_sizes: bool = False) -> tuple[nn.Module, artifact.EncoderHeader]:
    """`artifact.load` of an encoder for images of another size; None: of its own.

    Raises SettingError where the encoder does not take that size, or has weights that cannot be brought to it.
    """
    encoder, header = artifact.load(path, several_sizes)
    before = header.spec.image_size
    if size is None or size == before:
        return encoder, header
    arguments = header.spec.arguments
    spec = replace(header.spec, image_size=size, arguments=arguments | ({"img_size": size} if "img_size" in arguments else {}))
    resized = encoders.build(spec)
    try:
        resized.load_state_dict(resized_state(encoder.state_dict(), resized, before))
    except RuntimeError as error:
        why = str(error).strip().splitlines()[-1].strip()
        raise SettingError("image_size", f"{size_text(size)}: {spec.name}, trained at {size_text(before)} px, has weights for "
                           f"its own size alone ({why}); leave image_size out") from error
    return resized.eval(), replace(header, spec=spec)


def resized_state(state: Mapping[str, Tensor], encoder: nn.Module, before: Size) -> dict[str, Tensor]:
    """An encoder's state for images of `before` → for those that `encoder`, of the same architecture, takes.

    Learnt positions by bicubic interpolation with antialiasing, as timm does; of other classes what timm's own converter does.
    """
    state, own = dict(state), encoder.state_dict()
    if isinstance(encoder, (VisionTransformer, Eva)):
        old, new = tokens.grid(encoder, before), tokens.grid(encoder, encoder.spec.image_size)
        if old != new and POSITIONS in own and POSITIONS in state:
            state[POSITIONS] = interpolated(state[POSITIONS], old, new)
        return state
    if any(name in own and own[name].shape != value.shape for name, value in state.items()):
        return foreign.converted(state, encoder)
    return state


def interpolated(positions: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """1,P+h·w,D of a grid h,w → 1,P+h'·w',D of another; the P prefix tokens' stay."""
    prefix = positions.shape[1] - old[0] * old[1]
    table = positions[:, prefix:].float().mT.unflatten(2, old)
    table = F.interpolate(table, size=new, mode="bicubic", antialias=True).flatten(2).mT.to(positions.dtype)
    return torch.cat([positions[:, :prefix], table], dim=1)
