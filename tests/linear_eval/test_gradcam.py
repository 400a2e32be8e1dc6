"""Grad-CAM is CAM where the two must agree, and leaves no trace."""
import copy

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from linear_eval.gradcam import gradcam
from vision import encoders

CLASSES = torch.tensor([2, 0, 1])


class Classifier(nn.Module):
    def __init__(self, encoder: nn.Module, head: nn.Module):
        super().__init__()
        self.encoder, self.head = encoder, head


def classifier(name: str = "small", size: int = 28) -> tuple[Classifier, torch.Tensor]:
    torch.manual_seed(0)
    encoder = encoders.create(name, 1, size)
    return Classifier(encoder, nn.Linear(encoder.dim, 3)), torch.randn(3, 1, size, size)


def test_after_average_pooling_and_a_linear_head_it_is_cam():
    """Zhou et al. 2016 (arXiv 1512.04150): there ∂ logit / ∂ A is the class's weight over the number of positions."""
    model, x = classifier()
    heat = gradcam(model, x, CLASSES)
    with torch.no_grad():
        maps = model.eval().encoder.forward_features(x)
        cam = F.relu(torch.einsum("bchw,bc->bhw", maps, model.head.weight[CLASSES]))
        cam = F.interpolate(cam[:, None], (28, 28), mode="bilinear")[:, 0]
    assert (cam.amax((1, 2)) > 0).all()
    torch.testing.assert_close(heat, cam / cam.amax((1, 2), keepdim=True))
    assert heat.min() >= 0


def test_an_image_has_its_own_heat_whatever_stands_beside_it():
    model, x = classifier()
    alone = torch.cat([gradcam(model, x[i : i + 1], CLASSES[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(alone, gradcam(model, x, CLASSES), atol=1e-5, rtol=1e-5)  # convolutions block differently


@pytest.mark.parametrize("frozen", [True, False])
def test_it_leaves_the_model_as_it_was(frozen):
    model, x = classifier()
    model.encoder.requires_grad_(not frozen)
    model.train()
    model.encoder.bn1.eval()  # a mode of its own
    model.head.weight.grad = torch.ones_like(model.head.weight)

    def state() -> tuple:
        tensors = {name: t.clone() for name, t in model.state_dict().items()}
        grads = {name: p.grad is not None and p.grad.clone() for name, p in model.named_parameters()}
        hooks = sum(len(m._forward_hooks) for m in model.modules())
        return tensors, grads, [p.requires_grad for p in model.parameters()], [m.training for m in model.modules()], hooks

    before, original = copy.deepcopy(state()), x.clone()
    with torch.no_grad():  # as an evaluation is
        gradcam(model, x, CLASSES)
    after = state()
    for one, other in zip(before[:2], after[:2], strict=True):
        assert all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a is b for a, b in zip(
            one.values(), other.values(), strict=True))
    assert before[2:] == after[2:]
    assert torch.equal(x, original)
    assert not x.requires_grad


def test_where_nothing_speaks_for_a_class_there_is_no_heat():
    model, x = classifier()
    nn.init.constant_(model.head.weight, -1.0)  # maps are ≥ 0 after their ReLU
    assert gradcam(model, x, CLASSES).abs().max() == 0


@pytest.mark.parametrize("name", ["densenet121", "mobilenetv3_small_050", "convnext_atto", "lenet5"])
def test_it_takes_convolutional_encoders_of_all_kinds(name):
    """Activations in place behind the last maps, layers after them, a head with its own pooling."""
    model, x = classifier(name, 32)
    heat = gradcam(model, x, CLASSES)
    assert heat.shape == (3, 32, 32)
    assert heat.amax((1, 2)).max() == pytest.approx(1)
    assert heat.min() >= 0


@pytest.mark.parametrize(("name", "size"), [("vit_tiny_patch16_224", 32), ("swin_tiny_patch4_window7_224", 56)])
def test_without_maps_it_says_so(name, size):
    encoder = timm.create_model(name, num_classes=0, in_chans=1, img_size=size)
    with pytest.raises(ValueError, match=r"no feature maps B,C,h,w.*gradcam=0"):
        gradcam(Classifier(encoder, nn.Linear(encoder.num_features, 3)), torch.randn(3, 1, size, size), CLASSES)
    assert not any(m._forward_hooks for m in encoder.modules())
