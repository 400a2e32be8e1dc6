"""Any timm name becomes an encoder that sees small images at their own resolution."""
import numpy as np
import pytest
import torch
from torch import nn

from vision import encoders
from vision.encoders import Spec, create, fit_channels, fix_patch_embedding


def maps(encoder: nn.Module) -> list[tuple[int, int]]:
    """Height and width of each feature map, in the order of computation."""
    seen = []

    def note(module, _, out):
        if torch.is_tensor(out) and out.ndim == 4 and isinstance(module, (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)):
            seen.append(tuple(out.shape[-2:]))

    hooks = [module.register_forward_hook(note) for module in encoder.modules()]
    side = encoder.spec.image_size
    with torch.no_grad():
        encoder.eval()(torch.zeros(1, encoder.spec.channels, side, side))
    for hook in hooks:
        hook.remove()
    return seen


CONVOLUTIONAL = ["resnet18", "resnet18d", "mobilenetv3_small_050", "mobilenetv2_035", "efficientnet_b0",
                 "tf_efficientnet_b0", "regnetx_002", "convnext_atto", "vgg11", "densenet121", "edgenext_xx_small"]


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_the_first_stage_sees_small_images_whole(name):
    encoder = create(name, 3, 32)
    found = maps(encoder)
    assert encoder.spec.stem == "small"
    assert found[0] == (32, 32)
    assert max(found) == (32, 32)  # an old 7×7 stem's padding of 3 would make 34 × 34 of it
    if name.startswith(("resnet", "densenet", "mobilenetv2")):
        assert found[1] == (32, 32)  # no pooling between the stem and the first stage


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050"])
@pytest.mark.parametrize(("stem", "side", "first"), [
    ("small", 28, 28), ("half", 28, 14), ("full", 28, 14), ("half", 8, 4), ("auto", 64, 64), ("auto", 65, 33),
])
def test_stems(name, stem, side, first):
    assert maps(create(name, 1, side, stem))[0] == (first, first)


def test_our_default_is_small_and_halves_what_is_not_tiny():
    for side, first in ((8, 8), (16, 16), (28, 14), (32, 16), (64, 32), (96, 48)):
        encoder = create("small", 1, side)
        assert maps(encoder)[0] == (first, first)
        assert encoder.dim == 256
    assert sum(p.numel() for p in encoder.parameters()) < 2e6


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
@pytest.mark.parametrize(("side", "channels"), [(32, 3), (96, 1)])
def test_transformers_take_any_size(name, side, channels):
    encoder = create(name, channels, side)
    patch = 4 if "swin" in name or side == 32 else 16  # an eighth of a small image; else their own
    assert maps(encoder)[0] == (side // patch, side // patch)
    with torch.no_grad():
        assert encoder(torch.zeros(2, channels, side, side)).shape == (2, encoder.dim)


@pytest.mark.parametrize(("side", "patches"), [(8, 8), (28, 7), (30, 10), (31, 10), (32, 8), (48, 8), (64, 8)])
def test_patches_are_about_an_eighth_of_a_small_image_and_tile_it(side, patches):
    encoder = create("vit_tiny_patch16_224", 1, side)
    assert maps(encoder)[0] == (patches, patches)
    assert encoder.patch_embed.patch_size[0] * patches == side - (side == 31)  # of the prime, one pixel is left out


@pytest.mark.parametrize(("name", "dim"), [
    ("resnet18", 512), ("resnet50", 2048), ("mobilenetv3_small_050", 1024), ("convnext_atto", 320),
    ("vit_tiny_patch16_224", 192), ("resnet18.a1_in1k", 512),
])
@pytest.mark.parametrize("channels", [1, 3])
def test_dim_is_the_width_of_the_features(name, dim, channels):
    encoder = create(name, channels, 32)
    assert encoder.dim == dim
    assert encoder.training  # measured without leaving training mode, or touching statistics:
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.num_batches_tracked == 0
    z = encoder(torch.randn(3, channels, 32, 32))
    assert z.shape == (3, dim)
    assert all(p.grad is None for p in encoder.parameters())


def test_build_makes_what_the_spec_says():
    for name, side in (("small", 28), ("resnet18", 32), ("vit_tiny_patch16_224", 32)):
        encoder = create(name, 1, side)
        again = encoders.build(Spec(**encoder.spec.json))
        assert repr(again) == repr(encoder)
        assert again.spec == encoder.spec


def test_models_whose_stem_does_not_fit_stay_whole():
    """RepVGG's first block has branches that must agree: the small stem breaks it, so it is built as it is."""
    assert create("repvgg_a0", 3, 32).spec.stem == "full"
    with pytest.raises(ValueError, match="encoder=repvgg_a0 does not take 32 px images"):
        create("repvgg_a0", 3, 32, "small")


@pytest.mark.parametrize(("arguments", "words"), [
    (("resnet81", 3, 32), r"encoder=resnet81: no such timm model or file; did you mean resnet18"),
    (("smal", 3, 32), r"encoder=smal: no such .*did you mean small"),
    (("xyzzy#", 3, 32), "encoder=xyzzy#: no such timm model or file; any timm model name works"),
    (("resnet18", 3, 32, "tiny"), "stem=tiny: there are auto, small, half, full"),
    (("inception_v3", 3, 32), "encoder=inception_v3 does not take 32 px images"),
])
def test_mistakes_are_told_in_one_line(arguments, words):
    with pytest.raises(ValueError, match=words) as caught:
        create(*arguments)
    assert "\n" not in str(caught.value)


def test_depthwise_convolutions_are_found():
    assert encoders.has_depthwise(create("mobilenetv3_small_050", 3, 32))
    assert not encoders.has_depthwise(create("resnet18", 3, 32))


# ------------------------------------------------------------------------------------------- the fixed patch embedding


def test_fixed_patch_embedding_is_frozen_and_moco_v3s():
    """Positions as moco-v3/vits.py builds them, element by element: channel d of [sin x, cos x, sin y, cos y]."""
    encoder = create("vit_tiny_patch16_224", 3, 32)
    weights = encoder.patch_embed.proj.weight.clone()
    fix_patch_embedding(encoder)
    positions = encoder.pos_embed[0]
    assert positions.shape == (1 + 64, 192)
    expected = np.zeros((65, 192))
    for patch in range(64):
        y, x = divmod(patch, 8)
        for d in range(48):
            omega = 1 / 10_000 ** (d / 48)
            expected[1 + patch, [d, 48 + d, 96 + d, 144 + d]] = (
                np.sin(x * omega), np.cos(x * omega), np.sin(y * omega), np.cos(y * omega))
    np.testing.assert_allclose(positions.detach().numpy(), expected, atol=1e-6)  # float32 sines of arguments up to 7
    assert torch.equal(encoder.patch_embed.proj.weight, weights)

    encoder(torch.randn(2, 3, 32, 32)).square().sum().backward()
    still = {name for name, p in encoder.named_parameters() if p.grad is None}
    assert still == {"pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"}


def test_only_transformers_have_a_patch_embedding_to_fix():
    with pytest.raises(ValueError, match="needs a vision transformer, not resnet18; use") as caught:
        fix_patch_embedding(create("resnet18", 3, 32))
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------------------------- channels


def test_channels_are_made_to_fit():
    images = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).view(2, 3, 4, 4) * 2
    assert fit_channels(images, 3) is images
    grey = fit_channels(images, 1)
    assert (grey.shape, grey.dtype) == ((2, 1, 4, 4), torch.uint8)
    luma = images.double().numpy().transpose(0, 2, 3, 1) @ np.array([0.299, 0.587, 0.114])  # ITU-R 601
    assert np.abs(grey[:, 0].numpy() - luma).max() <= 0.55  # rounding, and 0.2989 for 0.299
    assert torch.equal(fit_channels(grey, 3), grey.repeat(1, 3, 1, 1))
    white = torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)
    assert fit_channels(white, 1).item() == 255
