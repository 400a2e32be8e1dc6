"""Grad-CAM: where in an image the evidence for a class lies.

Selvaraju, Cogswell, Das, Vedantam, Parikh, Batra 2017, "Grad-CAM: Visual Explanations from Deep Networks via
Gradient-based Localization" (arXiv 1610.02391).
"""
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from linear_eval.features import evaluating


def gradcam(model: nn.Module, x: Tensor, classes: Tensor) -> Tensor:
    """Heat of each pixel for a class, of a classifier with `.encoder` (timm's, convolutional) and `.head`.

    x: B,C,H,W normalized; classes: B → B,H,W in [0, 1], each image's maximum 1, or 0 everywhere without evidence for
    the class. The last feature maps' A is weighted by α = the mean over positions of ∂ logit / ∂ A (equation 1), summed
    over channels, and cut at 0 (equation 2). The model is in evaluation mode meanwhile, and left as it was.
    Raises ValueError for an encoder without feature maps.
    """
    encoder, maps_seen = model.encoder, []
    place, channels = _last_maps(encoder)

    def detach(module: nn.Module, inputs: tuple, maps: Tensor) -> Tensor:
        """The graph begins here: backward passes through the head alone, and no parameter needs a gradient."""
        if not isinstance(maps, Tensor) or maps.ndim != 4 or maps.shape[1] != channels:
            raise _no_maps(encoder)
        maps_seen[:] = [maps.detach().requires_grad_()]
        return maps_seen[0].clone()  # what follows may work in place

    handle = encoder.get_submodule(place).register_forward_hook(detach)
    try:
        with evaluating(model), torch.enable_grad():
            logits = model.head(encoder(x))
            (slope,) = torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), maps_seen)  # B,C,h,w
    finally:
        handle.remove()
    weights = slope.mean((2, 3), keepdim=True)
    heat = F.relu((weights * maps_seen[0].detach()).sum(1, keepdim=True)).float()  # B,1,h,w
    heat = F.interpolate(heat, x.shape[2:], mode="bilinear")[:, 0]
    top = heat.amax((1, 2), keepdim=True)
    return heat / torch.where(top > 0, top, 1)


def _last_maps(encoder: nn.Module) -> tuple[str, int]:
    """The module whose output timm lists as the last feature maps, and their channels."""
    infos = getattr(encoder, "feature_info", None)
    if not infos or infos[-1]["module"] not in dict(encoder.named_modules()):
        raise _no_maps(encoder)
    return infos[-1]["module"], infos[-1]["num_chs"]


def _no_maps(encoder: nn.Module) -> ValueError:
    name = encoder.spec.name if hasattr(encoder, "spec") else type(encoder).__name__
    return ValueError(f"encoder={name} has no feature maps B,C,h,w, which Grad-CAM needs; use gradcam=0 or a convolutional one")
