"""Counter-based random numbers: a pure function of (seed, epoch, image index, view, draw).

Philox4x32-10 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011). No generator is kept, so the
same image gets the same crop whatever the number of processes, workers or restarts, and resume needs a step number.
The 128-bit counter is (block of draws, index, epoch, stream); the 64-bit key is the seed.
"""
import torch
from torch import Tensor

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)  # golden ratio and √3 − 1, in units of 2⁻³²
_LOW = 0xFFFFFFFF

# The fourth counter word keeps uses apart. Views are streams 0, 1, 2, …; these stand clear of them.
ORDER, SHUFFLE, SPLIT, MIX = 0xFFFF0001, 0xFFFF0002, 0xFFFF0003, 0xFFFF0004
SHARDS = 0xFFFF0005  # the order of shards (vision/order.py)
PATCHES = 0xFFFF0011  # which patches of an image a bank takes (linear_eval/dense)
EXTENDED = 0xFFFE0000  # plus a view's number: the operations that came later (vision/view.py), so that older draws stay
CORRUPT = 0xFFFC0000  # plus a corruption's number: what is random about it (vision/corruption_draws.py)
MASKS = 0xFFFD0000  # plus a crop's number: which of its patches are masked (vision/masks.py); above them all, a step's sizes
SCENES = 0xFFFC0000  # objects, places and textures of a scene (vision/scenes.py)


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int | Tensor, int | Tensor]) -> tuple[Tensor, ...]:
    """Ten rounds of Philox4x32 on int64 tensors that hold unsigned 32-bit words, broadcast together.

    A 32×32-bit product overflows int64's sign, but its bits are right: mask and shift recover both halves.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (p1 >> 32 & _LOW) ^ c1 ^ k0, p1 & _LOW, (p0 >> 32 & _LOW) ^ c3 ^ k1, p0 & _LOW
        k0, k1 = k0 + _WEYL[0] & _LOW, k1 + _WEYL[1] & _LOW
    return c0, c1, c2, c3


def random_bits(seed: int, epoch: int, indices: Tensor, stream: int, count: int) -> Tensor:
    """`count` random 32-bit words for each index.  indices: B int64 → B,count int64 in [0, 2³²)."""
    blocks = torch.arange((count + 3) // 4, device=indices.device)
    rows = (indices & _LOW)[:, None]
    high = indices.new_tensor(epoch & _LOW)
    four = philox((blocks[None], rows, high, indices.new_tensor(stream)), (seed & _LOW, seed >> 32 & _LOW))
    return torch.stack(four, dim=-1).flatten(1)[:, :count]  # B,blocks,4 → B,count


def uniform(seed: int, epoch: int, indices: Tensor, stream: int, count: int) -> Tensor:
    """Uniform numbers in [0, 1).  indices: B int64 → B,count float32 (24 random bits, each value exact)."""
    return (random_bits(seed, epoch, indices, stream, count) >> 8).to(torch.float32) * 2.0**-24


def permutation(seed: int, epoch: int, length: int, stream: int = ORDER) -> Tensor:
    """The order of an epoch: 0 … length−1 sorted by 63 random bits each (ties keep their order)."""
    return keys(seed, epoch, torch.arange(length), stream).argsort(stable=True)


def keys(seed: int, epoch: int, indices: Tensor, stream: int) -> Tensor:
    """63 random bits for each index, to sort by.  indices: B int64 → B int64"""
    high, low = random_bits(seed, epoch, indices, stream, 2).unbind(1)
    return (high >> 1 << 32) | low


def balanced(seed: int, epoch: int, labels: Tensor) -> Tensor:
    """An epoch's order in which classes are equally frequent, whatever their sizes.  labels: N int64 → N indices.

    Each place is for a class in turn, the places shuffled; a class fills its places with its images in the epoch's
    order, over again when they run out. Of a large class some images wait for another epoch.
    """
    order = permutation(seed, epoch, len(labels))
    _, classes, counts = labels.unique(return_inverse=True, return_counts=True)
    members = order[classes[order].argsort(stable=True)]  # class by class, each in the epoch's order
    turns = (order % len(counts)).argsort(stable=True)  # places, class by class
    places = (order % len(counts)).bincount(minlength=len(counts))
    rank = torch.arange(len(labels)) - (places.cumsum(0) - places).repeat_interleave(places)
    first, size = (x.repeat_interleave(places) for x in (counts.cumsum(0) - counts, counts))
    filled = torch.empty_like(order)
    filled[turns] = members[first + rank % size]
    return filled
