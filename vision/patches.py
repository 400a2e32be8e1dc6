"""Cutting images into patches."""
from torch import Tensor


def patches_of(images: Tensor, grid: tuple[int, int]) -> Tensor:
    """Cut images into the patches of a grid.  B,C,H,W → B,N,p·q·C: row in the patch, column, channel, as in MAE's code

    Rows and columns that no patch covers are left out, as a transformer's patch embedding leaves them out.
    """
    (h, w), (B, C, H, W) = grid, images.shape
    p, q = H // h, W // w
    return images[:, :, : h * p, : w * q].reshape(B, C, h, p, w, q).permute(0, 2, 4, 3, 5, 1).reshape(B, h * w, p * q * C)
