"""Tokens of encoders: what is left out or replaced has no influence, what is asked for is timm's own. LayerScale is 1 here: at
its first value of 1e-5, positions and masks could be wrong without a trace.
"""
import pytest
import timm
import torch
from timm.layers import LayerScale
from torch import nn

from vision import artifact, encoders, tokens
from vision.encoders import Spec

WIDTH = {"depth": 2, "embed_dim": 48, "num_heads": 3}
TRANSFORMERS = {
    "vit_tiny_patch16_224": WIDTH | {"patch_size": 8},
    "deit_tiny_distilled_patch16_224": WIDTH | {"patch_size": 8},
    "deit3_small_patch16_224": WIDTH | {"patch_size": 8},
    "vit_small_patch14_reg4_dinov2": WIDTH | {"patch_size": 8, "dynamic_img_size": True},
    "flexivit_small": WIDTH | {"patch_size": 8},
    "eva02_tiny_patch14_224": WIDTH | {"patch_size": 8},
    "vit_small_patch16_dinov3": WIDTH | {"patch_size": 8},
    "vit_small_patch16_rope_mixed_224": WIDTH | {"patch_size": 8},
    "vit_medium_patch16_gap_240": WIDTH | {"patch_size": 8},  # no class token
}
HIERA = {"embed_dim": 8, "num_heads": 1, "stages": (1, 1, 2, 1)}
CONVOLUTIONAL = ("test_resnet", "test_efficientnet", "test_convnext", "small", "lenet5", "swin_tiny_patch4_window7_224",
                 "xcit_nano_12_p16_224")
exact = {"rtol": 1e-9, "atol": 1e-9}  # float64


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name.startswith("hiera"):
        encoder = encoders.build(Spec(name, 3, 96, "full", HIERA | {"img_size": (96, 96)}))
    elif name in TRANSFORMERS:
        encoder = encoders.build(Spec(name, 3, 48, "full", TRANSFORMERS[name] | {"img_size": 48}))
    else:
        size = 224 if name.startswith(("swin", "xcit")) else 32
        encoder = encoders.create(name, 3, size, "full" if size == 224 else "auto")
    for module in encoder.modules():
        if isinstance(module, LayerScale):
            nn.init.ones_(module.gamma)
        for gamma in ("gamma_1", "gamma_2"):
            if isinstance(getattr(module, gamma, None), nn.Parameter):
                nn.init.ones_(getattr(module, gamma))
    return encoder.eval().double()


def images(encoder: nn.Module, count: int = 3) -> torch.Tensor:
    size = encoder.spec.image_size
    return torch.randn(count, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def keep_of(patches: int, kept: int, count: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.stack([torch.randperm(patches, generator=generator)[:kept] for _ in range(count)])


@pytest.fixture(scope="module", params=[*TRANSFORMERS, "hiera_tiny_224"])
def encoder(request):
    return made(request.param)


@torch.no_grad()
def test_all_tokens_are_timms_and_pool_to_its_features(encoder):
    x = images(encoder)
    before = encoder.state_dict().keys()
    found = tokens.tokens(encoder, x)
    h, w = found.grid
    assert found.grid == tokens.grid(encoder, encoder.spec.image_size)
    assert found.patches.shape == (3, h * w, encoder.num_features)
    assert torch.equal(found.map[:, :, 1, 2], found.patches[:, w + 2])
    if not encoder.spec.name.startswith("hiera"):
        own = torch.cat([found.prefix, found.patches], dim=1)
        torch.testing.assert_close(own, encoder.fc_norm(encoder.forward_features(x)), **exact)
    all_kept = tokens.tokens(encoder, x, keep=torch.arange(h * w).expand(3, -1))
    torch.testing.assert_close(all_kept.patches, found.patches, **exact)
    assert encoder.state_dict().keys() == before


@torch.no_grad()
def test_kept_tokens_may_come_in_any_order(encoder):
    """With positions and rotations: the same set in another order gives the same rows in that order."""
    x, patches = images(encoder), tokens.grid(encoder, encoder.spec.image_size)
    keep = keep_of(patches[0] * patches[1], 5)
    found, turned = tokens.tokens(encoder, x, keep=keep), tokens.tokens(encoder, x, keep=keep.flip(1))
    torch.testing.assert_close(turned.patches.flip(1), found.patches, **exact)
    torch.testing.assert_close(turned.prefix, found.prefix, **exact)


@torch.no_grad()
def test_pixels_that_are_left_out_change_nothing_and_those_that_are_kept_do(encoder):
    x, (h, w) = images(encoder), tokens.grid(encoder, encoder.spec.image_size)
    side, keep = encoder.spec.image_size // h, keep_of(h * w, 5)
    found = tokens.tokens(encoder, x, keep=keep)
    kept = torch.zeros(3, h * w, dtype=torch.bool).scatter(1, keep, True)
    pixels = kept.view(3, 1, h, w).repeat_interleave(side, 2).repeat_interleave(side, 3)
    other = torch.where(pixels, x, torch.randn_like(x))
    assert torch.equal(tokens.tokens(encoder, other, keep=keep).patches, found.patches)
    other = torch.where(pixels, x + 1, x)
    assert (tokens.tokens(encoder, other, keep=keep).patches - found.patches).abs().amin((1, 2)).max() > 0
    whole = tokens.tokens(encoder, x).patches.gather(1, keep[:, :, None].expand(-1, -1, found.patches.shape[2]))
    assert (whole - found.patches).abs().max() > 1e-3  # the others are really gone


@torch.no_grad()
def test_masked_pixels_change_nothing_and_the_mask_token_does(encoder):
    x, (h, w) = images(encoder), tokens.grid(encoder, encoder.spec.image_size)
    if "fill" not in tokens.abilities(encoder):
        with pytest.raises(ValueError, match="takes a mask token"):
            tokens.tokens(encoder, x, mask=torch.zeros(3, h * w, dtype=torch.bool), fill=torch.zeros(1))
        return
    mask = torch.zeros(3, h * w, dtype=torch.bool).scatter(1, keep_of(h * w, 7), True)
    fill = torch.randn(1, 1, encoder.num_features, dtype=torch.float64)
    found = tokens.tokens(encoder, x, mask=mask, fill=fill)
    assert found.patches.shape[1] == h * w
    side = encoder.spec.image_size // h
    pixels = mask.view(3, 1, h, w).repeat_interleave(side, 2).repeat_interleave(side, 3)
    other = tokens.tokens(encoder, torch.where(pixels, torch.randn_like(x), x), mask=mask, fill=fill)
    assert torch.equal(other.patches, found.patches)
    assert torch.equal(other.prefix, found.prefix)
    assert (tokens.tokens(encoder, x, mask=mask, fill=-fill).patches - found.patches).abs().max() > 1e-3
    none = tokens.tokens(encoder, x, mask=torch.zeros_like(mask), fill=fill)
    assert torch.equal(none.patches, tokens.tokens(encoder, x).patches)
    assert not encoder.patch_embed._forward_hooks


@torch.no_grad()
def test_the_grid_is_in_raster_order(encoder):
    """A change of one patch changes its own token most."""
    (h, w), x = tokens.grid(encoder, encoder.spec.image_size), images(encoder, 1)
    side, place = encoder.spec.image_size // h, (1, 2)
    hiera = encoder.spec.name.startswith("hiera")  # whose stages pool in their attention, and so need its projection
    for module in encoder.modules() if not hiera else ():  # without mixing, a token is a function of its own patch
        if isinstance(getattr(module, "proj", None), nn.Linear):
            module.proj.weight.data.zero_()
    other = x.clone()
    other[:, :, place[0] * side : (place[0] + 1) * side, place[1] * side : (place[1] + 1) * side] += 1
    changed = (tokens.tokens(encoder, x).patches - tokens.tokens(encoder, other).patches).abs().amax((0, 2))
    assert int(changed.argmax()) == place[0] * w + place[1]
    assert hiera or (changed > 1e-9).sum() == 1


@torch.no_grad()
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "eva02_tiny_patch14_224", "vit_small_patch16_dinov3"])
def test_causal_tokens_do_not_see_later_ones_and_layers_are_timms(name):
    encoder = made(name)
    x, (h, w) = images(encoder), tokens.grid(encoder, 48)
    other = x.clone()
    other[:, :, -8:, -8:] += 1  # the last patch
    first, second = (tokens.tokens(encoder, pixels, causal=True).patches for pixels in (x, other))
    torch.testing.assert_close(first[:, :-1], second[:, :-1], **exact)
    assert (first[:, -1] - second[:, -1]).abs().max() > 1e-3
    both = tokens.tokens(encoder, x, layers=[0, 1])
    assert len(both) == 2
    torch.testing.assert_close(both[1].patches, tokens.tokens(encoder, x).patches, **exact)
    assert (both[0].patches - both[1].patches).abs().max() > 1e-3
    last = tokens.tokens(encoder, x, keep=keep_of(h * w, 5), layers=[1])[0]
    torch.testing.assert_close(last.patches, tokens.tokens(encoder, x, keep=keep_of(h * w, 5)).patches, **exact)


@torch.no_grad()
def test_a_smaller_crop_has_fewer_tokens():
    encoder = made("vit_small_patch14_reg4_dinov2")
    x = images(encoder)[:, :, :32, :16]
    found = tokens.tokens(encoder, x)
    assert found.grid == (4, 2)
    assert found.prefix.shape[1] == 5  # class token and registers
    kept = tokens.tokens(encoder, x, keep=torch.arange(8).expand(3, -1))
    torch.testing.assert_close(kept.patches, found.patches, **exact)


@torch.no_grad()
@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_the_last_map_is_the_tokens_of_other_encoders(name):
    encoder = made(name)
    x = images(encoder)
    found = tokens.tokens(encoder, x)
    assert found.prefix.shape[1] == 0
    assert found.grid == tokens.grid(encoder, encoder.spec.image_size)
    assert found.map.shape == (3, found.patches.shape[2], *found.grid)
    if name in ("test_resnet", "small", "swin_tiny_patch4_window7_224"):
        torch.testing.assert_close(found.patches.mean(1), encoder(x), **exact)
    for refused in ({"keep": torch.zeros(3, 1, dtype=torch.long)}, {"causal": True}, {"layers": [0]}):
        with pytest.raises(ValueError, match=r"needs an encoder that .* use a vision transformer"):
            tokens.tokens(encoder, x, **refused)


@torch.no_grad()
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2", "eva02_tiny_patch14_224"])
def test_pooling_is_in_the_spec_and_plain_timm_does_the_same(name, tmp_path):
    encoder = made(name).float()
    before = encoder.state_dict().keys()
    pooled = encoder.global_pool
    assert tokens.pool_by(encoder, "token") is (pooled != "token")
    assert tokens.pool_by(encoder, "mean")
    assert not tokens.pool_by(encoder, "mean")
    assert tokens.pooling_of(encoder) == "mean"
    assert encoder.state_dict().keys() == before
    x = images(encoder).float()
    patches = encoder.forward_features(x)[:, encoder.num_prefix_tokens :]
    torch.testing.assert_close(encoder(x), encoder.fc_norm(patches.mean(1)), rtol=1e-4, atol=1e-5)  # float32
    path = tmp_path / "encoder.safetensors"
    moments = artifact.EncoderHeader(encoder.spec, (0.5,) * 3, (0.5,) * 3, encoder.dim, {})
    path.write_bytes(artifact.dumps(encoder, moments, {}))
    loaded, header = artifact.load(path)
    assert torch.equal(loaded(x), encoder(x))
    space = {"timm": timm, "torch": torch, "safetensors": artifact.safetensors}
    exec(artifact.snippet(header, str(path)), space)
    assert torch.equal(space["model"](x), encoder(x))
    assert space["model"].state_dict().keys() == before
    tokens.pool_by(encoder, "token")
    if pooled == "token":
        torch.testing.assert_close(encoder(x), tokens.tokens(encoder, x).prefix[:, 0])


def test_a_class_token_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="has no class token"):
        tokens.pool_by(made("vit_medium_patch16_gap_240"), "token")
    assert not tokens.pool_by(encoders.create("small", 3, 32), "mean")
