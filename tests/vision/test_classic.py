"""LeNet-5 is the paper's, AlexNet torchvision's, and both are models in timm's sense."""
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision

from vision import classic, encoders


@pytest.fixture(scope="module")
def alexnets():
    """torchvision's, and ours with its weights, by their names."""
    torch.manual_seed(0)
    theirs = torchvision.models.alexnet(num_classes=10).eval()
    ours = timm.create_model("alexnet", num_classes=10).eval()
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


@torch.no_grad()
def lenet5_by_hand(model, x: torch.Tensor) -> torch.Tensor:
    """LeCun et al. 1998, §II.B, for an image of 32 × 32, on torch's functions.  → B,84"""
    def squash(a):
        return 1.7159 * torch.tanh(a * 2 / 3)

    w = model.state_dict()
    x = F.avg_pool2d(squash(F.conv2d(x, w["features.c1.weight"], w["features.c1.bias"])), 2)
    x = F.avg_pool2d(squash(F.conv2d(x, w["features.c3.weight"], w["features.c3.bias"])), 2)
    x = squash(F.conv2d(x, w["features.c5.weight"], w["features.c5.bias"]))
    assert x.shape[1:] == (120, 1, 1)
    return squash(F.linear(x.flatten(1), w["f6.weight"], w["f6.bias"]))


@torch.no_grad()
def test_lenet5_is_the_papers():
    model = timm.create_model("lenet5", num_classes=10, in_chans=1).eval()
    counts = {name: sum(p.numel() for p in module.parameters()) for name, module in model.named_modules()}
    # C1 156, C5 48,120 and F6 10,164 are the paper's own counts; C3 sees all of S2: 16·(6·25 + 1), of its 1,516
    assert [counts[f"features.{layer}"] for layer in ("c1", "c3", "c5")] + [counts["f6"]] == [156, 2416, 48120, 10164]
    x = torch.randn(3, 1, 32, 32)
    features = lenet5_by_hand(model, x)
    torch.testing.assert_close(model.forward_head(model.forward_features(x), pre_logits=True), features)
    torch.testing.assert_close(model(x), F.linear(features, model.output.weight, model.output.bias))


@torch.no_grad()
@pytest.mark.parametrize(("height", "width", "before"), [(28, 28, (2, 2)), (8, 8, (12, 12)), (31, 20, (0, 6))])
def test_lenet5_lays_small_images_in_the_middle_of_its_field(height, width, before):
    model = encoders.create("lenet5", 3, 32).eval()
    x = torch.randn(2, 3, height, width)
    field = torch.zeros(2, 3, 32, 32)
    field[:, :, before[0] : before[0] + height, before[1] : before[1] + width] = x
    assert torch.equal(model(x), model(field))


@torch.no_grad()
def test_lenet5_averages_the_positions_of_a_larger_image():
    """36 pixels: C5 at 2 × 2 places, each the field of 32 that starts 4 pixels on."""
    model = encoders.create("lenet5", 1, 36).eval()
    x = torch.randn(1, 1, 36, 36)
    c5 = torch.stack([model.features(x[..., i : i + 32, j : j + 32])[..., 0, 0] for i in (0, 4) for j in (0, 4)]).mean(0)
    torch.testing.assert_close(model(x), model.squash(model.f6(c5)))


@torch.no_grad()
@pytest.mark.parametrize("size", [224, 100])
def test_alexnet_is_torchvisions(alexnets, size):
    theirs, ours = alexnets
    x = torch.randn(2, 3, size, size)
    assert torch.equal(ours(x), theirs(x))
    assert torch.equal(ours.forward_head(ours.forward_features(x), pre_logits=True), theirs.classifier[:6](
        theirs.avgpool(theirs.features(x)).flatten(1)))
    assert [type(m) for m in ours.modules()][1:] == [type(m) for m in theirs.modules()][1:]  # dropout with the rest


def test_alexnets_published_weights_are_torchvisions():
    config = timm.get_pretrained_cfg("alexnet")
    assert config.url == torchvision.models.AlexNet_Weights.IMAGENET1K_V1.url
    assert (config.first_conv, config.classifier) == ("features.0", "classifier.6")
    transforms = torchvision.models.AlexNet_Weights.IMAGENET1K_V1.transforms()
    assert encoders.pretrained_input("alexnet") == (tuple(transforms.mean), tuple(transforms.std), transforms.crop_size[0])


def test_alexnets_weights_come_through_timms_loader(alexnets, tmp_path):
    """As published, for 1000 classes and color, into an encoder of grey images: timm sums the first convolution."""
    theirs, _ = alexnets
    torch.save(theirs.state_dict(), tmp_path / "alexnet.pth")
    ours = timm.create_model("alexnet", pretrained=True, num_classes=0, in_chans=1, pretrained_cfg_overlay={
        "file": str(tmp_path / "alexnet.pth"), "num_classes": 10}).eval()
    x = torch.randn(2, 1, 224, 224)
    with torch.no_grad():
        expected = theirs.classifier[:6](theirs.avgpool(theirs.features(x.expand(-1, 3, -1, -1))).flatten(1))
    torch.testing.assert_close(ours(x).detach(), expected)


@torch.no_grad()
@pytest.mark.parametrize("name", ["lenet5", "alexnet"])
def test_intermediates_are_as_the_model_notes_them(name):
    model = timm.create_model(name, num_classes=0).eval()
    x = torch.randn(1, 3, 224, 224)
    last, maps = model.forward_intermediates(x)
    assert torch.equal(last, model.forward_features(x))
    named = {}
    hooks = [model.get_submodule(info["module"]).register_forward_hook(
        lambda module, _, out, name=info["module"]: named.update({name: out.clone()})) for info in model.feature_info]
    model(x)
    for hook in hooks:
        hook.remove()
    for info, found in zip(model.feature_info, maps, strict=True):
        assert torch.equal(found, named[info["module"]])
        assert found.shape[1] == info["num_chs"]
        assert abs(224 / info["reduction"] - found.shape[-1]) <= 7  # LeNet's unpadded windows cost 4, 6, 7 cells
    stopped, wanted = model.forward_intermediates(x, indices=[1], stop_early=True)
    assert torch.equal(stopped, maps[1])
    assert [torch.equal(m, maps[1]) for m in wanted] == [True]
    only = model.forward_intermediates(x, indices=2, intermediates_only=True)
    assert [m.shape for m in only] == [m.shape for m in maps[1:]]


@pytest.mark.parametrize("name", ["lenet5", "alexnet"])
def test_the_classifier_is_timms(name):
    assert name in timm.list_models(module="classic") == sorted(classic.__all__)
    model = timm.create_model(name, num_classes=7)
    classifier = timm.get_pretrained_cfg(name).classifier
    assert model.get_classifier() is model.get_submodule(classifier)
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 7)
    model.reset_classifier(0)
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, model.head_hidden_size)
