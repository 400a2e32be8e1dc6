"""The distillation literature's small networks, in timm's registry: `timm.create_model("cifar_resnet20")` after this import.

Tian, Krishnan, Isola 2020, "Contrastive representation distillation", arXiv 1910.10699, and its code, RepDistiller; Zhao et
al. 2022, "Decoupled knowledge distillation", arXiv 2203.08679, takes the same. At 32 pixels the networks are theirs, with
their weights' names; at other sizes the mean is over the whole last map. Two things differ: a new classifier starts as torch
starts any linear layer, and VGG lacks the fourth pool that they use at 64 pixels alone.
"""
from collections import OrderedDict

import torch
import torch.nn.functional as F
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from vision.staged import Staged


class Pooled(Staged):
    """B,C,H,W → B,D, or B,K with classes: the modules of `path`, then the mean over positions and a linear classifier."""

    first_conv: str | None = "conv1"
    head: str = "fc"

    def finish(self, ends: list[tuple[str, int, int]], num_features: int, num_classes: int) -> None:
        """What every constructor does last.  ends: of each stage its name, its channels, and its step in pixels."""
        self.feature_info = [dict(num_chs=width, reduction=step, module=name) for name, width, step in ends]
        self.num_features = self.head_hidden_size = num_features
        self.reset_classifier(num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # norms are 1 and 0 already
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        self.num_classes = num_classes
        self.set_submodule(self.head, nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity())

    def get_classifier(self) -> nn.Module:
        return self.get_submodule(self.head)

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        x = x.mean((2, 3))  # B,D
        return x if pre_logits else self.get_classifier()(x)


def conv(before: int, width: int, side: int = 3, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, width, side, stride, side // 2, groups=groups, bias=False)


class Block(nn.Module):
    """B,C,H,W → B,width,H/stride,W/stride: two convolutions beside a shortcut, then the ReLU."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(before, width, 3, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width), nn.BatchNorm2d(width)
        self.downsample = nn.Identity()
        if (before, stride) != (width, 1):
            self.downsample = nn.Sequential(conv(before, width, 1, stride), nn.BatchNorm2d(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(out)) + self.downsample(x), inplace=True)


class PreBlock(nn.Module):
    """As Block, with norm and ReLU before each convolution. A projecting shortcut starts behind the first of them."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(before), conv(before, width, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(width), conv(width, width)
        self.convShortcut = conv(before, width, 1, stride) if before != width else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.bn1(x), inplace=True)
        shortcut = x if self.convShortcut is None else self.convShortcut(out)
        return shortcut + self.conv2(F.relu(self.bn2(self.conv1(out)), inplace=True))


class Inverted(nn.Module):
    """Pointwise to `factor` times the channels, depthwise, pointwise to `width`; beside a shortcut where shapes allow."""

    def __init__(self, before: int, width: int, stride: int, factor: int) -> None:
        super().__init__()
        inner = before * factor
        self.conv = nn.Sequential(
            conv(before, inner, 1), nn.BatchNorm2d(inner), nn.ReLU(inplace=True),
            conv(inner, inner, 3, stride, inner), nn.BatchNorm2d(inner), nn.ReLU(inplace=True),
            conv(inner, width, 1), nn.BatchNorm2d(width),
        )
        self.shortcut = (before, stride) == (width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(x) if self.shortcut else self.conv(x)


def stage(block: type[nn.Module], count: int, before: int, width: int, stride: int, *more) -> nn.Sequential:
    """`count` blocks, of which the first changes width and size."""
    first = block(before, width, stride, *more)
    return nn.Sequential(first, *(block(width, width, 1, *more) for _ in range(count - 1)))


class ResNet(Pooled):
    """He et al. 2015, arXiv 1512.03385, §4.2, depth 6n + 2, its shortcuts projecting where the width changes (option B).

    widths: of the stem and of the three stages.
    """

    path = ("conv1", "bn1", "relu", "layer1", "layer2", "layer3")

    def __init__(self, depth: int, widths: tuple[int, ...], num_classes: int = 100, in_chans: int = 3) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu = conv(in_chans, widths[0]), nn.BatchNorm2d(widths[0]), nn.ReLU(inplace=True)
        for i, stride in ((1, 1), (2, 2), (3, 2)):
            self.add_module(f"layer{i}", stage(Block, (depth - 2) // 6, widths[i - 1], widths[i], stride))
        self.finish([(f"layer{i}", widths[i], 2 ** (i - 1)) for i in (1, 2, 3)], widths[3], num_classes)


class WideResNet(Pooled):
    """Zagoruyko, Komodakis 2016, arXiv 1605.07146: WRN-depth-widen, depth 6n + 4, without dropout.

    The stages' maps are the sums, before norm and ReLU, as RepDistiller hands them to its methods.
    """

    path = ("conv1", "block1.layer", "block2.layer", "block3.layer", "bn1", "relu")
    norm = ("bn1", "relu")

    def __init__(self, depth: int, widen: int, num_classes: int = 100, in_chans: int = 3) -> None:
        super().__init__()
        widths = (16, 16 * widen, 32 * widen, 64 * widen)
        self.conv1 = conv(in_chans, 16)
        for i, stride in ((1, 1), (2, 2), (3, 2)):
            blocks = stage(PreBlock, (depth - 4) // 6, widths[i - 1], widths[i], stride)
            self.add_module(f"block{i}", nn.Sequential(OrderedDict(layer=blocks)))
        self.bn1, self.relu = nn.BatchNorm2d(widths[3]), nn.ReLU(inplace=True)
        self.finish([(f"block{i}.layer", widths[i], 2 ** (i - 1)) for i in (1, 2, 3)], widths[3], num_classes)


class VGG(Pooled):
    """Simonyan, Zisserman 2014, arXiv 1409.1556, with BatchNorm, three pools, and one linear layer.  count: layers a stage."""

    path = ("block0", "pool0", "block1", "pool1", "block2", "pool2", "block3", "block4")
    first_conv, head = "block0.0", "classifier"

    def __init__(self, count: int, num_classes: int = 100, in_chans: int = 3) -> None:
        super().__init__()
        before, widths = in_chans, (64, 128, 256, 512, 512)
        for i, width in enumerate(widths):
            layers = []
            for _ in range(count):
                layers += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
                before = width
            self.add_module(f"block{i}", nn.Sequential(*layers))
        self.pool0, self.pool1, self.pool2 = nn.MaxPool2d(2), nn.MaxPool2d(2), nn.MaxPool2d(2)
        self.finish([(f"block{i}", width, 2 ** min(i, 3)) for i, width in enumerate(widths)], 512, num_classes)


class MobileNetV2(Pooled):
    """Sandler et al. 2018, arXiv 1801.04381, with ReLU for ReLU6 and strides for 32 pixels: 32 → 16 → 8 → 4 → 2."""

    path = ("conv1", *(f"blocks.{i}" for i in range(7)), "conv2")
    first_conv = None  # so that a small stem leaves its stride, which is the published one, as it is
    head = "classifier.0"

    def __init__(self, scale: float, num_classes: int = 100, in_chans: int = 3) -> None:
        super().__init__()
        factors, counts, strides = (1, 6, 6, 6, 6, 6, 6), (1, 2, 3, 4, 3, 3, 1), (1, 1, 2, 2, 1, 2, 1)  # the paper's table 2
        stem, *widths = (int(scale * width) for width in (32, 16, 24, 32, 64, 96, 160, 320))
        self.conv1 = nn.Sequential(conv(in_chans, stem, 3, 2), nn.BatchNorm2d(stem), nn.ReLU(inplace=True))
        rows = zip(counts, [stem, *widths[:-1]], widths, strides, factors, strict=True)
        self.blocks = nn.Sequential(*(stage(Inverted, *row) for row in rows))
        self.conv2 = nn.Sequential(conv(widths[-1], 1280, 1), nn.BatchNorm2d(1280), nn.ReLU(inplace=True))
        self.classifier = nn.Sequential(nn.Identity())
        self.finish([(f"blocks.{i}", widths[i], step) for i, step in ((1, 2), (2, 4), (4, 8), (6, 16))], 1280, num_classes)


NETWORKS = {  # name: (class, its arguments)
    "cifar_resnet20": (ResNet, dict(depth=20, widths=(16, 16, 32, 64))),
    "cifar_resnet56": (ResNet, dict(depth=56, widths=(16, 16, 32, 64))),
    "cifar_resnet8x4": (ResNet, dict(depth=8, widths=(32, 64, 128, 256))),
    "cifar_resnet32x4": (ResNet, dict(depth=32, widths=(32, 64, 128, 256))),
    "cifar_wrn16_2": (WideResNet, dict(depth=16, widen=2)),
    "cifar_wrn40_1": (WideResNet, dict(depth=40, widen=1)),
    "cifar_wrn40_2": (WideResNet, dict(depth=40, widen=2)),
    "cifar_vgg8": (VGG, dict(count=1)),
    "cifar_vgg13": (VGG, dict(count=2)),
    "cifar_mobilenetv2": (MobileNetV2, dict(scale=0.5)),
}
default_cfgs = generate_default_cfgs({
    f"{name}.untrained": {
        "input_size": (3, 32, 32), "num_classes": 100, "first_conv": network.first_conv, "classifier": network.head,
    } for name, (network, _) in NETWORKS.items()
})


def entry(name: str):
    """What timm calls for a name."""
    network, arguments = NETWORKS[name]

    def create(pretrained: bool = False, **kwargs) -> Pooled:
        return build_model_with_cfg(network, name, pretrained, **arguments, **kwargs)

    create.__name__ = name
    return register_model(create)


globals().update({name: entry(name) for name in NETWORKS})  # `register_model` lists them in `__all__`
