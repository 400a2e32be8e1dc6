"""Which sizes of images fit an encoder: patches that tile them, sizes near to one, smaller ones."""
from core.image_size import Size, of, sides, size_text

SMALL_IMAGE = 64  # pixels; up to here stem="auto" means "small"


def is_small(size: Size) -> bool:
    """Do images of this size get the small stem where nothing else is set? Both sides count."""
    return max(sides(size)) <= SMALL_IMAGE


def patches_of(size: Size) -> list[int]:
    """The patches that tile the image, from a sixteenth to a quarter of its shorter side long."""
    shorter = min(sides(size))
    return [p for p in range(1, shorter) if shorter / 16 <= p <= shorter / 4 and not any(side % p for side in sides(size))]


def patch_for(size: Size) -> int:
    """The patch that tiles the image and comes nearest to an eighth of its shorter side; where none comes near, an eighth, and
    the embedding leaves out a rim of a few pixels.  28 → 4, 32 → 4, 31 → 3
    """
    shorter = min(sides(size))
    return min(patches_of(size), key=lambda p: abs(p - shorter / 8), default=max(1, shorter // 8))


def cut_patches(size: Size, patch: int) -> str | None:
    """Why a rectangle does not fit an encoder of this patch; None where it does. A square, as ever, loses a rim there."""
    height, width = sides(size)
    if height == width or not (height % patch or width % patch):
        return None
    smaller = of(*(max(patch, side // patch * patch) for side in (height, width)))
    larger = of(*(-(-side // patch) * patch for side in (height, width)))
    near = " or ".join(dict.fromkeys(map(size_text, (smaller, larger))))
    return f"cuts images into patches of {patch} px, and both sides must be multiples of that: the nearest are {near}"


def smaller_sizes(whole: Size, patch: int) -> list[Size]:
    """Some smaller than `whole`: multiples of the patch, and of 32 as models with windows need."""
    height, width = sides(whole)

    def share(part: float, multiple: int) -> Size:
        return of(*(round(side * part / multiple) * multiple for side in (height, width)))

    parts = (0.25, 0.43, 0.5, 0.75)
    found = {share(part, patch) for part in parts}
    found |= {*range(32, height, 32)} if height == width else {share(part, 32) for part in parts}
    return sorted((size for size in found if min(sides(size)) > 0 and max(sides(size)) < max(height, width)), key=sides)
