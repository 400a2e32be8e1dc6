"""Images in patches: how large they are, and cutting images into them."""
from torch import Tensor


def small_patch(size: int) -> int:
    """The patch that tiles the image and comes nearest to an eighth of it; where none comes near, an eighth, and the
    embedding leaves out a rim of a few pixels.  28 → 4, 32 → 4, 31 → 3
    """
    tiles = [p for p in range(1, size) if size % p == 0 and size / 16 <= p <= size / 4]
    return min(tiles, key=lambda p: abs(p - size / 8), default=max(1, size // 8))


def patches_of(images: Tensor, grid: tuple[int, int]) -> Tensor:
    """Cut images into the patches of a grid.  B,C,H,W → B,N,p·q·C: row in the patch, column, channel, as in MAE's code

    Rows and columns that no patch covers are left out, as a transformer's patch embedding leaves them out.
    """
    (h, w), (B, C, H, W) = grid, images.shape
    p, q = H // h, W // w
    return images[:, :, : h * p, : w * q].reshape(B, C, h, p, w, q).permute(0, 2, 4, 3, 5, 1).reshape(B, h * w, p * q * C)
