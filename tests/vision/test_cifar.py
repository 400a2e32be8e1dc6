"""The distillation literature's networks: the published sizes, their equations on torch's functions, and timm's interface."""
import pytest
import safetensors.torch
import timm
import torch
import torch.nn.functional as F

from vision import artifact, cifar, encoders
from vision.augment import Augmentation

COUNTS = {  # parameters of RepDistiller's networks for CIFAR-100
    "cifar_resnet20": 278_324, "cifar_resnet56": 861_620, "cifar_resnet8x4": 1_233_540, "cifar_resnet32x4": 7_433_860,
    "cifar_wrn16_2": 703_284, "cifar_wrn40_1": 569_780, "cifar_wrn40_2": 2_255_156,
    "cifar_vgg8": 3_965_028, "cifar_vgg13": 9_462_180, "cifar_mobilenetv2": 812_836,
}
STAGES = {  # channels and sides at 32 pixels, of the maps and of the features
    "cifar_resnet20": ([(16, 32), (32, 16), (64, 8)], 64), "cifar_resnet56": ([(16, 32), (32, 16), (64, 8)], 64),
    "cifar_resnet8x4": ([(64, 32), (128, 16), (256, 8)], 256), "cifar_resnet32x4": ([(64, 32), (128, 16), (256, 8)], 256),
    "cifar_wrn16_2": ([(32, 32), (64, 16), (128, 8)], 128), "cifar_wrn40_1": ([(16, 32), (32, 16), (64, 8)], 64),
    "cifar_wrn40_2": ([(32, 32), (64, 16), (128, 8)], 128),
    "cifar_vgg8": ([(64, 32), (128, 16), (256, 8), (512, 4), (512, 4)], 512),
    "cifar_vgg13": ([(64, 32), (128, 16), (256, 8), (512, 4), (512, 4)], 512),
    "cifar_mobilenetv2": ([(12, 16), (16, 8), (48, 4), (160, 2)], 1280),
}
FAMILIES = ["cifar_resnet8x4", "cifar_wrn16_2", "cifar_vgg8", "cifar_mobilenetv2"]


@torch.no_grad()
def moved(model):
    """Every weight and statistic drawn anew, so that one left at its first value shows; in evaluation mode."""
    for x in model.state_dict().values():
        if x.is_floating_point():
            x += 0.02 * torch.rand_like(x)
    return model.eval()


class Weights:
    """Layers on torch's functions, by their published names, each weight used once or more and none left over."""

    def __init__(self, model) -> None:
        self.w, self.used = model.state_dict(), set()

    def __contains__(self, name: str) -> bool:
        return f"{name}.weight" in self.w

    def get(self, name: str, required: bool = True):
        self.used |= {name} & set(self.w)
        return self.w[name] if required else self.w.get(name)

    def conv(self, x, name: str, stride: int = 1, groups: int = 1):
        kernel = self.get(f"{name}.weight")
        return F.conv2d(x, kernel, self.get(f"{name}.bias", False), stride, kernel.shape[-1] // 2, groups=groups)

    def norm(self, x, name: str):
        mean, var, scale, shift = (
            self.get(f"{name}.{part}")[:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        self.used.add(f"{name}.num_batches_tracked")
        return (x - mean) / (var + 1e-5).sqrt() * scale + shift

    def linear(self, x, name: str):
        return F.linear(x, self.get(f"{name}.weight"), self.get(f"{name}.bias"))


def resnet8x4_by_hand(w: Weights, x):
    maps, x = [], F.relu(w.norm(w.conv(x, "conv1"), "bn1"))
    for i, stride in ((1, 1), (2, 2), (3, 2)):
        at = f"layer{i}.0"  # 8 = 6·1 + 2: one block a stage
        y = F.relu(w.norm(w.conv(x, f"{at}.conv1", stride), f"{at}.bn1"))
        y = w.norm(w.conv(y, f"{at}.conv2"), f"{at}.bn2")
        x = F.relu(y + w.norm(w.conv(x, f"{at}.downsample.0", stride), f"{at}.downsample.1"))
        maps.append(x)
    return maps, w.linear(x.mean((2, 3)), "fc")


def wrn16_2_by_hand(w: Weights, x):
    maps, x = [], w.conv(x, "conv1")
    for i in (1, 2, 3):
        for j in (0, 1):  # 16 = 6·2 + 4: two blocks a stage
            at, stride = f"block{i}.layer.{j}", 2 if i > 1 and j == 0 else 1
            y = F.relu(w.norm(x, f"{at}.bn1"))
            x = w.conv(y, f"{at}.convShortcut", stride) if j == 0 else x
            y = F.relu(w.norm(w.conv(y, f"{at}.conv1", stride), f"{at}.bn2"))
            x = x + w.conv(y, f"{at}.conv2")
        maps.append(x)
    return maps, w.linear(F.relu(w.norm(x, "bn1")).mean((2, 3)), "fc")


def vgg8_by_hand(w: Weights, x):
    maps = []
    for i in range(5):
        x = F.relu(w.norm(w.conv(x, f"block{i}.0"), f"block{i}.1"))
        maps.append(x)
        x = F.max_pool2d(x, 2) if i < 3 else x
    return maps, w.linear(x.mean((2, 3)), "classifier")


def mobilenetv2_by_hand(w: Weights, x):
    maps, x = [], F.relu(w.norm(w.conv(x, "conv1.0", 2), "conv1.1"))
    for i, (count, stride) in enumerate([(1, 1), (2, 1), (3, 2), (4, 2), (3, 1), (3, 2), (1, 1)]):
        for j in range(count):
            at = f"blocks.{i}.{j}.conv"
            y = F.relu(w.norm(w.conv(x, f"{at}.0"), f"{at}.1"))
            y = F.relu(w.norm(w.conv(y, f"{at}.3", stride if j == 0 else 1, y.shape[1]), f"{at}.4"))
            y = w.norm(w.conv(y, f"{at}.6"), f"{at}.7")
            x = x + y if x.shape == y.shape else y
        maps += [x] if i in (1, 2, 4, 6) else []
    return maps, w.linear(F.relu(w.norm(w.conv(x, "conv2.0"), "conv2.1")).mean((2, 3)), "classifier.0")


@torch.no_grad()
@pytest.mark.parametrize(("name", "by_hand"), zip(
    FAMILIES, [resnet8x4_by_hand, wrn16_2_by_hand, vgg8_by_hand, mobilenetv2_by_hand], strict=True), ids=FAMILIES)
def test_it_is_the_published_network(name, by_hand):
    """Equations, and names of weights, as RepDistiller has them; in float64, so that any other order of sums is equal."""
    torch.manual_seed(0)
    model = moved(timm.create_model(name, num_classes=100).double())
    weights, x = Weights(model), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    maps, logits = by_hand(weights, x)
    assert weights.used == set(model.state_dict())
    torch.testing.assert_close(model(x), logits)
    torch.testing.assert_close(model.forward_intermediates(x, intermediates_only=True), maps)


@pytest.mark.parametrize("name", COUNTS)
def test_it_has_as_many_parameters_as_published(name):
    model = timm.create_model(name, num_classes=100)
    assert sum(p.numel() for p in model.parameters()) == COUNTS[name]


@torch.no_grad()
@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 32)])
def test_small_images_pass_whole(name, channels, size):
    """Any stem that `create` may choose leaves the network as it is; the maps and features have their sizes."""
    model = encoders.create(name, channels, size).eval()
    assert model.spec.stem == "small"
    assert repr(model) == repr(timm.create_model(name, num_classes=0, in_chans=channels).eval())
    stages, dim = STAGES[name]
    x = torch.randn(2, channels, size, size)
    assert model.dim == model.num_features == model.head_hidden_size == dim
    assert model(x).shape == (2, dim)
    last, maps = model.forward_intermediates(x)
    assert torch.equal(model.forward_head(last), model(x))
    for (width, side), info, found in zip(stages, model.feature_info, maps, strict=True):
        assert info["num_chs"] == width
        assert info["reduction"] == 32 // side
        cells = size
        for _ in range(info["reduction"].bit_length() - 1):  # a convolution rounds up, VGG's pools down
            cells = cells // 2 if "vgg" in name else -(-cells // 2)
        assert found.shape == (2, width, cells, cells)


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILIES)
def test_intermediates_are_as_the_model_notes_them(name):
    model = moved(timm.create_model(name, num_classes=0))
    x = torch.randn(2, 3, 32, 32)
    last, maps = model.forward_intermediates(x)
    assert torch.equal(last, model.forward_features(x))
    assert torch.equal(model.forward_head(last, pre_logits=True), model(x))
    named = {}
    hooks = [model.get_submodule(info["module"]).register_forward_hook(
        lambda module, _, out, name=info["module"]: named.update({name: out.clone()})) for info in model.feature_info]
    model(x)
    for hook in hooks:
        hook.remove()
    assert len(maps) == len(model.feature_info)
    for info, found in zip(model.feature_info, maps, strict=True):
        assert torch.equal(found, named[info["module"]])
    stopped, wanted = model.forward_intermediates(x, indices=[1], stop_early=True)
    assert torch.equal(stopped, maps[1])
    assert [torch.equal(m, maps[1]) for m in wanted] == [True]
    only = model.forward_intermediates(x, indices=2, intermediates_only=True)
    assert [torch.equal(a, b) for a, b in zip(only, maps[-2:], strict=True)] == [True, True]
    through, _ = model.forward_intermediates(x, indices=1, stop_early=True)  # the last stage: nothing to spare
    assert torch.equal(through, last)


@torch.no_grad()
@pytest.mark.parametrize("name", ["cifar_resnet20", "cifar_resnet8x4", "cifar_wrn16_2", "cifar_wrn40_1", "cifar_vgg8"])
def test_the_features_are_the_last_maps_mean(name):
    model = moved(timm.create_model(name, num_classes=0))
    x = torch.randn(2, 3, 32, 32)
    maps = model.forward_intermediates(x, norm=True, intermediates_only=True)
    assert torch.equal(maps[-1].mean((2, 3)), model(x))
    plain = model.forward_intermediates(x, intermediates_only=True)
    changed = [not torch.equal(a, b) for a, b in zip(plain, maps, strict=True)]
    assert changed == [False] * (len(maps) - 1) + ["wrn" in name]  # only WRN has a norm behind its last stage


@pytest.mark.parametrize("name", FAMILIES)
def test_it_starts_as_published(name):
    """Convolutions N(0, 2 / (k² · outputs)): on n weights the deviation's estimate errs by 1 / √(2n), five of which pass."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=0)
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            spread = (2 / (module.kernel_size[0] ** 2 * module.out_channels)) ** 0.5
            assert module.weight.std().item() == pytest.approx(spread, rel=5 / (2 * module.weight.numel()) ** 0.5)
            assert module.bias is None or not module.bias.any()
        elif isinstance(module, torch.nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert not module.bias.any()


@pytest.mark.parametrize("name", FAMILIES)
def test_every_weight_gets_a_gradient(name):
    """With all maps in the loss, as distillation has them: no activation in place spoils what another needs."""
    model = timm.create_model(name, num_classes=5)
    last, maps = model.forward_intermediates(torch.randn(4, 3, 32, 32), norm=True)
    (model.forward_head(last).square().sum() + sum(m.square().mean() for m in maps)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", FAMILIES)
def test_the_classifier_is_timms(name):
    assert set(timm.list_models(module="cifar")) == set(cifar.__all__) == set(COUNTS)
    model = timm.create_model(name, num_classes=7).eval()
    assert model.get_classifier() is model.get_submodule(timm.get_pretrained_cfg(name).classifier)
    x = torch.zeros(2, 3, 32, 32)
    assert model(x).shape == (2, 7)
    assert model.forward_head(model.forward_features(x), pre_logits=True).shape == (2, model.num_features)
    model.reset_classifier(3)
    assert (model.num_classes, model(x).shape) == (3, (2, 3))
    model.reset_classifier(0)
    assert model(x).shape == (2, model.num_features)
    assert list(model.state_dict()) == list(timm.create_model(name, num_classes=0).state_dict())


@pytest.mark.parametrize("attention", ["none", "cbam"])
@pytest.mark.parametrize("name", FAMILIES)
def test_files_and_snippets_bring_it_back(tmp_path, name, attention):
    path = tmp_path / "e.safetensors"
    encoder = moved(encoders.create(name, 1, 28, attention=attention))
    content = artifact.dumps(encoder, Augmentation(28, (0.5,), (0.25,)), {"tool": "test"})
    path.write_bytes(content)
    again, card = artifact.load(path)
    x = torch.randn(2, 1, 28, 28)
    assert torch.equal(again(x), encoder(x))
    assert artifact.dumps(again, Augmentation(28, (0.5,), (0.25,)), {"tool": "test"}) == content
    assert (card.spec, card.dim) == (encoder.spec, encoder.dim)

    text = artifact.snippet(card, str(path))
    assert text.startswith("from vision import cifar\nmodel = timm.create_model")
    assert "set_submodule" not in text
    names = {"timm": timm, "torch": torch, "safetensors": safetensors}
    exec(text, names)
    assert torch.equal(names["model"](x), encoder(x))
