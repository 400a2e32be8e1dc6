"""Which patches of an image are masked: pure functions of random words, so that masks are computed and never stored.

`words` draws them from (seed, epoch, image, crop): a mask is the same on any number of processes, in any piece of a batch and
after a resume. Every function masks the same number of patches in each image, exactly: masks of a batch are one tensor, and
pieces of it add up. All have a fixed number of operations; none searches until something fits.

A mask is B,N bool, True where a patch is masked, N = h·w patches of a grid in raster order; `places` gives their indices.
"""
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from core import counter_rng

BLOCKS, A_BLOCK = 16, 4  # blocks that are tried, and the numbers that each takes: area, ratio, top, left
KINDS = ("random", "cells", "block", "inverse_block", "inverse_block_roll", "multiblock", "prefix")  # of `example`


def words(seed: int, epoch: int, indices: Tensor, crop: int, count: int) -> Tensor:
    """`count` random 32-bit words of each image for the mask of one of its crops.  indices: B int64 → B,count int64"""
    return counter_rng.random_bits(seed, epoch, indices, counter_rng.MASKS + crop, count)


def places(mask: Tensor, count: int) -> Tensor:
    """The masked patches in raster order.  mask: B,N bool, `count` a row True → B,count int64

    Where a row has fewer, patches that are not masked follow; `mask.gather(1, places)` tells them apart.
    """
    return (~mask).to(torch.uint8).argsort(dim=1, stable=True)[:, :count]


def random(words: Tensor, count: int) -> Tensor:
    """`count` patches of each image (MAE, arXiv 2111.06377).  words: B,N → B,N bool"""
    return _lowest(words, words.new_zeros(()), count)


def cells(words: Tensor, grid: tuple[int, int], cell: int, count: int) -> Tensor:
    """Whole squares of cell × cell patches (SimMIM, arXiv 2111.09886, §3.2); of the last one as many as fit.

    words: B,2N → B,N bool.  A grid that is no multiple has narrower cells at its right and bottom.
    """
    (h, w), N = grid, grid[0] * grid[1]
    across = math.ceil(w / cell)
    row, column = torch.arange(N, device=words.device) // w, torch.arange(N, device=words.device) % w
    cell_of = row // cell * across + column // cell  # N
    keys = words[:, :N][:, : math.ceil(h / cell) * across]  # one a cell
    order = keys.argsort(dim=1, stable=True).argsort(dim=1)  # B,cells: which comes first
    return _lowest(words[:, N : 2 * N], order[:, cell_of], count)


def block(
    words: Tensor, grid: tuple[int, int], count: int | Tensor, smallest: int = 4, ratio: tuple[float, float] = (0.3, 1 / 0.3)
) -> Tensor:
    """Rectangles of `smallest` patches and more until `count` are masked (BEiT, arXiv 2106.08254, algorithm 1; iBOT; DINOv2).

    words: B,64+N → B,N bool.  count: of all images, or B int64.  A rectangle has an even area from `smallest` to what is left
    to mask, and a ratio height : width whose logarithm is even. One that would mask more than is left is skipped; after 16
    tries single patches, drawn evenly, make up the count exactly, as in DINOv3's code (arXiv 2508.10104).
    """
    (h, w), N = grid, grid[0] * grid[1]
    u = _uniform(words[:, : BLOCKS * A_BLOCK]).unflatten(1, (BLOCKS, A_BLOCK))
    mask = torch.zeros(len(words), N, dtype=torch.bool, device=words.device)
    wanted = torch.as_tensor(count, device=words.device).expand(len(words))
    for area, shape, top, left in (numbers.unbind(1) for numbers in u.unbind(1)):
        left_over = wanted - mask.sum(1)
        size = smallest + area * (left_over - smallest).clamp(min=0)
        height, width = _sides(size, shape, ratio, grid)
        inside = _rectangle((top * (h - height + 1)).long(), (left * (w - width + 1)).long(), height, width, grid)
        fits = ((inside & ~mask).sum(1) <= left_over) & (left_over >= smallest)
        mask = mask | (inside & fits[:, None])
    return _lowest(words[:, BLOCKS * A_BLOCK :][:, :N], (~mask).long(), wanted)


def inverse_block(
    words: Tensor, grid: tuple[int, int], count: int, roll: bool = True, ratio: tuple[float, float] = (0.5, 2.0)
) -> Tensor:
    """All but a rectangle (data2vec 2.0, arXiv 2212.07525; CAPI, arXiv 2502.08769, appendix; Franca, arXiv 2507.14137).

    words: B,4+N → B,N bool.  roll: the rectangle may lie over the image's edge and go on at the other one, so that every place
    is masked equally often; without, the center is visible more often. The rectangle is as large as what is visible or larger;
    patches of it, drawn evenly, are masked until the count is exact.
    """
    (h, w), N = grid, grid[0] * grid[1]
    u, visible = _uniform(words[:, :4]), max(1, N - count)
    spread = torch.exp(math.log(ratio[0]) + u[:, 0] * (math.log(ratio[1]) - math.log(ratio[0])))  # height : width
    height = (visible * spread).sqrt().round().long().clamp(math.ceil(visible / w), h)
    width = -(-visible // height)
    if roll:
        top, left = (u[:, 1] * h).long(), (u[:, 2] * w).long()
    else:
        top, left = (u[:, 1] * (h - height + 1)).long(), (u[:, 2] * (w - width + 1)).long()
    inside = _rectangle(top, left, height, width, grid)
    return _lowest(words[:, 4 : 4 + N], inside.long(), count)


def prefix(words: Tensor, patches: int, shortest: int, longest: int) -> Tensor:
    """All but a first stretch of random length, which is seen whole (AIM, arXiv 2401.08541).  words: B,1 → B,N bool

    The one mask whose count differs between images: their first `shortest` to `longest` patches are not masked.
    """
    length = shortest + (_uniform(words[:, 0]) * (longest - shortest + 1)).long()
    return torch.arange(patches, device=words.device)[None] >= length[:, None]


@dataclass(frozen=True)
class Blocks:
    """I-JEPA's masks of a batch."""

    context: Tensor  # B,K int64: what the student sees
    targets: Tensor  # B,T,M int64: what it predicts, blocks that may overlap


@dataclass(frozen=True)
class BlockSizes:
    """Rows and columns of I-JEPA's blocks, the same for all images of a step."""

    target: tuple[int, int]
    context: tuple[int, int]


def block_sizes(
    seed: int, step: int, grid: tuple[int, int], area: tuple[float, float] = (0.15, 0.2),
    ratio: tuple[float, float] = (0.75, 1.5), context: tuple[float, float] = (0.85, 1.0),
) -> BlockSizes:
    """The sizes of a step's blocks, drawn from the step's number (I-JEPA, arXiv 2301.08243, §A.1): area and ratio of the
    targets, area of the square context. Each has a random number of its own.
    """
    drawn = counter_rng.uniform(seed, step, torch.zeros(1, dtype=torch.long), counter_rng.MASKS + 0xFFFF, 3)[0]
    N = grid[0] * grid[1]
    sides = _sides(N * (area[0] + drawn[:1] * (area[1] - area[0])), drawn[1:2], ratio, grid)
    height, width = (int(side) for side in sides)
    if height * width > largest_block(N, area[1]):  # rounded up on a small grid: one row or column less
        height, width = (height - 1, width) if height > width else (height, width - 1)
    share = math.sqrt(context[0] + float(drawn[2]) * (context[1] - context[0]))
    around = max(1, round(grid[0] * share)), max(1, round(grid[1] * share))
    return BlockSizes((max(1, height), max(1, width)), around)


def largest_block(patches: int, area: float = 0.2) -> int:
    """Patches of a target block at most."""
    return int(patches * area) + 1


def multiblock(words: Tensor, grid: tuple[int, int], sizes: BlockSizes, targets: int = 4) -> Blocks:
    """`targets` blocks to predict, and a context around them that holds none of their patches (I-JEPA, arXiv 2301.08243, §3).

    words: B,2(T+1)+N.  The context is N − T·M patches, which are there wherever the blocks lie: those of the context block
    first, drawn evenly, then any others. (The authors' code shortens all contexts of a batch to its smallest, in raster order:
    they depend on the batch, lie mostly above, and leave out the last row and column.)
    Raises ValueError where blocks of this size leave nothing to see.
    """
    (h, w), (height, width) = grid, sizes.target
    N, M = h * w, height * width
    if N - targets * M < 1:
        raise ValueError(f"a grid of {h}×{w} patches is too small for {targets} target blocks of {height}×{width}: use a "
                         "smaller patch, larger images, or fewer targets")
    u = _uniform(words[:, : 2 * (targets + 1)])
    rows, columns = u[:, : targets + 1], u[:, targets + 1 :]  # B,T+1
    inside = [
        _corner(rows[:, t], columns[:, t], (height, width), grid) for t in range(targets)
    ]  # T of B,N
    around = _corner(rows[:, targets], columns[:, targets], sizes.context, grid)
    taken = torch.stack(inside).any(0)
    rank = torch.where(taken, 2, (~around).long())
    context = _lowest(words[:, 2 * (targets + 1) :][:, :N], rank, N - targets * M)
    return Blocks(places(context, N - targets * M), torch.stack([places(block, M) for block in inside], dim=1))


def words_needed(patches: int) -> int:
    """Random words of an image that suffice for each of these functions."""
    return 2 * patches + BLOCKS * A_BLOCK


def example(kind: str, words: Tensor, grid: tuple[int, int], share: float, sizes: BlockSizes) -> Tensor:
    """A mask of one of `KINDS`, to look at.  words: B,`words_needed` → B,N bool: of multiblock what is not context"""
    N = grid[0] * grid[1]
    count = min(N - 1, max(1, round(N * share)))
    match kind:
        case "random":
            return random(words[:, :N], count)
        case "cells":
            return cells(words, grid, 2, count)
        case "block":
            return block(words, grid, count)
        case "inverse_block" | "inverse_block_roll":
            return inverse_block(words, grid, count, roll=kind.endswith("roll"))
        case "multiblock":
            context = multiblock(words, grid, sizes).context
            return torch.ones(len(words), N, dtype=torch.bool).scatter(1, context, False)
        case "prefix":
            return prefix(words, N, 1, N - 1)
    raise ValueError(f"masks={kind}: there are {', '.join(KINDS)}")


def _uniform(words: Tensor) -> Tensor:
    """[0, 1), 24 bits each"""
    return (words >> 8).to(torch.float32) * 2.0**-24


def _lowest(keys: Tensor, rank: Tensor, count: int | Tensor) -> Tensor:
    """Exactly `count` patches a row: those of the lowest rank first, by their keys within a rank.  keys: B,N → B,N bool"""
    order = ((rank << 32) | keys).argsort(dim=1, stable=True).argsort(dim=1)  # B,N: the place of each patch
    return order < (count[:, None] if isinstance(count, Tensor) else count)


def _sides(area: Tensor, u: Tensor, ratio: tuple[float, float], grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Rows and columns of a block of about this area; u: uniform numbers for height : width, its logarithm even."""
    aspect = torch.exp(math.log(ratio[0]) + u * (math.log(ratio[1]) - math.log(ratio[0])))
    height = (area * aspect).sqrt().round().long().clamp(1, grid[0])
    width = (area / aspect).sqrt().round().long().clamp(1, grid[1])
    return height, width


def _rectangle(top: Tensor, left: Tensor, height: Tensor, width: Tensor, grid: tuple[int, int]) -> Tensor:
    """Patches inside, which may go on at the opposite edge.  B each → B,N bool"""
    h, w = grid
    row = (torch.arange(h, device=top.device)[None] - top[:, None]) % h < height[:, None]  # B,h
    column = (torch.arange(w, device=top.device)[None] - left[:, None]) % w < width[:, None]
    return (row[:, :, None] & column[:, None, :]).flatten(1)


def _corner(row: Tensor, column: Tensor, size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """A block of a fixed size; row, column: uniform numbers for its place, every place equally often.  B each → B,N bool"""
    top, left = (row * (grid[0] - size[0] + 1)).long(), (column * (grid[1] - size[1] + 1)).long()
    return _rectangle(top, left, torch.full_like(top, size[0]), torch.full_like(left, size[1]), grid)
