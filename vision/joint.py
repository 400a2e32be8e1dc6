"""Views on a GPU in few launches, where launching kernels takes longer than running them.

Those of one size are rendered at once; with the setting `graph` all of it is one CUDA graph.
"""
import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from core import graph
from core.image_size import Size, sides
from vision.view_params import ViewParams, concatenate

AT_ONCE = 2**24  # values of the views rendered at once, at most: 64 MB of float32 an intermediate


def render(
    by_torch: Callable[..., Tensor], sources: Sequence[Tensor], params: Sequence[ViewParams], sizes: Sequence[Size],
    moments: tuple[Tensor, Tensor], cropped: bool,
) -> list[Tensor]:
    """`augment.render_by_torch` of each view, as by itself up to rounding.

    sources: a view each, B,C,H,W on the device, whole images or crops; moments: mean and standard deviation, C each → B,C,h,w
    """
    device, rendered = sources[0].device, []
    mean, std = _moments_on(device, *(tuple(values.tolist()) for values in moments))
    for views in groups(sizes, params, sources[0].shape[:2].numel()):
        source = sources[views[0]] if len(views) == 1 else torch.cat([sources[i] for i in views])
        drawn = params[views[0]] if len(views) == 1 else concatenate([params[i] for i in views])
        rendered += by_torch(source, drawn.to(device), sizes[views[0]], mean, std, cropped).chunk(len(views))
    return rendered


def groups(sizes: Sequence[Size], params: Sequence[ViewParams], images: int) -> list[list[int]]:
    """The views' numbers: neighbors of one size and with the same operations together.  images: their number times channels"""
    found: list[list[int]] = []
    for i, size in enumerate(sizes):
        if found:
            first = found[-1][0]
            few = (len(found[-1]) + 1) * images * math.prod(sides(size)) <= AT_ONCE
            if few and sizes[first] == size and params[first].widths == params[i].widths:
                found[-1].append(i)
                continue
        found.append([i])
    return found


@functools.cache
def _moments_on(device: torch.device, mean: tuple[float, ...], std: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """Brought there once."""
    return torch.tensor(mean, device=device), torch.tensor(std, device=device)


class Renderer(Protocol):
    def render(self, images: Tensor, params: list[ViewParams]) -> list[Tensor]: ...


def recorded(
    augmentation: Renderer, record: graph.Recorder = graph.record
) -> Callable[[Tensor, list[ViewParams]], list[Tensor]]:
    """An augmentation's `render` of whole images, recorded once for each shape of a batch and then replayed.

    Rendering is the same operations whatever the parameters; tests/vision/test_joint.py shows that none waits for a value.
    """
    recordings = graph.Recordings[list[Tensor]](record)

    def render(images: Tensor, params: list[ViewParams]) -> list[Tensor]:
        def work(own: list[Tensor]) -> list[Tensor]:
            rest = iter(own[1:])
            return augmentation.render(own[0], [type(p)(*(next(rest) for _ in dataclasses.fields(p))) for p in params])

        given = [images, *(getattr(p, f.name) for p in params for f in dataclasses.fields(p))]
        return [view.clone() for view in recordings(given, work)]

    return render
