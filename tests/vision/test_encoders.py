"""Any timm name becomes an encoder that sees small images at their own resolution."""
import json

import huggingface_hub.constants
import numpy as np
import pytest
import timm
import torch
from timm.data import resolve_model_data_config
from timm.models import save_for_hf
from torch import nn

from vision import encoders
from vision.encoders import Spec, create, fit_channels
from vision.stems import fix_patch_embedding


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


BACKBONES = {  # the well-known classifiers, and the width of their last layer's input
    "lenet5": 84, "alexnet": 4096, "vgg11": 4096, "vgg16_bn": 4096, "resnet18": 512, "efficientnet_b0": 1280,
    "mobilenetv3_small_100": 1024, "vit_tiny_patch16_224": 192, "swin_tiny_patch4_window7_224": 768, "convnext_atto": 320,
}


@pytest.mark.parametrize("name", BACKBONES)
def test_every_well_known_backbone_takes_small_and_large_images(name):
    """By shapes alone: on torch's meta device VGG's 130 million weights cost nothing, and a pool that leaves no pixel fails."""
    for size, channels in ((28, 1), (28, 3), (32, 1), (32, 3), (64, 3), (224, 3)):
        with torch.device("meta"):
            encoder = create(name, channels, size)
            shape = encoder(torch.zeros(2, channels, size, size)).shape
        assert shape == (2, encoder.dim) == (2, BACKBONES[name])
        assert encoder.spec.stem == ("small" if size <= 64 else "full")


@pytest.mark.parametrize(("name", "size"), [
    ("lenet5", 28), ("alexnet", 28), ("efficientnet_b0", 28), ("swin_tiny_patch4_window7_224", 28), ("convnext_atto", 28),
    ("lenet5", 224), ("mobilenetv3_small_100", 224), ("convnext_atto", 224),
])
def test_backbones_tell_images_apart(name, size):
    torch.manual_seed(0)
    encoder = create(name, 1, size).eval()
    with torch.no_grad():
        z = encoder(torch.randn(2, 1, size, size))
    assert z.isfinite().all()
    assert not torch.allclose(z[0], z[1])


@pytest.mark.parametrize(("size", "pools"), [(8, 3), (16, 4), (28, 4), (31, 4), (32, 5), (64, 5)])
def test_vgg_keeps_the_pools_that_leave_a_pixel(size, pools):
    """Five from 32 pixels on, as timm has it; below, each halving needs two pixels."""
    thin = {"mlp_ratio": 1 / 64}  # most of its weights stand behind the maps
    encoder = encoders.build(Spec("vgg11", 1, size, "small", thin)).eval()
    whole = encoders.build(Spec("vgg11", 1, 32, "full", thin)).eval()
    assert sum(isinstance(m, nn.MaxPool2d) for m in encoder.features) == pools
    whole.load_state_dict(encoder.state_dict())  # pools have no weights
    if pools == 5:
        x = torch.randn(2, 1, size, size)
        assert torch.equal(encoder(x), whole(x))
    with torch.no_grad():
        assert min(encoder.features(torch.randn(2, 1, size, size)).shape[-2:]) == max(1, size // 32)


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


@pytest.mark.parametrize(("arguments", "message"), [
    (("resnet81", 3, 32), r"encoder=resnet81: no such timm model or file; did you mean resnet18"),
    (("smal", 3, 32), r"encoder=smal: no such .*did you mean small"),
    (("xyzzy#", 3, 32), "encoder=xyzzy#: no such timm model or file; any timm model name works"),
    (("resnet18", 3, 32, "tiny"), "stem=tiny: there are auto, small, half, full"),
    (("inception_v3", 3, 32), "encoder=inception_v3 does not take 32 px images"),
])
def test_mistakes_are_told_in_one_line(arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
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


# ---------------------------------------------------------------------------------------------------- published weights


MODELS = {  # a small convolutional model; a transformer whose arguments the folder's config.json has to tell
    "mobilenetv3_small_050": {}, "vit_tiny_patch16_224": {"img_size": 32, "patch_size": 8, "depth": 2},
}


def publish(name: str, folder) -> nn.Module:
    """A trained classifier of timm's in a folder, as timm pushes it to the Hub."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5, **MODELS[name]).eval()
    for x in model.state_dict().values():
        if x.is_floating_point():
            x.copy_(x + 0.02 * torch.rand_like(x))
    save_for_hf(model, folder, model_args=MODELS[name], safe_serialization=True)
    written = json.loads((folder / "config.json").read_text())
    written["pretrained_cfg"] |= {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    (folder / "config.json").write_text(json.dumps(written))
    return model


@pytest.mark.parametrize("name", MODELS)
def test_a_local_folder_of_timms_is_an_encoder(tmp_path, name):
    model = publish(name, tmp_path)
    encoder = create(f"local-dir:{tmp_path}", 3, 32, pretrained=True).eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(encoder(x), model.forward_head(model.forward_features(x), pre_logits=True))
    assert encoder.spec.name == name
    again = encoders.build(Spec(**encoder.spec.json)).eval()  # anywhere, without the folder
    again.load_state_dict(encoder.state_dict())
    assert torch.equal(again(x), encoder(x))

    grey = create(f"local-dir:{tmp_path}", 1, 32, pretrained=True).eval()
    torch.testing.assert_close(grey(x[:, :1]), encoder(x[:, :1].expand(-1, 3, -1, -1)))  # timm sums over colors
    wide = create(f"local-dir:{tmp_path}", 3, 64, pretrained=True)  # timm interpolates positions
    assert wide(torch.zeros(2, 3, 64, 64)).shape == (2, encoder.dim)


def test_attention_comes_on_top_of_published_weights(tmp_path):
    model = publish("mobilenetv3_small_050", tmp_path)
    state = create(f"local-dir:{tmp_path}", 3, 32, pretrained=True, attention="cbam").state_dict()
    kept = [name for name in model.state_dict() if not name.startswith("classifier.")]
    assert all(torch.equal(state[name], model.state_dict()[name]) for name in kept)


def test_a_hub_name_is_an_encoder(tmp_path, monkeypatch):
    """From the Hub's own cache, without a network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    revision = "0" * 40
    snapshot = tmp_path / "models--someone--small" / "snapshots" / revision
    snapshot.mkdir(parents=True)
    (tmp_path / "models--someone--small" / "refs").mkdir()
    (tmp_path / "models--someone--small" / "refs" / "main").write_text(revision)
    model = publish("mobilenetv3_small_050", snapshot)
    encoder = create("hf-hub:someone/small", 3, 32, pretrained=True)
    assert torch.equal(encoder.conv_head.weight, model.conv_head.weight)
    assert encoders.pretrained_input("hf-hub:someone/small") == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 224)
    with pytest.raises(ValueError, match=r"encoder=hf-hub:someone/else: cannot read its config\.json") as caught:
        create("hf-hub:someone/else", 3, 32, pretrained=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [
    "resnet18", "resnet18.a1_in1k", "vit_tiny_patch16_224", "vit_small_patch14_dinov2.lvd142m", "convnext_atto.d2_in1k",
])
def test_the_input_of_published_weights_is_timms(name):
    config = resolve_model_data_config(timm.create_model(name))
    assert encoders.pretrained_input(name) == (config["mean"], config["std"], config["input_size"][-1])


def test_a_local_folders_input_is_its_configs(tmp_path):
    publish("vit_tiny_patch16_224", tmp_path)
    assert encoders.pretrained_input(f"local-dir:{tmp_path}") == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 32)


@pytest.mark.parametrize("name", ["small", "lenet5", "resnet19", "vit_tiny_patch16_18"])
def test_without_published_weights_there_is_no_input_of_theirs(name):
    assert encoders.pretrained_input(name) is None


def test_mistakes_about_published_weights_are_told_in_one_line(tmp_path):
    publish("mobilenetv3_small_050", tmp_path)
    name = f"local-dir:{tmp_path}"
    cases = {
        "add pretrained=true": lambda: create(name, 3, 32),
        r"cannot read its config\.json": lambda: create("local-dir:nowhere", 3, 32, pretrained=True),
        "sources are hf-hub:owner/model and local-dir:path": lambda: create("http://x/y", 3, 32, pretrained=True),
        "encoder=small has no published weights": lambda: create("small", 3, 32, pretrained=True),
        "No pretrained weights exist for lenet5": lambda: create("lenet5", 3, 32, pretrained=True),
        "encoder=resnet18.x: timm has no such weights; there are .*resnet18.a1_in1k":
            lambda: encoders.pretrained_input("resnet18.x"),
    }
    (tmp_path / "model.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes()[:-1000])
    cases["encoder=mobilenetv3_small_050: timm cannot fetch or build it"] = lambda: create(name, 3, 32, pretrained=True)
    for message, mistake in cases.items():
        with pytest.raises(ValueError, match=message) as caught:
            mistake()
        assert "\n" not in str(caught.value), message


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
